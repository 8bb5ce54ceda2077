namespace FlashOrleans.Engine;

/// <summary>
/// Attention of several queries over the same run of cached keys or values: the run becomes floats once, in <c>room</c>, and then serves them all. Every query's bits are those of the kernel for one.
/// </summary>
internal abstract unsafe partial class Kernels
{
    /// <summary>Numbers of the room that so many queries need.</summary>
    public static long RoomFloats(int queries, int width) => (long)MostValues * (width + queries);

    /// <summary><see cref="Scores"/> or <see cref="ScoresInt8"/> of each query, at most 64 keys that lie one behind the other; strides in numbers.</summary>
    public void ScoresOfMany(KvType type, float* q, int queries, nint qStride, byte* keys, float* keyScales, int count, int headDim, float scale, float* scores, nint scoresStride, float* room, byte* next = null)
    {
        if (queries == 1 && type == KvType.Q8) ScoresInt8(q, keys, keyScales, headDim, count, headDim, scale, scores, next);
        else if (queries == 1) Scores(q, keys, headDim * (type == KvType.F16 ? 2 : 4), type == KvType.F16, count, headDim, scale, scores, next);
        else
        {
            ScoresOfMany(q, queries, qStride, Floats(type, keys, count * headDim, room, next), count, headDim, scale, scores, scoresStride);
            if (type != KvType.Q8) return;
            for (int i = 0; i < queries; i++, scores += scoresStride) Times(scores, keyScales, count, scores);
        }
    }

    /// <summary><see cref="WeightedSum"/> or <see cref="WeightedSumInt8"/> of each query, at most 64 values that lie one behind the other; strides in numbers.</summary>
    public void WeightedSumOfMany(KvType type, float* p, int queries, nint pStride, byte* values, float* valueScales, int count, int width, float* acc, nint accStride, float* room, byte* next = null)
    {
        if (queries == 1 && type == KvType.Q8) WeightedSumInt8(p, values, valueScales, width, count, width, acc, next);
        else if (queries == 1) WeightedSum(p, values, width * (type == KvType.F16 ? 2 : 4), type == KvType.F16, count, width, acc, next);
        else
        {
            float* floats = Floats(type, values, count * width, room, next);
            if (type == KvType.Q8)
            {
                float* weights = room + (long)MostValues * width;
                for (int i = 0; i < queries; i++) Times(p + i * pStride, valueScales, count, weights + i * MostValues);
                p = weights;
                pStride = MostValues;
            }
            WeightedSumOfMany(p, queries, pStride, floats, count, width, acc, accStride);
        }
    }

    private float* Floats(KvType type, byte* stored, int n, float* room, byte* next)
    {
        if (type == KvType.F32) return (float*)stored;
        if (type == KvType.F16) FromHalf((ushort*)stored, n, room, next);
        else FromInt8((sbyte*)stored, n, room, next);
        return room;
    }

    /// <summary>f16 as floats; <paramref name="next"/>: as many that are asked for meanwhile.</summary>
    public abstract void FromHalf(ushort* x, int n, float* y, byte* next);

    /// <summary>8-bit integers as floats; <paramref name="next"/>: as many that are asked for meanwhile.</summary>
    public abstract void FromInt8(sbyte* x, int n, float* y, byte* next);

    protected virtual void ScoresOfMany(float* q, int queries, nint qStride, float* keys, int count, int headDim, float scale, float* scores, nint scoresStride)
    {
        for (int i = 0; i < queries; i++) Scores(q + i * qStride, (byte*)keys, headDim * 4, false, count, headDim, scale, scores + i * scoresStride);
    }

    protected virtual void WeightedSumOfMany(float* p, int queries, nint pStride, float* values, int count, int width, float* acc, nint accStride)
    {
        for (int i = 0; i < queries; i++) WeightedSum(p + i * pStride, (byte*)values, width * 4, false, count, width, acc + i * accStride);
    }
}
