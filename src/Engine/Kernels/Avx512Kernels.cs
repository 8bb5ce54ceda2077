using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The kernels in 512 bits (AVX-512 F and BW), the bits of <see cref="ScalarKernels"/>. One file per operation family: Panels.* (rows as lanes, tokens in tiles), Dots, Axpys,
/// Attention, Rows. The sixteen virtual lanes of a float sum are one register. No state, no allocation, any thread.
/// Loops are compiled fully at once (AggressiveOptimization): the first token must not run on unoptimised code.
/// </summary>
internal sealed unsafe partial class Avx512Kernels : VectorKernels
{
    // Vector512.IsHardwareAccelerated is false on CPUs that lower their clock for 512 bits, though the instructions are there.
    public static bool IsSupported => Avx512BW.IsSupported;

    public override string Name => "avx512";

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void QuantizeRow(float* x, int cols, byte* quantized)
    {
        float* scales = (float*)(quantized + cols);
        int* sums = (int*)(scales + cols / WeightLayout.Block);
        Vector512<int> magnitude = Vector512.Create(0x7FFFFFFF), low = Vector512.Create(-127), high = Vector512.Create(127);
        for (int block = 0; block < cols / WeightLayout.Block; block++, x += WeightLayout.Block, quantized += WeightLayout.Block)
        {
            Vector512<float> a = Vector512.Load(x), b = Vector512.Load(x + 16);
            Vector512<int> largest = Avx512F.Max(a.AsInt32() & magnitude, b.AsInt32() & magnitude);
            float scale = BitConverter.Int32BitsToSingle(Avx2Kernels.Largest(Avx2.Max(largest.GetLower(), largest.GetUpper()))) / 127f;
            scales[block] = scale;
            if (!(scale > 0f && scale < float.PositiveInfinity))
            {
                sums[block] = 0;
                Vector256<byte>.Zero.Store(quantized);
                continue;
            }
            Vector512<float> divisor = Vector512.Create(scale);
            Vector512<int> qa = Avx512F.Min(Avx512F.Max(Avx512F.ConvertToVector512Int32(a / divisor), low), high);
            Vector512<int> qb = Avx512F.Min(Avx512F.Max(Avx512F.ConvertToVector512Int32(b / divisor), low), high);
            Avx512F.ConvertToVector128SByte(qa).Store((sbyte*)quantized);
            Avx512F.ConvertToVector128SByte(qb).Store((sbyte*)quantized + 16);
            Vector512<int> sum = qa + qb;
            sums[block] = Avx2Kernels.Total(sum.GetLower() + sum.GetUpper());
        }
    }

    public override void PanelRow(WeightFormat format, byte* panel, int row, int cols, float* y) => ScalarKernels.UnpackPanelRow(format, panel, row, cols, y);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Mad(Vector512<float> a, Vector512<float> b, Vector512<float> c) => Avx512F.FusedMultiplyAdd(a, b, c);

    /// <summary>The tree l+8, l+4, l+2, l+1 of four sums at once.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Fold4(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d) =>
        Avx2Kernels.Fold4(a.GetLower() + a.GetUpper(), b.GetLower() + b.GetUpper(), c.GetLower() + c.GetUpper(), d.GetLower() + d.GetUpper());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Fold(Vector512<float> lanes) => Avx2Kernels.Fold(lanes.GetLower() + lanes.GetUpper());

    /// <summary>The last cols % 16 products, each in its own lane and no other: adding +0 to an untouched lane could change the sign of a zero.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Vector512<float> Tail<T>(Vector512<float> lanes, byte* row, float* x, int from, int cols) where T : struct, IStored
    {
        float* l = stackalloc float[16];
        lanes.Store(l);
        for (int k = from; k < cols; k++) l[k - from] = MathF.FusedMultiplyAdd(T.One(row, k), x[k], l[k - from]);
        return Vector512.Load(l);
    }

    /// <summary>Four dot products of a stored row and a float row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Dot4<T>(byte* r0, byte* r1, byte* r2, byte* r3, float* x0, float* x1, float* x2, float* x3, int cols) where T : struct, IStored
    {
        Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default;
        int k = 0;
        for (; k + 16 <= cols; k += 16)
        {
            a0 = Mad(T.Sixteen(r0, k), Vector512.Load(x0 + k), a0);
            a1 = Mad(T.Sixteen(r1, k), Vector512.Load(x1 + k), a1);
            a2 = Mad(T.Sixteen(r2, k), Vector512.Load(x2 + k), a2);
            a3 = Mad(T.Sixteen(r3, k), Vector512.Load(x3 + k), a3);
        }
        if (k == cols) return Fold4(a0, a1, a2, a3);
        // Not "a0 = Tail(a0, ...)": a sum returned into its own variable would live in memory through the whole loop.
        return Fold4(Tail<T>(a0, r0, x0, k, cols), Tail<T>(a1, r1, x1, k, cols), Tail<T>(a2, r2, x2, k, cols), Tail<T>(a3, r3, x3, k, cols));
    }
}
