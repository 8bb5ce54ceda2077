using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashOrleans.Engine;

/// <summary>Row-wise float operations: sixteen at a time, the rest as <see cref="ScalarKernels"/> does.</summary>
internal sealed unsafe partial class Avx512Kernels
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void RmsNorm(float* x, float* w, int cols, float eps, float* y)
    {
        Vector512<float> lanes = default;
        int k = 0;
        for (; k + 16 <= cols; k += 16)
        {
            Vector512<float> v = Vector512.Load(x + k);
            lanes = Mad(v, v, lanes);
        }
        float squares = Fold(k < cols ? Tail<StoredF32>(lanes, (byte*)x, x, k, cols) : lanes);
        float factor = 1f / MathF.Sqrt(squares / cols + eps);
        for (k = 0; k + 16 <= cols; k += 16) (Vector512.Load(x + k) * Vector512.Create(factor) * Vector512.Load(w + k)).Store(y + k);
        for (; k < cols; k++) y[k] = x[k] * factor * w[k];
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void LayerNorm(float* x, float* w, float* b, int cols, float eps, float* y)
    {
        int whole = cols & ~15;
        Vector512<float> lanes = default;
        for (int k = 0; k < whole; k += 16) lanes += Vector512.Load(x + k);
        float mean = Fold(whole < cols ? SumTail(lanes, x, whole, cols) : lanes) / cols;
        lanes = default;
        for (int k = 0; k < whole; k += 16)
        {
            Vector512<float> v = Vector512.Load(x + k) - Vector512.Create(mean);
            lanes = Mad(v, v, lanes);
        }
        float squares = Fold(whole < cols ? VarianceTail(lanes, x, mean, whole, cols) : lanes);
        float factor = 1f / MathF.Sqrt(squares / cols + eps);
        for (int k = 0; k < whole; k += 16)
            Mad((Vector512.Load(x + k) - Vector512.Create(mean)) * Vector512.Create(factor), Vector512.Load(w + k), Vector512.Load(b + k)).Store(y + k);
        for (int k = whole; k < cols; k++) y[k] = MathF.FusedMultiplyAdd((x[k] - mean) * factor, w[k], b[k]);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Vector512<float> SumTail(Vector512<float> lanes, float* x, int from, int cols)
    {
        float* l = stackalloc float[16];
        lanes.Store(l);
        for (int k = from; k < cols; k++) l[k - from] += x[k];
        return Vector512.Load(l);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Vector512<float> VarianceTail(Vector512<float> lanes, float* x, float mean, int from, int cols)
    {
        float* l = stackalloc float[16];
        lanes.Store(l);
        for (int k = from; k < cols; k++) l[k - from] = MathF.FusedMultiplyAdd(x[k] - mean, x[k] - mean, l[k - from]);
        return Vector512.Load(l);
    }

    public override void Add(float* x, float* y, int n)
    {
        int i = 0;
        for (; i + 16 <= n; i += 16) (Vector512.Load(x + i) + Vector512.Load(y + i)).Store(x + i);
        for (; i < n; i++) x[i] += y[i];
    }

    public override void Scale(float* x, float f, int n)
    {
        int i = 0;
        for (; i + 16 <= n; i += 16) (Vector512.Load(x + i) * Vector512.Create(f)).Store(x + i);
        for (; i < n; i++) x[i] *= f;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public override void Silu(float* x, int n)
    {
        int i = 0;
        for (; i + 16 <= n; i += 16)
        {
            Vector512<float> v = Vector512.Load(x + i);
            (v / (Vector512<float>.One + FloatMath.Exp(-v))).Store(x + i);
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
            for (; i + 16 <= half; i += 16)
            {
                Vector512<float> a = Vector512.Load(x + i), b = Vector512.Load(x + i + half), c = Vector512.Load(cos + i), s = Vector512.Load(sin + i);
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
        for (; i + 16 <= n; i += 16) Avx512F.ConvertToVector256UInt16(FloatMath.ToHalf(Vector512.Load(x + i)).AsUInt32()).Store(y + i);
        for (; i < n; i++) y[i] = FloatMath.ToHalf(x[i]);
    }
}
