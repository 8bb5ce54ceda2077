using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Neuron times token, four pairs side by side: integer sums of 8 blocks per pair in a tree, then lanes are pairs for the ordered chain of fma.</summary>
internal sealed unsafe partial class Avx512Kernels
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
            int k = block * WeightLayout.Block;
            if (next != null) Avx2Kernels.Ask(next, k, 256);
            Vector512<int> sums01 = Tree(Q8Two(r0, x0, k), Q8Two(r0, x0, k + 64), Q8Two(r0, x0, k + 128), Q8Two(r0, x0, k + 192),
                Q8Two(r1, x1, k), Q8Two(r1, x1, k + 64), Q8Two(r1, x1, k + 128), Q8Two(r1, x1, k + 192));
            Vector512<int> sums23 = Tree(Q8Two(r2, x2, k), Q8Two(r2, x2, k + 64), Q8Two(r2, x2, k + 128), Q8Two(r2, x2, k + 192),
                Q8Two(r3, x3, k), Q8Two(r3, x3, k + 64), Q8Two(r3, x3, k + 128), Q8Two(r3, x3, k + 192));
            acc = Chain(sums01, sums23, Scales(r0 + cols, r1 + cols, x0 + cols, x1 + cols, block), Scales(r2 + cols, r3 + cols, x2 + cols, x3 + cols, block), acc);
        }
        return block == blocks ? acc : Avx2Kernels.DotRest(WeightFormat.Q8, r0, r1, r2, r3, x0, x1, x2, x3, cols, block, acc);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static Vector128<float> Q4Dot4<TForm>(byte* r0, byte* r1, byte* r2, byte* r3, byte* x0, byte* x1, byte* x2, byte* x3, int cols, byte** next) where TForm : struct, IFourBit
    {
        Vector128<float> acc = default;
        int blocks = cols / WeightLayout.Block, block = 0, parameters = cols / 2;
        for (; block + 8 <= blocks; block += 8, parameters += 8 * WeightLayout.ParameterBytes(TForm.Format))
        {
            int k = block * WeightLayout.Block;
            if (next != null) Avx2Kernels.Ask(next, k / 2, 128);
            Vector512<int> sums01 = Tree(Q4Two<TForm>(r0, x0, k), Q4Two<TForm>(r0, x0, k + 64), Q4Two<TForm>(r0, x0, k + 128), Q4Two<TForm>(r0, x0, k + 192),
                Q4Two<TForm>(r1, x1, k), Q4Two<TForm>(r1, x1, k + 64), Q4Two<TForm>(r1, x1, k + 128), Q4Two<TForm>(r1, x1, k + 192));
            Vector512<int> sums23 = Tree(Q4Two<TForm>(r2, x2, k), Q4Two<TForm>(r2, x2, k + 64), Q4Two<TForm>(r2, x2, k + 128), Q4Two<TForm>(r2, x2, k + 192),
                Q4Two<TForm>(r3, x3, k), Q4Two<TForm>(r3, x3, k + 64), Q4Two<TForm>(r3, x3, k + 128), Q4Two<TForm>(r3, x3, k + 192));
            byte* p0 = r0 + parameters, p1 = r1 + parameters, p2 = r2 + parameters, p3 = r3 + parameters;
            Vector256<float> heads = TForm.Heads(p0, p1, p2, p3);
            Vector512<float> scalesX01 = TwoX(x0 + cols, x1 + cols, block), scalesX23 = TwoX(x2 + cols, x3 + cols, block);
            Vector512<float> scales01 = TForm.BlockScales(p0, p1, heads, 0) * scalesX01, scales23 = TForm.BlockScales(p2, p3, heads, 2) * scalesX23;
            if (!TForm.HasMinimum) acc = Chain(sums01, sums23, scales01, scales23, acc);
            else
                acc = Chain(sums01, sums23, scales01, scales23,
                    TwoX(x0 + cols, x1 + cols, blocks + block).AsInt32(), TwoX(x2 + cols, x3 + cols, blocks + block).AsInt32(),
                    TForm.BlockMinima(p0, p1, heads, 0) * scalesX01, TForm.BlockMinima(p2, p3, heads, 2) * scalesX23, acc);
        }
        return block == blocks ? acc : Avx2Kernels.DotRest(TForm.Format, r0, r1, r2, r3, x0, x1, x2, x3, cols, block, acc);
    }

    /// <summary>Two blocks of a q8 row: 8 partial sums of the first in the lower half, of the second in the upper.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Q8Two(byte* row, byte* x, int k)
    {
        Vector512<sbyte> w = Vector512.Load((sbyte*)row + k);
        return Q8Step(Avx512BW.Abs(w), Vector512.LessThan(w, Vector512<sbyte>.Zero), Vector512.Load((sbyte*)x + k));
    }

    /// <summary>Two blocks of a q4 row; form A's x times 8 is taken off while the products are in int16.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Q4Two<TForm>(byte* row, byte* x, int k) where TForm : struct, IFourBit
    {
        // Each block's 16 bytes twice; its second copy is shifted so that the high nibbles (columns 16..31) come down.
        Vector512<long> twice = Avx512F.PermuteVar8x64(Vector512.Create(Vector256.Load((long*)(row + k / 2)), default), Vector512.Create(0L, 1, 0, 1, 2, 3, 2, 3));
        Vector512<byte> w = Avx512F.ShiftRightLogicalVariable(twice, Vector512.Create(0UL, 0, 4, 4, 0, 0, 4, 4)).AsByte() & Vector512.Create((byte)15);
        Vector512<sbyte> v = Vector512.Load((sbyte*)x + k);
        Vector512<short> products = Avx512BW.MultiplyAddAdjacent(w, v);
        return Avx512BW.MultiplyAddAdjacent(TForm.HasMinimum ? products : products - Avx512BW.MultiplyAddAdjacent(Vector512.Create((byte)8), v), Vector512<short>.One);
    }

    /// <summary>Sums of 8 blocks of pair a and 8 of pair b, as lanes a0 a2 a4 a6, a1 a3 a5 a7, b0 b2 b4 b6, b1 b3 b5 b7.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Tree(
        Vector512<int> a0, Vector512<int> a1, Vector512<int> a2, Vector512<int> a3, Vector512<int> b0, Vector512<int> b1, Vector512<int> b2, Vector512<int> b3)
    {
        Vector512<int> p0 = Halves(a0, b0), p1 = Halves(a1, b1), p2 = Halves(a2, b2), p3 = Halves(a3, b3);
        Vector512<long> low = (Avx512F.UnpackLow(p0, p1) + Avx512F.UnpackHigh(p0, p1)).AsInt64();
        Vector512<long> high = (Avx512F.UnpackLow(p2, p3) + Avx512F.UnpackHigh(p2, p3)).AsInt64();
        return Avx512F.UnpackLow(low, high).AsInt32() + Avx512F.UnpackHigh(low, high).AsInt32();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Halves(Vector512<int> a, Vector512<int> b) => Avx512F.Shuffle4x128(a, b, 0b10_00_10_00) + Avx512F.Shuffle4x128(a, b, 0b11_01_11_01);

    /// <summary>scaleW * scaleX of 8 blocks of two pairs, in order.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Scales(byte* w0, byte* w1, byte* x0, byte* x1, int block) => FormA.BlockScales(w0 + block * 2, w1 + block * 2, default, 0) * TwoX(x0, x1, block);

    /// <summary>Eight numbers that follow two activation rows, from the same place in each.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> TwoX(byte* x0, byte* x1, int at) => Vector512.Create(Vector256.Load((float*)x0 + at), Vector256.Load((float*)x1 + at));

    /// <summary>Eight blocks, ascending, lanes = pairs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Chain(Vector512<int> sums01, Vector512<int> sums23, Vector512<float> scales01, Vector512<float> scales23, Vector128<float> acc)
    {
        acc = Chain(FirstSums(sums01, sums23), First(scales01, scales23), acc);
        return Chain(LastSums(sums01, sums23), Last(scales01, scales23), acc);
    }

    /// <summary>The same with minima: after each block's product that of its activation sum and minimum.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Chain(Vector512<int> sums01, Vector512<int> sums23, Vector512<float> scales01, Vector512<float> scales23,
        Vector512<int> sumsX01, Vector512<int> sumsX23, Vector512<float> minima01, Vector512<float> minima23, Vector128<float> acc)
    {
        Vector512<float> x01 = Avx512F.ConvertToVector512Single(sumsX01), x23 = Avx512F.ConvertToVector512Single(sumsX23);
        acc = Chain(FirstSums(sums01, sums23), First(scales01, scales23), First(x01, x23), First(minima01, minima23), acc);
        return Chain(LastSums(sums01, sums23), Last(scales01, scales23), Last(x01, x23), Last(minima01, minima23), acc);
    }

    // Blocks of pairs from pairs of blocks, 0..3 and 4..7. Sums come in the tree's lane order, everything else in block order; 16 and up take from the second operand.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> FirstSums(Vector512<int> s01, Vector512<int> s23) => Avx512F.PermuteVar16x32x2(
        Avx512F.ConvertToVector512Single(s01), Vector512.Create(0, 8, 16, 24, 4, 12, 20, 28, 1, 9, 17, 25, 5, 13, 21, 29), Avx512F.ConvertToVector512Single(s23));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> LastSums(Vector512<int> s01, Vector512<int> s23) => Avx512F.PermuteVar16x32x2(
        Avx512F.ConvertToVector512Single(s01), Vector512.Create(2, 10, 18, 26, 6, 14, 22, 30, 3, 11, 19, 27, 7, 15, 23, 31), Avx512F.ConvertToVector512Single(s23));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> First(Vector512<float> a, Vector512<float> b) =>
        Avx512F.PermuteVar16x32x2(a, Vector512.Create(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27), b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Last(Vector512<float> a, Vector512<float> b) =>
        Avx512F.PermuteVar16x32x2(a, Vector512.Create(4, 12, 20, 28, 5, 13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31), b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Chain(Vector512<float> f, Vector512<float> s, Vector128<float> acc)
    {
        acc = Fma.MultiplyAdd(f.GetLower().GetLower(), s.GetLower().GetLower(), acc);
        acc = Fma.MultiplyAdd(f.GetLower().GetUpper(), s.GetLower().GetUpper(), acc);
        acc = Fma.MultiplyAdd(f.GetUpper().GetLower(), s.GetUpper().GetLower(), acc);
        return Fma.MultiplyAdd(f.GetUpper().GetUpper(), s.GetUpper().GetUpper(), acc);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Chain(Vector512<float> f, Vector512<float> s, Vector512<float> g, Vector512<float> m, Vector128<float> acc)
    {
        acc = Fma.MultiplyAdd(f.GetLower().GetLower(), s.GetLower().GetLower(), acc);
        acc = Fma.MultiplyAdd(g.GetLower().GetLower(), m.GetLower().GetLower(), acc);
        acc = Fma.MultiplyAdd(f.GetLower().GetUpper(), s.GetLower().GetUpper(), acc);
        acc = Fma.MultiplyAdd(g.GetLower().GetUpper(), m.GetLower().GetUpper(), acc);
        acc = Fma.MultiplyAdd(f.GetUpper().GetLower(), s.GetUpper().GetLower(), acc);
        acc = Fma.MultiplyAdd(g.GetUpper().GetLower(), m.GetUpper().GetLower(), acc);
        acc = Fma.MultiplyAdd(f.GetUpper().GetUpper(), s.GetUpper().GetUpper(), acc);
        return Fma.MultiplyAdd(g.GetUpper().GetUpper(), m.GetUpper().GetUpper(), acc);
    }
}
