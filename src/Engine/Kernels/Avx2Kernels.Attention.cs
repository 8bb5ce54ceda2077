using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashOrleans.Engine;

/// <summary>Attention over one block of cached keys and values.</summary>
internal sealed unsafe partial class Avx2Kernels
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
        for (; k + 32 <= headDim; k += 32)
        {
            Vector256<float> t0 = Vector256.Load(acc + k), t1 = Vector256.Load(acc + k + 8), t2 = Vector256.Load(acc + k + 16), t3 = Vector256.Load(acc + k + 24);
            byte* value = values;
            for (int i = 0; i < count; i++, value += stride)
            {
                if (next != null) Ask(next + (value - values) + k * each, 32 * each);
                Vector256<float> s = Vector256.Create(p[i]);
                t0 = Mad(s, T.Eight(value, k), t0);
                t1 = Mad(s, T.Eight(value, k + 8), t1);
                t2 = Mad(s, T.Eight(value, k + 16), t2);
                t3 = Mad(s, T.Eight(value, k + 24), t3);
            }
            t0.Store(acc + k); t1.Store(acc + k + 8); t2.Store(acc + k + 16); t3.Store(acc + k + 24);
        }
        for (; k + 8 <= headDim; k += 8)
        {
            Vector256<float> t = Vector256.Load(acc + k);
            byte* value = values;
            for (int i = 0; i < count; i++, value += stride) t = Mad(Vector256.Create(p[i]), T.Eight(value, k), t);
            t.Store(acc + k);
        }
        for (; k < headDim; k++)
            for (int i = 0; i < count; i++) acc[k] = MathF.FusedMultiplyAdd(p[i], T.One(values + i * stride, k), acc[k]);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override float ExpSum(float* s, int n, out float max)
    {
        Vector256<float> largest = Vector256.Create(float.NegativeInfinity);
        int i = 0;
        for (; i + 8 <= n; i += 8) largest = Avx.Max(Vector256.Load(s + i), largest);
        max = Largest(largest);
        for (; i < n; i++) max = s[i] > max ? s[i] : max;
        Vector256<float> shift = Vector256.Create(max), low = default, high = default;
        for (i = 0; i + 16 <= n; i += 16)
        {
            Vector256<float> a = FloatMath.Exp(Vector256.Load(s + i) - shift), b = FloatMath.Exp(Vector256.Load(s + i + 8) - shift);
            a.Store(s + i);
            b.Store(s + i + 8);
            low += a;
            high += b;
        }
        if (i == n) return Fold(low + high);
        float* l = stackalloc float[16];
        low.Store(l);
        high.Store(l + 8);
        for (int first = i; i < n; i++)
        {
            s[i] = FloatMath.Exp(s[i] - max);
            l[i - first] += s[i];
        }
        return Fold(Vector256.Load(l) + Vector256.Load(l + 8));
    }

    public override void FromHalf(ushort* x, int n, float* y, byte* next) => Widen<StoredF16>((byte*)x, n, y, next);

    public override void FromInt8(sbyte* x, int n, float* y, byte* next) => Widen<StoredI8>((byte*)x, n, y, next);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Widen<T>(byte* x, int n, float* y, byte* next) where T : struct, IStored
    {
        int i = 0;
        for (; i + 64 <= n && next != null; i += 64)
        {
            Ask(next + i * T.Bytes, 64 * T.Bytes);
            for (int k = i; k < i + 64; k += 8) T.Eight(x, k).Store(y + k);
        }
        for (; i + 8 <= n; i += 8) T.Eight(x, i).Store(y + i);
        for (; i < n; i++) y[i] = T.One(x, i);
    }
}
