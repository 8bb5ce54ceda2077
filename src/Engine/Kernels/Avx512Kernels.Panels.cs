using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Matrix products: a register holds 4 columns of 16 rows; four bytes of a token are broadcast against it. While a panel is computed one further on is asked for, so that
/// arithmetic and memory overlap.
/// </summary>
internal sealed unsafe partial class Avx512Kernels
{
    public override void Panels(WeightFormat format, byte* panels, int from, int to, int rows, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, byte* next = null, bool add = false)
    {
        int panelBytes = WeightLayout.PanelBytes(format, cols);
        int each = format is WeightFormat.Q4 or WeightFormat.Q4B or WeightFormat.Q4K ? 2 : 1;
        int distance = PanelsAhead(panelBytes, each, to - from);
        float* scratch = stackalloc float[2 * FourBit.ScratchFloats];
        for (int p = from; p < to; p += each)
        {
            byte* panel = panels + (long)p * panelBytes;
            int first = p * WeightLayout.PanelRows, valid = Math.Min(Math.Min(each, to - p) * WeightLayout.PanelRows, rows - first);
            if (valid <= 0) return;
            nint ahead = Ahead(panels, p, to, distance, panelBytes, next);
            switch (format)
            {
                case WeightFormat.F32: FloatPanel<StoredF32>(panel, WeightLayout.RowBytes(format, cols), valid, cols, x, xStride, tokens, y + first, yStride, add); break;
                case WeightFormat.BF16: FloatPanel<StoredBF16>(panel, WeightLayout.RowBytes(format, cols), valid, cols, x, xStride, tokens, y + first, yStride, add); break;
                case WeightFormat.Q8: Q8Panel(panel, ahead, valid, cols, x, xStride, tokens, y + first, yStride, add); break;
                case WeightFormat.Q4: Q4Panels<FormA>(panel, panelBytes, ahead, valid, cols, x, xStride, tokens, y + first, yStride, scratch, add); break;
                case WeightFormat.Q4B: Q4Panels<FormB>(panel, panelBytes, ahead, valid, cols, x, xStride, tokens, y + first, yStride, scratch, add); break;
                case WeightFormat.Q4K: Q4Panels<FormK>(panel, panelBytes, ahead, valid, cols, x, xStride, tokens, y + first, yStride, scratch, add); break;
                default: throw new ArgumentOutOfRangeException(nameof(format));
            }
        }
    }

    /// <summary>One panel or two: what is broadcast of a token serves both.</summary>
    private static void Q4Panels<TForm>(byte* panel, nint second, nint ahead, int valid, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, float* scratch, bool add) where TForm : struct, IFourBit
    {
        if (valid > WeightLayout.PanelRows) Q4Tokens<Pair<Tile1>, Pair<Tile2>, Pair<Tile4>, TForm>(panel, second, ahead, valid, cols, x, xStride, tokens, y, yStride, scratch, add);
        else Q4Tokens<Tile1, Tile2, Tile4, TForm>(panel, 0, ahead, valid, cols, x, xStride, tokens, y, yStride, scratch, add);
    }

    private static void Q4Tokens<TOne, TTwo, TFour, TForm>(byte* panel, nint second, nint ahead, int valid, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, float* scratch, bool add)
        where TOne : struct, ITile where TTwo : struct, ITile where TFour : struct, ITile where TForm : struct, IFourBit
    {
        int t = 0;
        for (; t + 4 <= tokens; t += 4) Q4Tile<TFour, TForm>(panel, second, ahead, valid, cols, x + t * xStride, xStride, y + t * yStride, yStride, scratch, add);
        if (t + 2 <= tokens)
        {
            Q4Tile<TTwo, TForm>(panel, second, ahead, valid, cols, x + t * xStride, xStride, y + t * yStride, yStride, scratch, add);
            t += 2;
        }
        if (t < tokens) Q4Tile<TOne, TForm>(panel, second, ahead, valid, cols, x + t * xStride, xStride, y + t * yStride, yStride, scratch, add);
    }

