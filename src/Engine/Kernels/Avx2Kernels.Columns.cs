using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>The down rows of a block of neurons for several tokens: 32 columns as floats, then four tokens' sums of sixteen columns in eight registers.</summary>
internal sealed unsafe partial class Avx2Kernels
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override void Expand(WeightFormat format, byte** rows, int n, int column, float* scales, float* minima, float* w)
    {
        Vector256<int> nibble = Vector256.Create(15);
        for (int i = 0; i < n; i++, w += 32)
        {
            byte* row = rows[i];
            switch (format)
            {
                case WeightFormat.F32: ExpandRow<StoredF32>(row, column, w); break;
                case WeightFormat.BF16: ExpandRow<StoredBF16>(row, column, w); break;
                case WeightFormat.Q8:
                    for (int k = 0; k < 32; k += 8) Floats((sbyte*)row + column + k).Store(w + k);
                    break;
                default:
                    Vector256<int> q = Avx2.ConvertToVector256Int32(row + column / 2), r = Avx2.ConvertToVector256Int32(row + column / 2 + 8);
                    if (format == WeightFormat.Q4)
                    {
                        MinusEight(q & nibble).Store(w);
                        MinusEight(r & nibble).Store(w + 8);
                        MinusEight(q >>> 4).Store(w + 16);
                        MinusEight(r >>> 4).Store(w + 24);
                        break;
                    }
                    Vector256<float> s = Vector256.Create(scales[8 * i]), m = Vector256.Create(minima[8 * i]);
                    Mad(s, Avx.ConvertToVector256Single(q & nibble), m).Store(w);
                    Mad(s, Avx.ConvertToVector256Single(r & nibble), m).Store(w + 8);
                    Mad(s, Avx.ConvertToVector256Single(q >>> 4), m).Store(w + 16);
                    Mad(s, Avx.ConvertToVector256Single(r >>> 4), m).Store(w + 24);
                    break;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void ExpandRow<T>(byte* row, int column, float* w) where T : struct, IStored
    {
        for (int k = 0; k < 32; k += 8) T.Eight(row, column + k).Store(w + k);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override void Scaled(float* a, float* scales, int n, float* c)
    {
        for (int i = 0; i < n; i++, a += 8, c += 8, scales += 8) (Vector256.Load(a) * Vector256.Create(*scales)).Store(c);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override void Sum(float* w, float* c, int n, int tokens, float* y, nint yStride, bool whole)
    {
        int t = 0;
        for (; t + 4 <= tokens; t += 4)
        {
            SumFour(w, c + t, n, y + t * yStride, yStride, whole);
            SumFour(w + 16, c + t, n, y + t * yStride + 16, yStride, whole);
        }
        for (; t < tokens; t++) SumOne(w, c + t, n, y + t * yStride, whole);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void SumFour(float* w, float* c, int n, float* y, nint yStride, bool whole)
    {
        Vector256<float> a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default, b2 = default, b3 = default;
        if (!whole)
        {
            a0 = Vector256.Load(y); b0 = Vector256.Load(y + 8);
            a1 = Vector256.Load(y + yStride); b1 = Vector256.Load(y + yStride + 8);
            a2 = Vector256.Load(y + 2 * yStride); b2 = Vector256.Load(y + 2 * yStride + 8);
            a3 = Vector256.Load(y + 3 * yStride); b3 = Vector256.Load(y + 3 * yStride + 8);
        }
        for (float* end = c + 8 * n; c < end; c += 8, w += 32)
        {
            Vector256<float> u = Vector256.Load(w), v = Vector256.Load(w + 8), s = Vector256.Create(c[0]);
            a0 = Mad(s, u, a0); b0 = Mad(s, v, b0); s = Vector256.Create(c[1]);
            a1 = Mad(s, u, a1); b1 = Mad(s, v, b1); s = Vector256.Create(c[2]);
            a2 = Mad(s, u, a2); b2 = Mad(s, v, b2); s = Vector256.Create(c[3]);
            a3 = Mad(s, u, a3); b3 = Mad(s, v, b3);
        }
        Put(a0, b0, y, whole);
        Put(a1, b1, y + yStride, whole);
        Put(a2, b2, y + 2 * yStride, whole);
        Put(a3, b3, y + 3 * yStride, whole);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void SumOne(float* w, float* c, int n, float* y, bool whole)
    {
        Vector256<float> a0 = default, a1 = default, a2 = default, a3 = default;
        if (!whole)
        {
            a0 = Vector256.Load(y); a1 = Vector256.Load(y + 8);
            a2 = Vector256.Load(y + 16); a3 = Vector256.Load(y + 24);
        }
        for (float* end = c + 8 * n; c < end; c += 8, w += 32)
        {
            Vector256<float> s = Vector256.Create(c[0]);
            a0 = Mad(s, Vector256.Load(w), a0);
            a1 = Mad(s, Vector256.Load(w + 8), a1);
            a2 = Mad(s, Vector256.Load(w + 16), a2);
            a3 = Mad(s, Vector256.Load(w + 24), a3);
        }
        Put(a0, a1, y, whole);
        Put(a2, a3, y + 16, whole);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(Vector256<float> a, Vector256<float> b, float* y, bool whole)
    {
        if (whole)
        {
            a += Vector256.Load(y);
            b += Vector256.Load(y + 8);
        }
        a.Store(y);
        b.Store(y + 8);
    }
}
