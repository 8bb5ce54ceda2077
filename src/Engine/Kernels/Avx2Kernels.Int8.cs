namespace FlashOrleans.Engine;

/// <summary>Attention over 8-bit keys and values: the kernels for floats over integers that are widened as they are read, with the scales before or after.</summary>
internal sealed unsafe partial class Avx2Kernels
{
    public override void ScoresInt8(float* q, byte* keys, float* keyScales, nint stride, int count, int headDim, float scale, float* scores, byte* next)
    {
        Scores<StoredI8>(q, keys, stride, count, headDim, scale, scores, next);
        Times(scores, keyScales, count, scores);
    }

    public override void WeightedSumInt8(float* p, byte* values, float* valueScales, nint stride, int count, int headDim, float* acc, byte* next)
    {
        float* weights = stackalloc float[MostValues];
        Times(p, valueScales, count, weights);
        WeightedSum<StoredI8>(weights, values, stride, count, headDim, acc, next);
    }
}