    /// <summary>
    /// Nibble times int8 sums two products in int16, at most 2 * 15 * 127 = 3810; the eight steps of a block reach 30 480 and fit, so int16 is widened once a block.
    /// f, s: sums of the first panel's rows; g, u: of the second's.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q4Tile<TTile, TForm>(byte* panel, nint second, nint ahead, int valid, int cols, byte* x, nint xStride, float* y, nint yStride, float* scratch, bool add)
        where TTile : struct, ITile where TForm : struct, IFourBit
    {
        byte* x1 = x + (TTile.Tokens > 1 ? xStride : 0), x2 = x + (TTile.Tokens > 2 ? 2 * xStride : 0), x3 = x + (TTile.Tokens > 3 ? 3 * xStride : 0);
        byte* parameters = panel + cols * 8;
        int each = WeightLayout.PanelRows * WeightLayout.ParameterBytes(TForm.Format);
        Vector512<byte> nibble = Vector512.Create((byte)15);
        Vector512<float> f0 = default, f1 = default, f2 = default, f3 = default, g0 = default, g1 = default, g2 = default, g3 = default;
        int blocks = cols / WeightLayout.Block;
        for (int block = 0; block < blocks; block++, panel += 256)
        {
            Vector512<short> s0 = default, s1 = default, s2 = default, s3 = default, u0 = default, u1 = default, u2 = default, u3 = default;
            byte* c0 = x + block * WeightLayout.Block, c1 = x1 + block * WeightLayout.Block, c2 = x2 + block * WeightLayout.Block, c3 = x3 + block * WeightLayout.Block;
            // By hand: the JIT does not unroll it, and that costs 6 %.
            Q4Step<TTile>(panel, second, ahead, nibble, c0, c1, c2, c3, ref s0, ref s1, ref s2, ref s3, ref u0, ref u1, ref u2, ref u3);
            Q4Step<TTile>(panel + 64, second, ahead, nibble, c0 + 4, c1 + 4, c2 + 4, c3 + 4, ref s0, ref s1, ref s2, ref s3, ref u0, ref u1, ref u2, ref u3);
            Q4Step<TTile>(panel + 128, second, ahead, nibble, c0 + 8, c1 + 8, c2 + 8, c3 + 8, ref s0, ref s1, ref s2, ref s3, ref u0, ref u1, ref u2, ref u3);
            Q4Step<TTile>(panel + 192, second, ahead, nibble, c0 + 12, c1 + 12, c2 + 12, c3 + 12, ref s0, ref s1, ref s2, ref s3, ref u0, ref u1, ref u2, ref u3);
            Q4Blocks<TTile, TForm>(parameters, each, ahead, block, blocks, scratch, x + cols, x1 + cols, x2 + cols, x3 + cols, s0, s1, s2, s3, ref f0, ref f1, ref f2, ref f3);
            if (TTile.Panels > 1)
                Q4Blocks<TTile, TForm>(parameters + second, each, ahead, block, blocks, scratch + FourBit.ScratchFloats, x + cols, x1 + cols, x2 + cols, x3 + cols, u0, u1, u2, u3, ref g0, ref g1, ref g2, ref g3);
        }
        StoreTokens<TTile>(f0, f1, f2, f3, y, yStride, Math.Min(valid, WeightLayout.PanelRows), add);
        if (TTile.Panels > 1) StoreTokens<TTile>(g0, g1, g2, g3, y + WeightLayout.PanelRows, yStride, valid - WeightLayout.PanelRows, add);
    }

