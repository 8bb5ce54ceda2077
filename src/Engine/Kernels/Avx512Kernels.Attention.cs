using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashOrleans.Engine;

/// <summary>Attention over one block of cached keys and values.</summary>
internal sealed unsafe partial class Avx512Kernels
{
    public override void Scores(float* q, byte* keys, nint stride, bool half, int count, int headDim, float scale, float* scores, byte* next)
    {
        if (half) Scores<StoredF16>(q, keys, stride, count, headDim, scale, scores, next);
        else Scores<StoredF32>(q, keys, stride, count, headDim, scale, scores, next);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores<T>(float* q, byte* keys, nint stride, int count, int headDim, float scale, float* scores, byte* next) where T : struct, IStored
    {
        for (int i = 0; i < count; i += 4)
        {
            if (next != null) Ask(next + i * stride, Math.Min(4, count - i) * stride);
            // A missing key is computed as the last one and not stored.
            byte* k0 = keys + i * stride, k1 = keys + Math.Min(i + 1, count - 1) * stride, k2 = keys + Math.Min(i + 2, count - 1) * stride, k3 = keys + Math.Min(i + 3, count - 1) * stride;
            StoreFour(Dot4<T>(k0, k1, k2, k3, q, q, q, q, headDim) * Vector128.Create(scale), scores + i, count - i);
        }
    }

    public override void WeightedSum(float* p, byte* values, nint stride, bool half, int count, int headDim, float* acc, byte* next)
    {
        if (half) WeightedSum<StoredF16>(p, values, stride, count, headDim, acc, next);
        else WeightedSum<StoredF32>(p, values, stride, count, headDim, acc, next);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void WeightedSum<T>(float* p, byte* values, nint stride, int count, int headDim, float* acc, byte* next) where T : struct, IStored
    {
        int k = 0, each = T.Bytes;
        for (; k + 64 <= headDim; k += 64)
        {
            Vector512<float> t0 = Vector512.Load(acc + k), t1 = Vector512.Load(acc + k + 16), t2 = Vector512.Load(acc + k + 32), t3 = Vector512.Load(acc + k + 48);
            byte* value = values;
            for (int i = 0; i < count; i++, value += stride)
            {
                if (next != null) Ask(next + (value - values) + k * each, 64 * each);
                Vector512<float> s = Vector512.Create(p[i]);
                t0 = Mad(s, T.Sixteen(value, k), t0);
                t1 = Mad(s, T.Sixteen(value, k + 16), t1);
                t2 = Mad(s, T.Sixteen(value, k + 32), t2);
                t3 = Mad(s, T.Sixteen(value, k + 48), t3);
            }
            t0.Store(acc + k); t1.Store(acc + k + 16); t2.Store(acc + k + 32); t3.Store(acc + k + 48);
        }
        for (; k + 32 <= headDim; k += 32)
        {
            Vector512<float> t0 = Vector512.Load(acc + k), t1 = Vector512.Load(acc + k + 16);
            byte* value = values;
            for (int i = 0; i < count; i++, value += stride)
            {
                Vector512<float> s = Vector512.Create(p[i]);
                t0 = Mad(s, T.Sixteen(value, k), t0);
                t1 = Mad(s, T.Sixteen(value, k + 16), t1);
            }
            t0.Store(acc + k); t1.Store(acc + k + 16);
        }
        for (; k + 16 <= headDim; k += 16)
        {
            Vector512<float> t = Vector512.Load(acc + k);
            byte* value = values;
            for (int i = 0; i < count; i++, value += stride) t = Mad(Vector512.Create(p[i]), T.Sixteen(value, k), t);
            t.Store(acc + k);
        }
        for (; k < headDim; k++)
            for (int i = 0; i < count; i++) acc[k] = MathF.FusedMultiplyAdd(p[i], T.One(values + i * stride, k), acc[k]);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override float ExpSum(float* s, int n, out float max)
    {
        Vector512<float> largest = Vector512.Create(float.NegativeInfinity);
        int i = 0;
        for (; i + 16 <= n; i += 16) largest = Avx512F.Max(Vector512.Load(s + i), largest);
        max = Avx2Kernels.Largest(Avx.Max(largest.GetLower(), largest.GetUpper()));
        for (; i < n; i++) max = s[i] > max ? s[i] : max;
        Vector512<float> lanes = default, shift = Vector512.Create(max);
        for (i = 0; i + 16 <= n; i += 16)
        {
            Vector512<float> e = FloatMath.Exp(Vector512.Load(s + i) - shift);
            e.Store(s + i);
            lanes += e;
        }
        if (i == n) return Fold(lanes);
        float* l = stackalloc float[16];
        lanes.Store(l);
        for (int first = i; i < n; i++)
        {
            s[i] = FloatMath.Exp(s[i] - max);
            l[i - first] += s[i];
        }
        return Fold(Vector512.Load(l));
    }
}
