using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashOrleans.Engine;

/// <summary>Row-wise float operations: eight at a time (sums sixteen), the rest as <see cref="ScalarKernels"/> does.</summary>
internal sealed unsafe partial class Avx2Kernels
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void RmsNorm(float* x, float* w, int cols, float eps, float* y)
    {
        Vector256<float> low = default, high = default;
        int k = 0;
        for (; k + 16 <= cols; k += 16)
        {
            Vector256<float> a = Vector256.Load(x + k), b = Vector256.Load(x + k + 8);
            low = Mad(a, a, low);
            high = Mad(b, b, high);
        }
        float squares = Fold(k < cols ? Tail<StoredF32>(low, high, (byte*)x, x, k, cols) : low + high);
        float factor = 1f / MathF.Sqrt(squares / cols + eps);
        for (k = 0; k + 8 <= cols; k += 8) (Vector256.Load(x + k) * Vector256.Create(factor) * Vector256.Load(w + k)).Store(y + k);
        for (; k < cols; k++) y[k] = x[k] * factor * w[k];
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void LayerNorm(float* x, float* w, float* b, int cols, float eps, float* y)
    {
        int whole = cols & ~15;
        Vector256<float> low = default, high = default;
        for (int k = 0; k < whole; k += 16)
        {
            low += Vector256.Load(x + k);
            high += Vector256.Load(x + k + 8);
        }
        float mean = Fold(whole < cols ? SumTail(low, high, x, whole, cols) : low + high) / cols;
        Vector256<float> centre = Vector256.Create(mean);
        low = high = default;
        for (int k = 0; k < whole; k += 16)
        {
            Vector256<float> a = Vector256.Load(x + k) - centre, c = Vector256.Load(x + k + 8) - centre;
            low = Mad(a, a, low);
            high = Mad(c, c, high);
        }
        float squares = Fold(whole < cols ? VarianceTail(low, high, x, mean, whole, cols) : low + high);
        float factor = 1f / MathF.Sqrt(squares / cols + eps);
        for (int k = 0; k < whole; k += 8)
            Mad((Vector256.Load(x + k) - centre) * Vector256.Create(factor), Vector256.Load(w + k), Vector256.Load(b + k)).Store(y + k);
        for (int k = whole; k < cols; k++) y[k] = MathF.FusedMultiplyAdd((x[k] - mean) * factor, w[k], b[k]);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Vector256<float> SumTail(Vector256<float> low, Vector256<float> high, float* x, int from, int cols)
    {
        float* l = stackalloc float[16];
        low.Store(l);
        high.Store(l + 8);
        for (int k = from; k < cols; k++) l[k - from] += x[k];
        return Vector256.Load(l) + Vector256.Load(l + 8);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Vector256<float> VarianceTail(Vector256<float> low, Vector256<float> high, float* x, float mean, int from, int cols)
    {
        float* l = stackalloc float[16];
        low.Store(l);
        high.Store(l + 8);
        for (int k = from; k < cols; k++) l[k - from] = MathF.FusedMultiplyAdd(x[k] - mean, x[k] - mean, l[k - from]);
        return Vector256.Load(l) + Vector256.Load(l + 8);
    }

    public override void Add(float* x, float* y, int n)
    {
        int i = 0;
        for (; i + 8 <= n; i += 8) (Vector256.Load(x + i) + Vector256.Load(y + i)).Store(x + i);
        for (; i < n; i++) x[i] += y[i];
    }

    public override void Scale(float* x, float f, int n)
    {
        int i = 0;
        for (; i + 8 <= n; i += 8) (Vector256.Load(x + i) * Vector256.Create(f)).Store(x + i);
        for (; i < n; i++) x[i] *= f;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void Silu(float* x, int n)
    {
        int i = 0;
        for (; i + 8 <= n; i += 8)
        {
            Vector256<float> v = Vector256.Load(x + i);
            (v / (Vector256<float>.One + FloatMath.Exp(-v))).Store(x + i);
        }
        for (; i < n; i++) x[i] = x[i] / (1f + FloatMath.Exp(-x[i]));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void Rope(float* x, int heads, int headDim, float* cos, float* sin)
    {
        int half = headDim / 2;
        for (int h = 0; h < heads; h++, x += headDim)
        {
            int i = 0;
            for (; i + 8 <= half; i += 8)
            {
                Vector256<float> a = Vector256.Load(x + i), b = Vector256.Load(x + i + half), c = Vector256.Load(cos + i), s = Vector256.Load(sin + i);
                (a * c - b * s).Store(x + i);
                (b * c + a * s).Store(x + i + half);
            }
            for (; i < half; i++)
            {
                float a = x[i], b = x[i + half];
                x[i] = a * cos[i] - b * sin[i];
                x[i + half] = b * cos[i] + a * sin[i];
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void ToHalf(float* x, int n, ushort* y)
    {
        int i = 0;
        for (; i + 8 <= n; i += 8)
        {
            Vector256<int> half = FloatMath.ToHalf(Vector256.Load(x + i));
            Sse41.PackUnsignedSaturate(half.GetLower(), half.GetUpper()).Store(y + i);
        }
        for (; i < n; i++) y[i] = FloatMath.ToHalf(x[i]);
    }
}
