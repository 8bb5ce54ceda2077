using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>The down rows of a block of neurons for several tokens: 32 columns as floats, then eight tokens' sums in sixteen registers.</summary>
internal sealed unsafe partial class Avx512Kernels
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override void Expand(WeightFormat format, byte** rows, int n, int column, float* scales, float* minima, float* w)
    {
        switch (format)
        {
            case WeightFormat.F32: ExpandFloats<StoredF32>(rows, n, column, w); break;
            case WeightFormat.BF16: ExpandFloats<StoredBF16>(rows, n, column, w); break;
            case WeightFormat.Q8:
                for (int i = 0; i < n; i++, w += 32)
                {
                    Floats((sbyte*)rows[i] + column).Store(w);
                    Floats((sbyte*)rows[i] + column + 16).Store(w + 16);
                }
                break;
            case WeightFormat.Q4:
                Vector512<float> values = Vector512.Create(-8f, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
                for (int i = 0; i < n; i++, w += 32)
                {
                    Vector512<int> q = Bytes(rows[i] + column / 2);
                    Avx512F.PermuteVar16x32(values, q).Store(w);
                    Avx512F.PermuteVar16x32(values, q >> 4).Store(w + 16);
                }
                break;
            default:
                Vector512<float> steps = Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                for (int i = 0; i < n; i++, w += 32)
                {
                    Vector512<float> weights = Mad(Vector512.Create(scales[8 * i]), steps, Vector512.Create(minima[8 * i]));
                    Vector512<int> q = Bytes(rows[i] + column / 2);
                    Avx512F.PermuteVar16x32(weights, q).Store(w);
                    Avx512F.PermuteVar16x32(weights, q >> 4).Store(w + 16);
                }
                break;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void ExpandFloats<T>(byte** rows, int n, int column, float* w) where T : struct, IStored
    {
        for (int i = 0; i < n; i++, w += 32)
        {
            T.Sixteen(rows[i], column).Store(w);
            T.Sixteen(rows[i], column + 16).Store(w + 16);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override void Scaled(float* a, float* scales, int n, float* c)
    {
        for (int i = 0; i < n; i++, a += 8, c += 8, scales += 8) (Vector256.Load(a) * Vector256.Create(*scales)).Store(c);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override void Sum(float* w, float* c, int n, int tokens, float* y, nint yStride, bool whole)
    {
        if (tokens == 8)
        {
            SumEight(w, c, n, y, yStride, whole);
            return;
        }
        int t = 0;
        for (; t + 4 <= tokens; t += 4) SumFour(w, c + t, n, y + t * yStride, yStride, whole);
        for (; t < tokens; t++) SumOne(w, c + t, n, y + t * yStride, whole);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void SumEight(float* w, float* c, int n, float* y, nint yStride, bool whole)
    {
        Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default, a4 = default, a5 = default, a6 = default, a7 = default;
        Vector512<float> b0 = default, b1 = default, b2 = default, b3 = default, b4 = default, b5 = default, b6 = default, b7 = default;
        if (!whole)
        {
            float* at = y;
            a0 = Vector512.Load(at); b0 = Vector512.Load(at + 16); at += yStride;
            a1 = Vector512.Load(at); b1 = Vector512.Load(at + 16); at += yStride;
            a2 = Vector512.Load(at); b2 = Vector512.Load(at + 16); at += yStride;
            a3 = Vector512.Load(at); b3 = Vector512.Load(at + 16); at += yStride;
            a4 = Vector512.Load(at); b4 = Vector512.Load(at + 16); at += yStride;
            a5 = Vector512.Load(at); b5 = Vector512.Load(at + 16); at += yStride;
            a6 = Vector512.Load(at); b6 = Vector512.Load(at + 16); at += yStride;
            a7 = Vector512.Load(at); b7 = Vector512.Load(at + 16);
        }
        for (float* end = c + 8 * n; c < end; c += 8, w += 32)
        {
            Vector512<float> u = Vector512.Load(w), v = Vector512.Load(w + 16), s = Vector512.Create(c[0]);
            a0 = Mad(s, u, a0); b0 = Mad(s, v, b0); s = Vector512.Create(c[1]);
            a1 = Mad(s, u, a1); b1 = Mad(s, v, b1); s = Vector512.Create(c[2]);
            a2 = Mad(s, u, a2); b2 = Mad(s, v, b2); s = Vector512.Create(c[3]);
            a3 = Mad(s, u, a3); b3 = Mad(s, v, b3); s = Vector512.Create(c[4]);
            a4 = Mad(s, u, a4); b4 = Mad(s, v, b4); s = Vector512.Create(c[5]);
            a5 = Mad(s, u, a5); b5 = Mad(s, v, b5); s = Vector512.Create(c[6]);
            a6 = Mad(s, u, a6); b6 = Mad(s, v, b6); s = Vector512.Create(c[7]);
            a7 = Mad(s, u, a7); b7 = Mad(s, v, b7);
        }
        Put(a0, b0, y, whole); y += yStride;
        Put(a1, b1, y, whole); y += yStride;
        Put(a2, b2, y, whole); y += yStride;
        Put(a3, b3, y, whole); y += yStride;
        Put(a4, b4, y, whole); y += yStride;
        Put(a5, b5, y, whole); y += yStride;
        Put(a6, b6, y, whole); y += yStride;
        Put(a7, b7, y, whole);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void SumFour(float* w, float* c, int n, float* y, nint yStride, bool whole)
    {
        Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default, b2 = default, b3 = default;
        if (!whole)
        {
            a0 = Vector512.Load(y); b0 = Vector512.Load(y + 16);
            a1 = Vector512.Load(y + yStride); b1 = Vector512.Load(y + yStride + 16);
            a2 = Vector512.Load(y + 2 * yStride); b2 = Vector512.Load(y + 2 * yStride + 16);
            a3 = Vector512.Load(y + 3 * yStride); b3 = Vector512.Load(y + 3 * yStride + 16);
        }
        for (float* end = c + 8 * n; c < end; c += 8, w += 32)
        {
            Vector512<float> u = Vector512.Load(w), v = Vector512.Load(w + 16), s = Vector512.Create(c[0]);
            a0 = Mad(s, u, a0); b0 = Mad(s, v, b0); s = Vector512.Create(c[1]);
            a1 = Mad(s, u, a1); b1 = Mad(s, v, b1); s = Vector512.Create(c[2]);
            a2 = Mad(s, u, a2); b2 = Mad(s, v, b2); s = Vector512.Create(c[3]);
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
        Vector512<float> a = default, b = default;
        if (!whole)
        {
            a = Vector512.Load(y);
            b = Vector512.Load(y + 16);
        }
        for (float* end = c + 8 * n; c < end; c += 8, w += 32)
        {
            Vector512<float> s = Vector512.Create(c[0]);
            a = Mad(s, Vector512.Load(w), a);
            b = Mad(s, Vector512.Load(w + 16), b);
        }
        Put(a, b, y, whole);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(Vector512<float> a, Vector512<float> b, float* y, bool whole)
    {
        if (whole)
        {
            a += Vector512.Load(y);
            b += Vector512.Load(y + 16);
        }
        a.Store(y);
        b.Store(y + 16);
    }
}