    /// <summary>Columns k..k+3 and k+16..k+19 of the panels' rows, and of each token.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Q4Step<TTile>(byte* panel, nint second, nint ahead, Vector512<byte> nibble, byte* x0, byte* x1, byte* x2, byte* x3,
        ref Vector512<short> s0, ref Vector512<short> s1, ref Vector512<short> s2, ref Vector512<short> s3, ref Vector512<short> u0, ref Vector512<short> u1, ref Vector512<short> u2, ref Vector512<short> u3)
        where TTile : struct, ITile
    {
        Sse.Prefetch1(panel + ahead);
        Vector512<byte> w = Vector512.Load(panel), low = w & nibble, high = (w.AsUInt16() >> 4).AsByte() & nibble, low2 = default, high2 = default;
        if (TTile.Panels > 1)
        {
            Sse.Prefetch1(panel + second + ahead);
            w = Vector512.Load(panel + second);
            low2 = w & nibble;
            high2 = (w.AsUInt16() >> 4).AsByte() & nibble;
        }
        Q4Token<TTile>(low, high, low2, high2, x0, ref s0, ref u0);
        if (TTile.Tokens > 1) Q4Token<TTile>(low, high, low2, high2, x1, ref s1, ref u1);
        if (TTile.Tokens > 2) Q4Token<TTile>(low, high, low2, high2, x2, ref s2, ref u2);
        if (TTile.Tokens > 3) Q4Token<TTile>(low, high, low2, high2, x3, ref s3, ref u3);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Q4Token<TTile>(Vector512<byte> low, Vector512<byte> high, Vector512<byte> low2, Vector512<byte> high2, byte* x, ref Vector512<short> s, ref Vector512<short> u) where TTile : struct, ITile
    {
        Vector512<sbyte> a = Four(x), b = Four(x + 16);
        s += Avx512BW.MultiplyAddAdjacent(low, a) + Avx512BW.MultiplyAddAdjacent(high, b);
        if (TTile.Panels > 1) u += Avx512BW.MultiplyAddAdjacent(low2, a) + Avx512BW.MultiplyAddAdjacent(high2, b);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Q4Blocks<TTile, TForm>(byte* parameters, int each, nint ahead, int block, int blocks, float* scratch, byte* x0, byte* x1, byte* x2, byte* x3,
        Vector512<short> s0, Vector512<short> s1, Vector512<short> s2, Vector512<short> s3, ref Vector512<float> f0, ref Vector512<float> f1, ref Vector512<float> f2, ref Vector512<float> f3)
        where TTile : struct, ITile where TForm : struct, IFourBit
    {
        Sse.Prefetch1(parameters + block * each + ahead);
        TForm.Begin16(parameters, block, scratch);
        Vector512<float> scale = TForm.Scale16(parameters, block, scratch), minimum = TForm.Minimum16(parameters, block, scratch);
        f0 = Q4Block<TForm>(s0, scale, minimum, x0, block, blocks, f0);
        if (TTile.Tokens > 1) f1 = Q4Block<TForm>(s1, scale, minimum, x1, block, blocks, f1);
        if (TTile.Tokens > 2)
        {
            f2 = Q4Block<TForm>(s2, scale, minimum, x2, block, blocks, f2);
            f3 = Q4Block<TForm>(s3, scale, minimum, x3, block, blocks, f3);
        }
    }

    /// <summary>Sixteen rows: form A's offset of 8 leaves through the block's activation sum, still in integers; a minimum is added by the same sum, in float.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Q4Block<TForm>(Vector512<short> sums, Vector512<float> scale, Vector512<float> minimum, byte* xScales, int block, int blocks, Vector512<float> acc)
        where TForm : struct, IFourBit
    {
        Vector512<int> wide = Avx512BW.MultiplyAddAdjacent(sums, Vector512<short>.One), sumX = Vector512.Create(((int*)xScales)[blocks + block]);
        Vector512<float> scaleX = Vector512.Create(((float*)xScales)[block]);
        if (!TForm.HasMinimum) return Mad(Avx512F.ConvertToVector512Single(wide - (sumX << 3)), scale * scaleX, acc);
        return Mad(Avx512F.ConvertToVector512Single(sumX), minimum * scaleX, Mad(Avx512F.ConvertToVector512Single(wide), scale * scaleX, acc));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreTokens<TTile>(Vector512<float> f0, Vector512<float> f1, Vector512<float> f2, Vector512<float> f3, float* y, nint yStride, int valid, bool add) where TTile : struct, ITile
    {
        StoreRows(f0, y, valid, add);
        if (TTile.Tokens > 1) StoreRows(f1, y + yStride, valid, add);
        if (TTile.Tokens > 2) StoreRows(f2, y + 2 * yStride, valid, add);
        if (TTile.Tokens > 3) StoreRows(f3, y + 3 * yStride, valid, add);
    }

    private static void Q8Panel(byte* panel, nint ahead, int valid, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, bool add)
    {
        int t = 0;
        for (; t + 4 <= tokens; t += 4) Q8Tile<Tile4>(panel, ahead, valid, cols, x + t * xStride, xStride, y + t * yStride, yStride, add);
        if (t + 2 <= tokens)
        {
            Q8Tile<Tile2>(panel, ahead, valid, cols, x + t * xStride, xStride, y + t * yStride, yStride, add);
            t += 2;
        }
        if (t < tokens) Q8Tile<Tile1>(panel, ahead, valid, cols, x + t * xStride, xStride, y + t * yStride, yStride, add);
    }

    /// <summary>|w| times x with w's sign: two products sum to at most 2 * 127 * 127 in int16, so every step is widened.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q8Tile<TTile>(byte* panel, nint ahead, int valid, int cols, byte* x, nint xStride, float* y, nint yStride, bool add) where TTile : struct, ITile
    {
        byte* x1 = x + (TTile.Tokens > 1 ? xStride : 0), x2 = x + (TTile.Tokens > 2 ? 2 * xStride : 0), x3 = x + (TTile.Tokens > 3 ? 3 * xStride : 0);
        ushort* scales = (ushort*)(panel + cols * 16);
        Vector512<float> f0 = default, f1 = default, f2 = default, f3 = default;
        int blocks = cols / WeightLayout.Block;
        for (int block = 0; block < blocks; block++, panel += 512, scales += 16)
        {
            Vector512<int> s0 = default, s1 = default, s2 = default, s3 = default;
            nint column = block * WeightLayout.Block;
            for (int step = 0; step < 8; step++, column += 4)
            {
                Sse.Prefetch1(panel + step * 64 + ahead);
                Vector512<sbyte> w = Vector512.Load((sbyte*)panel + step * 64);
                Vector512<sbyte> negative = Vector512.LessThan(w, Vector512<sbyte>.Zero);
                Vector512<byte> magnitude = Avx512BW.Abs(w);
                s0 += Q8Step(magnitude, negative, Four(x + column));
                if (TTile.Tokens > 1) s1 += Q8Step(magnitude, negative, Four(x1 + column));
                if (TTile.Tokens > 2) s2 += Q8Step(magnitude, negative, Four(x2 + column));
                if (TTile.Tokens > 3) s3 += Q8Step(magnitude, negative, Four(x3 + column));
            }
            Sse.Prefetch1((byte*)scales + ahead);
            Vector512<float> scale = StoredF16.Sixteen((byte*)scales, 0);
            f0 = Q8Block(s0, scale, x + cols, block, f0);
            if (TTile.Tokens > 1) f1 = Q8Block(s1, scale, x1 + cols, block, f1);
            if (TTile.Tokens > 2) f2 = Q8Block(s2, scale, x2 + cols, block, f2);
            if (TTile.Tokens > 3) f3 = Q8Block(s3, scale, x3 + cols, block, f3);
        }
        StoreTokens<TTile>(f0, f1, f2, f3, y, yStride, valid, add);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Q8Step(Vector512<byte> magnitude, Vector512<sbyte> negative, Vector512<sbyte> x) =>
        Avx512BW.MultiplyAddAdjacent(Avx512BW.MultiplyAddAdjacent(magnitude, (x ^ negative) - negative), Vector512<short>.One);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Q8Block(Vector512<int> sums, Vector512<float> scale, byte* xScales, int block, Vector512<float> acc) =>
        Mad(Avx512F.ConvertToVector512Single(sums), scale * Vector512.Create(((float*)xScales)[block]), acc);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<sbyte> Four(byte* x) => Vector512.Create(*(int*)x).AsSByte();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreRows(Vector512<float> sums, float* y, int valid, bool add)
    {
        if (valid == WeightLayout.PanelRows) (add ? Vector512.Load(y) + sums : sums).Store(y);
        else StoreSome(sums, y, valid, add);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void StoreSome(Vector512<float> sums, float* y, int valid, bool add)
    {
        for (int r = 0; r < valid; r++) y[r] = add ? y[r] + sums[r] : sums[r];
    }

    /// <summary>Rows one after another: tiles of 4 rows by 4 tokens, then 4 rows by 1; a missing row is computed as its neighbour and not stored.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FloatPanel<T>(byte* panel, nint rowBytes, int valid, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, bool add) where T : struct, IStored
    {
        for (int r = 0; r < valid; r += 4)
        {
            byte* r0 = panel + r * rowBytes, r1 = panel + Math.Min(r + 1, valid - 1) * rowBytes;
            byte* r2 = panel + Math.Min(r + 2, valid - 1) * rowBytes, r3 = panel + Math.Min(r + 3, valid - 1) * rowBytes;
            int t = 0;
            for (; t + 4 <= tokens && cols % 16 == 0; t += 4)
                FloatTile<T>(r0, r1, r2, r3, cols, x + t * xStride, xStride, y + t * yStride + r, yStride, valid - r, add);
            for (; t < tokens; t++)
            {
                float* xt = (float*)(x + t * xStride);
                StoreFour(Dot4<T>(r0, r1, r2, r3, xt, xt, xt, xt, cols), y + t * yStride + r, valid - r, add);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FloatTile<T>(byte* r0, byte* r1, byte* r2, byte* r3, int cols, byte* x, nint xStride, float* y, nint yStride, int valid, bool add) where T : struct, IStored
    {
        Vector512<float> a00 = default, a01 = default, a02 = default, a03 = default, a10 = default, a11 = default, a12 = default, a13 = default;
        Vector512<float> a20 = default, a21 = default, a22 = default, a23 = default, a30 = default, a31 = default, a32 = default, a33 = default;
        float* x0 = (float*)x, x1 = (float*)(x + xStride), x2 = (float*)(x + 2 * xStride), x3 = (float*)(x + 3 * xStride);
        for (int k = 0; k < cols; k += 16)
        {
            Vector512<float> w0 = T.Sixteen(r0, k), w1 = T.Sixteen(r1, k), w2 = T.Sixteen(r2, k), w3 = T.Sixteen(r3, k);
            Vector512<float> v = Vector512.Load(x0 + k);
            a00 = Mad(w0, v, a00); a01 = Mad(w1, v, a01); a02 = Mad(w2, v, a02); a03 = Mad(w3, v, a03);
            v = Vector512.Load(x1 + k);
            a10 = Mad(w0, v, a10); a11 = Mad(w1, v, a11); a12 = Mad(w2, v, a12); a13 = Mad(w3, v, a13);
            v = Vector512.Load(x2 + k);
            a20 = Mad(w0, v, a20); a21 = Mad(w1, v, a21); a22 = Mad(w2, v, a22); a23 = Mad(w3, v, a23);
            v = Vector512.Load(x3 + k);
            a30 = Mad(w0, v, a30); a31 = Mad(w1, v, a31); a32 = Mad(w2, v, a32); a33 = Mad(w3, v, a33);
        }
        StoreFour(Fold4(a00, a01, a02, a03), y, valid, add);
        StoreFour(Fold4(a10, a11, a12, a13), y + yStride, valid, add);
        StoreFour(Fold4(a20, a21, a22, a23), y + 2 * yStride, valid, add);
        StoreFour(Fold4(a30, a31, a32, a33), y + 3 * yStride, valid, add);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreFour(Vector128<float> sums, float* y, int valid, bool add = false) => Avx2Kernels.StoreFour(sums, y, valid, add);
}
