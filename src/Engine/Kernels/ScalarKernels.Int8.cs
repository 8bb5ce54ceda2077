namespace FlashOrleans.Engine;

/// <summary>Attention over 8-bit keys and values, to be read.</summary>
internal sealed unsafe partial class ScalarKernels
{
    public override void ScoresInt8(float* q, byte* keys, float* keyScales, nint stride, int count, int headDim, float scale, float* scores, byte* next)
    {
        float* lanes = stackalloc float[16];
        for (int i = 0; i < count; i++)
        {
            sbyte* key = (sbyte*)(keys + i * stride);
            new Span<float>(lanes, 16).Clear();
            for (int k = 0; k < headDim; k++) lanes[k % 16] = MathF.FusedMultiplyAdd(q[k], key[k], lanes[k % 16]);
            scores[i] = Fold(lanes) * scale * keyScales[i];
        }
    }

    public override void WeightedSumInt8(float* p, byte* values, float* valueScales, nint stride, int count, int headDim, float* acc, byte* next)
    {
        for (int i = 0; i < count; i++)
        {
            sbyte* value = (sbyte*)(values + i * stride);
            float weight = p[i] * valueScales[i];
            for (int k = 0; k < headDim; k++) acc[k] = MathF.FusedMultiplyAdd(weight, value[k], acc[k]);
        }
    }
}
