namespace FlashOrleans.Engine;

/// <summary>Keys and values of 8 bits: integers with one float scale a head's row (one head, one position).</summary>
internal abstract unsafe partial class Kernels
{
    /// <summary>scores[i] = ((q · key_i) * scale) * keyScales[i]; keys are headDim int8 every <paramref name="stride"/> bytes, summed as floats are.</summary>
    public abstract void ScoresInt8(float* q, byte* keys, float* keyScales, nint stride, int count, int headDim, float scale, float* scores, byte* next = null);

    /// <summary>acc[d] = fma(p_i * valueScales[i], value_i[d], acc[d]), i ascending, at most 64 of them.</summary>
    public abstract void WeightedSumInt8(float* p, byte* values, float* valueScales, nint stride, int count, int headDim, float* acc, byte* next = null);

    /// <summary>scale = amax / 127, y = round-half-even(x / scale), 0 where amax is 0. A few thousand numbers a token: the same loop for every variant.</summary>
    public static float ToInt8(float* x, int n, sbyte* y)
    {
        float most = 0;
        for (int i = 0; i < n; i++) most = MathF.Max(most, MathF.Abs(x[i]));
        float scale = most / 127;
        if (!(scale > 0))
        {
            new Span<sbyte>(y, n).Clear();
            return 0;
        }
        for (int i = 0; i < n; i++) y[i] = (sbyte)MathF.Round(x[i] / scale);
        return scale;
    }

    protected static void Times(float* x, float* y, int n, float* to)
    {
        for (int i = 0; i < n; i++) to[i] = x[i] * y[i];
    }

    /// <summary>Positions of one call for 8 bits or for several queries.</summary>
    protected const int MostValues = 64;
}
