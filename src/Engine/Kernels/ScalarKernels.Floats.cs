namespace FlashOrleans.Engine;

internal sealed unsafe partial class ScalarKernels
{
    public override void Scores(float* q, byte* keys, nint stride, bool half, int count, int headDim, float scale, float* scores, byte* next)
    {
        float* lanes = stackalloc float[16];
        for (int i = 0; i < count; i++)
        {
            byte* key = keys + i * stride;
            new Span<float>(lanes, 16).Clear();
            for (int k = 0; k < headDim; k++) lanes[k % 16] = MathF.FusedMultiplyAdd(q[k], half ? FloatMath.FromHalf(((ushort*)key)[k]) : ((float*)key)[k], lanes[k % 16]);
            scores[i] = Fold(lanes) * scale;
        }
    }

    public override void WeightedSum(float* p, byte* values, nint stride, bool half, int count, int headDim, float* acc, byte* next)
    {
        for (int i = 0; i < count; i++)
        {
            byte* value = values + i * stride;
            for (int k = 0; k < headDim; k++) acc[k] = MathF.FusedMultiplyAdd(p[i], half ? FloatMath.FromHalf(((ushort*)value)[k]) : ((float*)value)[k], acc[k]);
        }
    }

    public override float ExpSum(float* s, int n, out float max)
    {
        max = float.NegativeInfinity;
        for (int i = 0; i < n; i++) max = s[i] > max ? s[i] : max;
        float* lanes = stackalloc float[16];
        new Span<float>(lanes, 16).Clear();
        for (int i = 0; i < n; i++)
        {
            s[i] = FloatMath.Exp(s[i] - max);
            lanes[i % 16] += s[i];
        }
        return Fold(lanes);
    }

    public override void RmsNorm(float* x, float* w, int cols, float eps, float* y)
    {
        float* lanes = stackalloc float[16];
        new Span<float>(lanes, 16).Clear();
        for (int k = 0; k < cols; k++) lanes[k % 16] = MathF.FusedMultiplyAdd(x[k], x[k], lanes[k % 16]);
        float factor = 1f / MathF.Sqrt(Fold(lanes) / cols + eps);
        for (int k = 0; k < cols; k++) y[k] = x[k] * factor * w[k];
    }

    public override void LayerNorm(float* x, float* w, float* b, int cols, float eps, float* y)
    {
        float* lanes = stackalloc float[16];
        new Span<float>(lanes, 16).Clear();
        for (int k = 0; k < cols; k++) lanes[k % 16] += x[k];
        float mean = Fold(lanes) / cols;
        new Span<float>(lanes, 16).Clear();
        for (int k = 0; k < cols; k++) lanes[k % 16] = MathF.FusedMultiplyAdd(x[k] - mean, x[k] - mean, lanes[k % 16]);
        float factor = 1f / MathF.Sqrt(Fold(lanes) / cols + eps);
        for (int k = 0; k < cols; k++) y[k] = MathF.FusedMultiplyAdd((x[k] - mean) * factor, w[k], b[k]);
    }

    public override void Add(float* x, float* y, int n)
    {
        for (int i = 0; i < n; i++) x[i] += y[i];
    }

    public override void Scale(float* x, float f, int n)
    {
        for (int i = 0; i < n; i++) x[i] *= f;
    }

    public override void Silu(float* x, int n)
    {
        for (int i = 0; i < n; i++) x[i] = x[i] / (1f + FloatMath.Exp(-x[i]));
    }

    public override void Rope(float* x, int heads, int headDim, float* cos, float* sin)
    {
        int half = headDim / 2;
        for (int h = 0; h < heads; h++, x += headDim)
            for (int i = 0; i < half; i++)
            {
                float a = x[i], b = x[i + half];
                x[i] = a * cos[i] - b * sin[i];
                x[i + half] = b * cos[i] + a * sin[i];
            }
    }

    public override void ToHalf(float* x, int n, ushort* y)
    {
        for (int i = 0; i < n; i++) y[i] = FloatMath.ToHalf(x[i]);
    }

    public override void FromHalf(ushort* x, int n, float* y, byte* next)
    {
        for (int i = 0; i < n; i++) y[i] = FloatMath.FromHalf(x[i]);
    }

    public override void FromInt8(sbyte* x, int n, float* y, byte* next)
    {
        for (int i = 0; i < n; i++) y[i] = x[i];
    }
}
