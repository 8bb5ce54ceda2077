using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Neuron times token, four pairs side by side: integer sums of 8 blocks per pair in a tree, then lanes are pairs for the ordered chain of fma.</summary>
internal sealed unsafe partial class Avx2Kernels
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void Dots(WeightFormat format, byte** rows, byte** xs, int n, int cols, float* result)
    {
        for (int i = 0; i < n; i += 4)
        {
            // A missing pair is computed as the last one and not stored.
            int i1 = Math.Min(i + 1, n - 1), i2 = Math.Min(i + 2, n - 1), i3 = Math.Min(i + 3, n - 1);
            // Rows lie anywhere in a window: the next four are asked for while these are computed.
            byte** next = i + 8 <= n ? rows + i + 4 : null;
            Vector128<float> four = format switch
            {
                WeightFormat.F32 => Dot4<StoredF32>(rows[i], rows[i1], rows[i2], rows[i3], (float*)xs[i], (float*)xs[i1], (float*)xs[i2], (float*)xs[i3], cols),
                WeightFormat.BF16 => Dot4<StoredBF16>(rows[i], rows[i1], rows[i2], rows[i3], (float*)xs[i], (float*)xs[i1], (float*)xs[i2], (float*)xs[i3], cols),
                WeightFormat.Q8 => Q8Dot4(rows[i], rows[i1], rows[i2], rows[i3], xs[i], xs[i1], xs[i2], xs[i3], cols, next),
                WeightFormat.Q4 => Q4Dot4<FormA>(rows[i], rows[i1], rows[i2], rows[i3], xs[i], xs[i1], xs[i2], xs[i3], cols, next),
                WeightFormat.Q4B => Q4Dot4<FormB>(rows[i], rows[i1], rows[i2], rows[i3], xs[i], xs[i1], xs[i2], xs[i3], cols, next),
                WeightFormat.Q4K => Q4Dot4<FormK>(rows[i], rows[i1], rows[i2], rows[i3], xs[i], xs[i1], xs[i2], xs[i3], cols, next),
                _ => throw new ArgumentOutOfRangeException(nameof(format)),
            };
            StoreFour(four, result + i, n - i);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static Vector128<float> Q8Dot4(byte* r0, byte* r1, byte* r2, byte* r3, byte* x0, byte* x1, byte* x2, byte* x3, int cols, byte** next)
    {
        Vector128<float> acc = default;
        int blocks = cols / WeightLayout.Block, block = 0;
        for (; block + 8 <= blocks; block += 8)
        {
            if (next != null) Ask(next, block * 32, 256);
            acc = Chain(Q8Eight(r0, x0, block), Q8Eight(r1, x1, block), Q8Eight(r2, x2, block), Q8Eight(r3, x3, block),
                Scales(r0 + cols, x0 + cols, block), Scales(r1 + cols, x1 + cols, block), Scales(r2 + cols, x2 + cols, block), Scales(r3 + cols, x3 + cols, block), acc);
        }
        return block == blocks ? acc : DotRest(WeightFormat.Q8, r0, r1, r2, r3, x0, x1, x2, x3, cols, block, acc);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static Vector128<float> Q4Dot4<TForm>(byte* r0, byte* r1, byte* r2, byte* r3, byte* x0, byte* x1, byte* x2, byte* x3, int cols, byte** next) where TForm : struct, IFourBit
    {
        Vector128<float> acc = default;
        int blocks = cols / WeightLayout.Block, block = 0, parameters = cols / 2;
        for (; block + 8 <= blocks; block += 8, parameters += 8 * WeightLayout.ParameterBytes(TForm.Format))
        {
            if (next != null) Ask(next, block * 16, 128);
            byte* p0 = r0 + parameters, p1 = r1 + parameters, p2 = r2 + parameters, p3 = r3 + parameters;
            Vector256<float> heads = TForm.Heads(p0, p1, p2, p3);
            Vector256<float> f0 = Q4Eight<TForm>(r0, x0, block), f1 = Q4Eight<TForm>(r1, x1, block), f2 = Q4Eight<TForm>(r2, x2, block), f3 = Q4Eight<TForm>(r3, x3, block);
            Vector256<float> k0 = ScaleX(x0 + cols, block), k1 = ScaleX(x1 + cols, block), k2 = ScaleX(x2 + cols, block), k3 = ScaleX(x3 + cols, block);
            Vector256<float> s0 = TForm.BlockScales(p0, heads, 0) * k0, s1 = TForm.BlockScales(p1, heads, 1) * k1;
            Vector256<float> s2 = TForm.BlockScales(p2, heads, 2) * k2, s3 = TForm.BlockScales(p3, heads, 3) * k3;
            if (!TForm.HasMinimum) acc = Chain(f0, f1, f2, f3, s0, s1, s2, s3, acc);
            else
                acc = Chain(f0, f1, f2, f3, s0, s1, s2, s3,
                    SumX(x0 + cols, blocks + block), SumX(x1 + cols, blocks + block), SumX(x2 + cols, blocks + block), SumX(x3 + cols, blocks + block),
                    TForm.BlockMinima(p0, heads, 0) * k0, TForm.BlockMinima(p1, heads, 1) * k1, TForm.BlockMinima(p2, heads, 2) * k2, TForm.BlockMinima(p3, heads, 3) * k3, acc);
        }
        return block == blocks ? acc : DotRest(TForm.Format, r0, r1, r2, r3, x0, x1, x2, x3, cols, block, acc);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Q8Eight(byte* row, byte* x, int block)
    {
        row += block * 32;
        x += block * 32;
        return Tree(Q8One(row, x), Q8One(row + 32, x + 32), Q8One(row + 64, x + 64), Q8One(row + 96, x + 96),
            Q8One(row + 128, x + 128), Q8One(row + 160, x + 160), Q8One(row + 192, x + 192), Q8One(row + 224, x + 224));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Q4Eight<TForm>(byte* row, byte* x, int block) where TForm : struct, IFourBit
    {
        row += block * 16;
        x += block * 32;
        return Tree(Q4One<TForm>(row, x), Q4One<TForm>(row + 16, x + 32), Q4One<TForm>(row + 32, x + 64), Q4One<TForm>(row + 48, x + 96),
            Q4One<TForm>(row + 64, x + 128), Q4One<TForm>(row + 80, x + 160), Q4One<TForm>(row + 96, x + 192), Q4One<TForm>(row + 112, x + 224));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Ask(byte** rows, nint from, int bytes)
    {
        for (int line = 0; line < bytes; line += 64)
        {
            Sse.Prefetch0(rows[0] + from + line);
            Sse.Prefetch0(rows[1] + from + line);
            Sse.Prefetch0(rows[2] + from + line);
            Sse.Prefetch0(rows[3] + from + line);
        }
    }

    /// <summary>One block of a q8 row in 8 partial sums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Q8One(byte* row, byte* x)
    {
        Vector256<sbyte> w = Vector256.Load((sbyte*)row);
        return Q8Step(Avx2.Abs(w), w, Vector256.Load((sbyte*)x));
    }

    /// <summary>One block of a q4 row in 8 partial sums; form A's x times 8 is taken off while the products are in int16.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Q4One<TForm>(byte* row, byte* x) where TForm : struct, IFourBit
    {
        Vector128<byte> pairs = Vector128.Load(row);
        Vector256<byte> w = Vector256.Create(pairs, (pairs.AsUInt16() >> 4).AsByte()) & Vector256.Create((byte)15);
        Vector256<sbyte> v = Vector256.Load((sbyte*)x);
        Vector256<short> products = Avx2.MultiplyAddAdjacent(w, v);
        return Avx2.MultiplyAddAdjacent(TForm.HasMinimum ? products : products - Avx2.MultiplyAddAdjacent(Vector256.Create((byte)8), v), Vector256<short>.One);
    }

    /// <summary>The sums of eight blocks, in order.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Tree(
        Vector256<int> a, Vector256<int> b, Vector256<int> c, Vector256<int> d, Vector256<int> e, Vector256<int> f, Vector256<int> g, Vector256<int> h)
    {
        Vector256<int> low = Avx2.HorizontalAdd(Avx2.HorizontalAdd(a, b), Avx2.HorizontalAdd(c, d));
        Vector256<int> high = Avx2.HorizontalAdd(Avx2.HorizontalAdd(e, f), Avx2.HorizontalAdd(g, h));
        return Avx.ConvertToVector256Single(Avx2.Permute2x128(low, high, 0x20) + Avx2.Permute2x128(low, high, 0x31));
    }

    /// <summary>scaleW * scaleX of eight blocks.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Scales(byte* w, byte* x, int block) => StoredF16.Eight(w, block) * Vector256.Load((float*)x + block);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> ScaleX(byte* xScales, int block) => Vector256.Load((float*)xScales + block);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> SumX(byte* xScales, int at) => Avx.ConvertToVector256Single(Vector256.Load((int*)xScales + at));

    /// <summary>Eight blocks, ascending, lanes = pairs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Chain(Vector256<float> f0, Vector256<float> f1, Vector256<float> f2, Vector256<float> f3,
        Vector256<float> s0, Vector256<float> s1, Vector256<float> s2, Vector256<float> s3, Vector128<float> acc)
    {
        Transpose(ref f0, ref f1, ref f2, ref f3);
        Transpose(ref s0, ref s1, ref s2, ref s3);
        acc = Fma.MultiplyAdd(f0.GetLower(), s0.GetLower(), acc);
        acc = Fma.MultiplyAdd(f1.GetLower(), s1.GetLower(), acc);
        acc = Fma.MultiplyAdd(f2.GetLower(), s2.GetLower(), acc);
        acc = Fma.MultiplyAdd(f3.GetLower(), s3.GetLower(), acc);
        acc = Fma.MultiplyAdd(f0.GetUpper(), s0.GetUpper(), acc);
        acc = Fma.MultiplyAdd(f1.GetUpper(), s1.GetUpper(), acc);
        acc = Fma.MultiplyAdd(f2.GetUpper(), s2.GetUpper(), acc);
        return Fma.MultiplyAdd(f3.GetUpper(), s3.GetUpper(), acc);
    }

    /// <summary>The same with minima: after each block's product (f, s) that of its activation sum and minimum (g, m).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Chain(Vector256<float> f0, Vector256<float> f1, Vector256<float> f2, Vector256<float> f3,
        Vector256<float> s0, Vector256<float> s1, Vector256<float> s2, Vector256<float> s3, Vector256<float> g0, Vector256<float> g1, Vector256<float> g2, Vector256<float> g3,
        Vector256<float> m0, Vector256<float> m1, Vector256<float> m2, Vector256<float> m3, Vector128<float> acc)
    {
        Transpose(ref f0, ref f1, ref f2, ref f3);
        Transpose(ref s0, ref s1, ref s2, ref s3);
        Transpose(ref g0, ref g1, ref g2, ref g3);
        Transpose(ref m0, ref m1, ref m2, ref m3);
        acc = Fma.MultiplyAdd(g0.GetLower(), m0.GetLower(), Fma.MultiplyAdd(f0.GetLower(), s0.GetLower(), acc));
        acc = Fma.MultiplyAdd(g1.GetLower(), m1.GetLower(), Fma.MultiplyAdd(f1.GetLower(), s1.GetLower(), acc));
        acc = Fma.MultiplyAdd(g2.GetLower(), m2.GetLower(), Fma.MultiplyAdd(f2.GetLower(), s2.GetLower(), acc));
        acc = Fma.MultiplyAdd(g3.GetLower(), m3.GetLower(), Fma.MultiplyAdd(f3.GetLower(), s3.GetLower(), acc));
        acc = Fma.MultiplyAdd(g0.GetUpper(), m0.GetUpper(), Fma.MultiplyAdd(f0.GetUpper(), s0.GetUpper(), acc));
        acc = Fma.MultiplyAdd(g1.GetUpper(), m1.GetUpper(), Fma.MultiplyAdd(f1.GetUpper(), s1.GetUpper(), acc));
        acc = Fma.MultiplyAdd(g2.GetUpper(), m2.GetUpper(), Fma.MultiplyAdd(f2.GetUpper(), s2.GetUpper(), acc));
        return Fma.MultiplyAdd(g3.GetUpper(), m3.GetUpper(), Fma.MultiplyAdd(f3.GetUpper(), s3.GetUpper(), acc));
    }

    /// <summary>From pairs of blocks to blocks of pairs: vector b holds block b of the four pairs below, block b + 4 above.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Transpose(ref Vector256<float> a, ref Vector256<float> b, ref Vector256<float> c, ref Vector256<float> d)
    {
        Vector256<double> ab = Avx.UnpackLow(a, b).AsDouble(), cd = Avx.UnpackLow(c, d).AsDouble();
        Vector256<double> abHigh = Avx.UnpackHigh(a, b).AsDouble(), cdHigh = Avx.UnpackHigh(c, d).AsDouble();
        a = Avx.UnpackLow(ab, cd).AsSingle();
        b = Avx.UnpackHigh(ab, cd).AsSingle();
        c = Avx.UnpackLow(abHigh, cdHigh).AsSingle();
        d = Avx.UnpackHigh(abHigh, cdHigh).AsSingle();
    }

    /// <summary>The last blocks, fewer than eight, of four pairs.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    internal static Vector128<float> DotRest(
        WeightFormat format, byte* r0, byte* r1, byte* r2, byte* r3, byte* x0, byte* x1, byte* x2, byte* x3, int cols, int block, Vector128<float> acc) =>
        Vector128.Create(
            DotRest(format, r0, x0, cols, block, acc[0]), DotRest(format, r1, x1, cols, block, acc[1]),
            DotRest(format, r2, x2, cols, block, acc[2]), DotRest(format, r3, x3, cols, block, acc[3]));

    private static float DotRest(WeightFormat format, byte* row, byte* x, int cols, int block, float acc)
    {
        byte* parameters = row + WeightLayout.IntegerBytes(format, cols);
        bool hasMinimum = WeightLayout.HasMinimum(format);
        int blocks = cols / WeightLayout.Block;
        for (; block < blocks; block++)
        {
            int sum = Total(format == WeightFormat.Q8 ? Q8One(row + block * 32, x + block * 32)
                : hasMinimum ? Q4One<FormB>(row + block * 16, x + block * 32) : Q4One<FormA>(row + block * 16, x + block * 32));
            float scaleX = ((float*)(x + cols))[block];
            acc = MathF.FusedMultiplyAdd(sum, ScalarKernels.Scale(format, parameters, block) * scaleX, acc);
            if (hasMinimum) acc = MathF.FusedMultiplyAdd(((int*)(x + cols))[blocks + block], ScalarKernels.Minimum(format, parameters, block) * scaleX, acc);
        }
        return acc;
    }
}
