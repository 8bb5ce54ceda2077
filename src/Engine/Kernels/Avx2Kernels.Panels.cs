using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Matrix products: a register holds 4 columns of 8 rows, so a panel is done in two halves; four bytes of a token are broadcast against it. While a panel is computed one
/// further on is asked for, so that arithmetic and memory overlap.
/// </summary>
internal sealed unsafe partial class Avx2Kernels
{
    public override void Panels(WeightFormat format, byte* panels, int from, int to, int rows, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, byte* next = null, bool add = false)
    {
        int panelBytes = WeightLayout.PanelBytes(format, cols);
        int distance = PanelsAhead(panelBytes, 1, to - from);
        float* scratch = stackalloc float[FourBit.ScratchFloats];
        for (int p = from; p < to; p++)
        {
            byte* panel = panels + (long)p * panelBytes;
            int first = p * WeightLayout.PanelRows, valid = Math.Min(WeightLayout.PanelRows, rows - first);
            if (valid <= 0) return;
            nint ahead = Ahead(panels, p, to, distance, panelBytes, next);
            if (format == WeightFormat.F32) FloatPanel<StoredF32>(panel, WeightLayout.RowBytes(format, cols), valid, cols, x, xStride, tokens, y + first, yStride, add);
            else if (format == WeightFormat.BF16) FloatPanel<StoredBF16>(panel, WeightLayout.RowBytes(format, cols), valid, cols, x, xStride, tokens, y + first, yStride, add);
            else
                // A tile of tokens first, then the other half: the half panel is in L1 for the next tile.
                for (int half = 0; half < valid; half += 8)
                {
                    int t = 0;
                    for (; t + 4 <= tokens; t += 4) Tile<Tile4>(format, panel, ahead, half, valid - half, cols, x + t * xStride, xStride, y + t * yStride + first + half, yStride, scratch, add);
                    if (t + 2 <= tokens)
                    {
                        Tile<Tile2>(format, panel, ahead, half, valid - half, cols, x + t * xStride, xStride, y + t * yStride + first + half, yStride, scratch, add);
                        t += 2;
                    }
                    if (t < tokens) Tile<Tile1>(format, panel, ahead, half, valid - half, cols, x + t * xStride, xStride, y + t * yStride + first + half, yStride, scratch, add);
                }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Tile<TTile>(WeightFormat format, byte* panel, nint ahead, int half, int valid, int cols, byte* x, nint xStride, float* y, nint yStride, float* scratch, bool add)
        where TTile : struct, ITile
    {
        switch (format)
        {
            case WeightFormat.Q8: Q8Tile<TTile>(panel, ahead, half, valid, cols, x, xStride, y, yStride, add); break;
            case WeightFormat.Q4: Q4Tile<TTile, FormA>(panel, ahead, half, valid, cols, x, xStride, y, yStride, scratch, add); break;
            case WeightFormat.Q4B: Q4Tile<TTile, FormB>(panel, ahead, half, valid, cols, x, xStride, y, yStride, scratch, add); break;
            case WeightFormat.Q4K: Q4Tile<TTile, FormK>(panel, ahead, half, valid, cols, x, xStride, y, yStride, scratch, add); break;
            default: throw new ArgumentOutOfRangeException(nameof(format));
        }
    }

    /// <summary>
    /// Nibble times int8 sums two products in int16, at most 2 * 15 * 127 = 3810; the eight steps of a block reach 30 480 and fit, so int16 is widened once a block.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q4Tile<TTile, TForm>(byte* panel, nint ahead, int half, int valid, int cols, byte* x, nint xStride, float* y, nint yStride, float* scratch, bool add)
        where TTile : struct, ITile where TForm : struct, IFourBit
    {
        byte* x1 = x + (TTile.Tokens > 1 ? xStride : 0), x2 = x + (TTile.Tokens > 2 ? 2 * xStride : 0), x3 = x + (TTile.Tokens > 3 ? 3 * xStride : 0);
        byte* parameters = panel + cols * 8 + half * WeightLayout.ParameterGroup(TForm.Format);
        panel += half * 4;
        Vector256<byte> nibble = Vector256.Create((byte)15);
        Vector256<float> f0 = default, f1 = default, f2 = default, f3 = default;
        int blocks = cols / WeightLayout.Block;
        for (int block = 0; block < blocks; block++, panel += 256)
        {
            Vector256<short> s0 = default, s1 = default, s2 = default, s3 = default;
            nint column = block * WeightLayout.Block;
            for (int step = 0; step < 4; step++, column += 4)
            {
                Sse.Prefetch1(panel + step * 64 + ahead);
                Vector256<byte> w = Vector256.Load(panel + step * 64);
                Vector256<byte> low = w & nibble, high = (w.AsUInt16() >> 4).AsByte() & nibble;
                s0 += Avx2.MultiplyAddAdjacent(low, Four(x + column)) + Avx2.MultiplyAddAdjacent(high, Four(x + column + 16));
                if (TTile.Tokens > 1) s1 += Avx2.MultiplyAddAdjacent(low, Four(x1 + column)) + Avx2.MultiplyAddAdjacent(high, Four(x1 + column + 16));
                if (TTile.Tokens > 2) s2 += Avx2.MultiplyAddAdjacent(low, Four(x2 + column)) + Avx2.MultiplyAddAdjacent(high, Four(x2 + column + 16));
                if (TTile.Tokens > 3) s3 += Avx2.MultiplyAddAdjacent(low, Four(x3 + column)) + Avx2.MultiplyAddAdjacent(high, Four(x3 + column + 16));
            }
            TForm.Begin8(parameters, block, scratch);
            Vector256<float> scale = TForm.Scale8(parameters, block, scratch), minimum = TForm.Minimum8(parameters, block, scratch);
            f0 = Q4Block<TForm>(s0, scale, minimum, x + cols, block, blocks, f0);
            if (TTile.Tokens > 1) f1 = Q4Block<TForm>(s1, scale, minimum, x1 + cols, block, blocks, f1);
            if (TTile.Tokens > 2) f2 = Q4Block<TForm>(s2, scale, minimum, x2 + cols, block, blocks, f2);
            if (TTile.Tokens > 3) f3 = Q4Block<TForm>(s3, scale, minimum, x3 + cols, block, blocks, f3);
        }
        StoreRows(f0, y, valid, add);
        if (TTile.Tokens > 1) StoreRows(f1, y + yStride, valid, add);
        if (TTile.Tokens > 2) StoreRows(f2, y + 2 * yStride, valid, add);
        if (TTile.Tokens > 3) StoreRows(f3, y + 3 * yStride, valid, add);
    }

    /// <summary>Eight rows: form A's offset of 8 leaves through the block's activation sum, still in integers; a minimum is added by the same sum, in float.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Q4Block<TForm>(Vector256<short> sums, Vector256<float> scale, Vector256<float> minimum, byte* xScales, int block, int blocks, Vector256<float> acc)
        where TForm : struct, IFourBit
    {
        Vector256<int> wide = Avx2.MultiplyAddAdjacent(sums, Vector256<short>.One), sumX = Vector256.Create(((int*)xScales)[blocks + block]);
        Vector256<float> scaleX = Vector256.Create(((float*)xScales)[block]);
        if (!TForm.HasMinimum) return Mad(Avx.ConvertToVector256Single(wide - (sumX << 3)), scale * scaleX, acc);
        return Mad(Avx.ConvertToVector256Single(sumX), minimum * scaleX, Mad(Avx.ConvertToVector256Single(wide), scale * scaleX, acc));
    }

    /// <summary>|w| times x with w's sign: two products sum to at most 2 * 127 * 127 in int16, so every step is widened.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q8Tile<TTile>(byte* panel, nint ahead, int half, int valid, int cols, byte* x, nint xStride, float* y, nint yStride, bool add) where TTile : struct, ITile
    {
        byte* x1 = x + (TTile.Tokens > 1 ? xStride : 0), x2 = x + (TTile.Tokens > 2 ? 2 * xStride : 0), x3 = x + (TTile.Tokens > 3 ? 3 * xStride : 0);
        byte* scales = panel + cols * 16 + half * 2;
        panel += half * 4;
        Vector256<float> f0 = default, f1 = default, f2 = default, f3 = default;
        int blocks = cols / WeightLayout.Block;
        for (int block = 0; block < blocks; block++, panel += 512, scales += 32)
        {
            Vector256<int> s0 = default, s1 = default, s2 = default, s3 = default;
            nint column = block * WeightLayout.Block;
            for (int step = 0; step < 8; step++, column += 4)
            {
                Sse.Prefetch1(panel + step * 64 + ahead);
                Vector256<sbyte> w = Vector256.Load((sbyte*)panel + step * 64);
                Vector256<byte> magnitude = Avx2.Abs(w);
                s0 += Q8Step(magnitude, w, Four(x + column));
                if (TTile.Tokens > 1) s1 += Q8Step(magnitude, w, Four(x1 + column));
                if (TTile.Tokens > 2) s2 += Q8Step(magnitude, w, Four(x2 + column));
                if (TTile.Tokens > 3) s3 += Q8Step(magnitude, w, Four(x3 + column));
            }
            Vector256<float> scale = StoredF16.Eight(scales, 0);
            f0 = Q8Block(s0, scale, x + cols, block, f0);
            if (TTile.Tokens > 1) f1 = Q8Block(s1, scale, x1 + cols, block, f1);
            if (TTile.Tokens > 2) f2 = Q8Block(s2, scale, x2 + cols, block, f2);
            if (TTile.Tokens > 3) f3 = Q8Block(s3, scale, x3 + cols, block, f3);
        }
        StoreRows(f0, y, valid, add);
        if (TTile.Tokens > 1) StoreRows(f1, y + yStride, valid, add);
        if (TTile.Tokens > 2) StoreRows(f2, y + 2 * yStride, valid, add);
        if (TTile.Tokens > 3) StoreRows(f3, y + 3 * yStride, valid, add);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Q8Step(Vector256<byte> magnitude, Vector256<sbyte> w, Vector256<sbyte> x) =>
        Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(magnitude, Avx2.Sign(x, w)), Vector256<short>.One);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Q8Block(Vector256<int> sums, Vector256<float> scale, byte* xScales, int block, Vector256<float> acc) =>
        Mad(Avx.ConvertToVector256Single(sums), scale * Vector256.Create(((float*)xScales)[block]), acc);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<sbyte> Four(byte* x) => Vector256.Create(*(int*)x).AsSByte();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreRows(Vector256<float> sums, float* y, int valid, bool add)
    {
        if (valid >= 8) (add ? Vector256.Load(y) + sums : sums).Store(y);
        else StoreSome(sums, y, valid, add);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void StoreSome(Vector256<float> sums, float* y, int valid, bool add)
    {
        for (int r = 0; r < valid; r++) y[r] = add ? y[r] + sums[r] : sums[r];
    }

    /// <summary>Rows one after another, four at a time; a missing row is computed as its neighbour and not stored.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FloatPanel<T>(byte* panel, nint rowBytes, int valid, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, bool add) where T : struct, IStored
    {
        for (int r = 0; r < valid; r += 4)
        {
            byte* r0 = panel + r * rowBytes, r1 = panel + Math.Min(r + 1, valid - 1) * rowBytes;
            byte* r2 = panel + Math.Min(r + 2, valid - 1) * rowBytes, r3 = panel + Math.Min(r + 3, valid - 1) * rowBytes;
            for (int t = 0; t < tokens; t++)
            {
                float* xt = (float*)(x + t * xStride);
                StoreFour(Dot4<T>(r0, r1, r2, r3, xt, xt, xt, xt, cols), y + t * yStride + r, valid - r, add);
            }
        }
    }
}
