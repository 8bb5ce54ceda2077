using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The kernels in 256 bits (AVX2 and FMA), the bits of <see cref="ScalarKernels"/>. One file per operation family: Panels (rows as lanes, tokens in tiles), Dots, Axpys,
/// Attention, Rows. The sixteen virtual lanes of a float sum are two registers. No state, no allocation, any thread.
/// Loops are compiled fully at once (AggressiveOptimization): the first token must not run on unoptimised code.
/// </summary>
internal sealed unsafe partial class Avx2Kernels : VectorKernels
{
    public static bool IsSupported => Avx2.IsSupported && Fma.IsSupported;

    public override string Name => "avx2";

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void QuantizeRow(float* x, int cols, byte* quantized)
    {
        float* scales = (float*)(quantized + cols);
        int* sums = (int*)(scales + cols / WeightLayout.Block);
        Vector256<int> magnitude = Vector256.Create(0x7FFFFFFF);
        // Packing interleaves 128-bit halves; this puts the 32 bytes back in order.
        Vector256<int> order = Vector256.Create(0, 4, 1, 5, 2, 6, 3, 7);
        for (int block = 0; block < cols / WeightLayout.Block; block++, x += WeightLayout.Block, quantized += WeightLayout.Block)
        {
            Vector256<float> a = Vector256.Load(x), b = Vector256.Load(x + 8), c = Vector256.Load(x + 16), d = Vector256.Load(x + 24);
            Vector256<int> ab = Avx2.Max(a.AsInt32() & magnitude, b.AsInt32() & magnitude), cd = Avx2.Max(c.AsInt32() & magnitude, d.AsInt32() & magnitude);
            float scale = BitConverter.Int32BitsToSingle(Largest(Avx2.Max(ab, cd))) / 127f;
            scales[block] = scale;
            if (!(scale > 0f && scale < float.PositiveInfinity))
            {
                sums[block] = 0;
                Vector256<byte>.Zero.Store(quantized);
                continue;
            }
            Vector256<float> divisor = Vector256.Create(scale);
            Vector256<int> qa = Clamp(Avx.ConvertToVector256Int32(a / divisor)), qb = Clamp(Avx.ConvertToVector256Int32(b / divisor));
            Vector256<int> qc = Clamp(Avx.ConvertToVector256Int32(c / divisor)), qd = Clamp(Avx.ConvertToVector256Int32(d / divisor));
            Vector256<sbyte> packed = Avx2.PackSignedSaturate(Avx2.PackSignedSaturate(qa, qb), Avx2.PackSignedSaturate(qc, qd));
            Avx2.PermuteVar8x32(packed.AsInt32(), order).AsByte().Store(quantized);
            sums[block] = Total(qa + qb + (qc + qd));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Clamp(Vector256<int> q) => Avx2.Min(Avx2.Max(q, Vector256.Create(-127)), Vector256.Create(127));

    public override void PanelRow(WeightFormat format, byte* panel, int row, int cols, float* y) => ScalarKernels.UnpackPanelRow(format, panel, row, cols, y);

    /// <summary>The largest of eight integers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static int Largest(Vector256<int> v)
    {
        Vector128<int> a = Sse41.Max(v.GetLower(), v.GetUpper());
        a = Sse41.Max(a, Sse2.Shuffle(a, 0b01_00_11_10));
        return Sse41.Max(a, Sse2.Shuffle(a, 0b10_11_00_01)).ToScalar();
    }

    /// <summary>The largest of eight floats.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static float Largest(Vector256<float> v)
    {
        Vector128<float> a = Sse.Max(v.GetLower(), v.GetUpper());
        a = Sse.Max(a, Sse.Shuffle(a, a, 0b01_00_11_10));
        return Sse.Max(a, Sse.Shuffle(a, a, 0b10_11_00_01)).ToScalar();
    }

    /// <summary>The sum of eight integers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static int Total(Vector256<int> v)
    {
        Vector128<int> a = v.GetLower() + v.GetUpper();
        a += Sse2.Shuffle(a, 0b01_00_11_10);
        return (a + Sse2.Shuffle(a, 0b10_11_00_01)).ToScalar();
    }

    /// <summary>What is left of the tree after l+8 (l+4, l+2, l+1), for four sums at once.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector128<float> Fold4(Vector256<float> a, Vector256<float> b, Vector256<float> c, Vector256<float> d)
    {
        Vector128<float> a4 = a.GetLower() + a.GetUpper(), b4 = b.GetLower() + b.GetUpper(), c4 = c.GetLower() + c.GetUpper(), d4 = d.GetLower() + d.GetUpper();
        Vector128<float> ab = Sse.UnpackLow(a4, b4) + Sse.UnpackHigh(a4, b4), cd = Sse.UnpackLow(c4, d4) + Sse.UnpackHigh(c4, d4);
        return Sse.MoveLowToHigh(ab, cd) + Sse.MoveHighToLow(cd, ab);
    }

    /// <summary>What is left of the tree after l+8, for one sum.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static float Fold(Vector256<float> v)
    {
        Vector128<float> a = v.GetLower() + v.GetUpper();
        a += Sse.MoveHighToLow(a, a);
        return (a + Sse.Shuffle(a, a, 0b01_01_01_01)).ToScalar();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void StoreFour(Vector128<float> sums, float* y, int valid, bool add = false)
    {
        if (valid >= 4) (add ? Vector128.Load(y) + sums : sums).Store(y);
        else
            for (int i = 0; i < valid; i++) y[i] = add ? y[i] + sums[i] : sums[i];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Mad(Vector256<float> a, Vector256<float> b, Vector256<float> c) => Fma.MultiplyAdd(a, b, c);

    /// <summary>The last cols % 16 products, each in its own lane and no other: adding +0 to an untouched lane could change the sign of a zero.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Vector256<float> Tail<T>(Vector256<float> low, Vector256<float> high, byte* row, float* x, int from, int cols) where T : struct, IStored
    {
        float* l = stackalloc float[16];
        low.Store(l);
        high.Store(l + 8);
        for (int k = from; k < cols; k++) l[k - from] = MathF.FusedMultiplyAdd(T.One(row, k), x[k], l[k - from]);
        return Vector256.Load(l) + Vector256.Load(l + 8);
    }

    /// <summary>Four dot products of a stored row and a float row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Dot4<T>(byte* r0, byte* r1, byte* r2, byte* r3, float* x0, float* x1, float* x2, float* x3, int cols) where T : struct, IStored
    {
        Vector256<float> a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default, b2 = default, b3 = default;
        int k = 0;
        for (; k + 16 <= cols; k += 16)
        {
            a0 = Mad(T.Eight(r0, k), Vector256.Load(x0 + k), a0);
            b0 = Mad(T.Eight(r0, k + 8), Vector256.Load(x0 + k + 8), b0);
            a1 = Mad(T.Eight(r1, k), Vector256.Load(x1 + k), a1);
            b1 = Mad(T.Eight(r1, k + 8), Vector256.Load(x1 + k + 8), b1);
            a2 = Mad(T.Eight(r2, k), Vector256.Load(x2 + k), a2);
            b2 = Mad(T.Eight(r2, k + 8), Vector256.Load(x2 + k + 8), b2);
            a3 = Mad(T.Eight(r3, k), Vector256.Load(x3 + k), a3);
            b3 = Mad(T.Eight(r3, k + 8), Vector256.Load(x3 + k + 8), b3);
        }
        if (k == cols) return Fold4(a0 + b0, a1 + b1, a2 + b2, a3 + b3);
        return Fold4(Tail<T>(a0, b0, r0, x0, k, cols), Tail<T>(a1, b1, r1, x1, k, cols), Tail<T>(a2, b2, r2, x2, k, cols), Tail<T>(a3, b3, r3, x3, k, cols));
    }
}
