using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The angle that one position adds to each pair of a head's numbers, from a <see cref="RopeConfig"/>: what Hugging Face's rotary initialisers compute.
/// With d rotated numbers, pair i has base frequency theta^(-2i/d); pairs beyond d/2 have 0 and are not turned. Pure functions.
/// </summary>
public static class RopeFrequencies
{
    /// <summary>headDim/2 frequencies for a sequence of <paramref name="length"/> tokens in all (only dynamic and longrope ask for it).</summary>
    public static float[] For(RopeConfig rope, int headDim, int length)
    {
        ArgumentNullException.ThrowIfNull(rope);
        int d = rope.Dims == 0 ? headDim : rope.Dims;
        double theta = rope.Theta;
        if (rope.Scaling == RopeScaling.Dynamic && length > rope.OriginalPositions)
            theta *= Math.Pow(rope.Factor * length / rope.OriginalPositions - (rope.Factor - 1), d / (d - 2.0));
        float[] all = new float[headDim / 2];
        for (int i = 0; i < d / 2; i++)
        {
            double f = 1 / Math.Pow(theta, 2.0 * i / d);
            all[i] = (float)(rope.Scaling switch
            {
                RopeScaling.Linear => f / rope.Factor,
                RopeScaling.Llama3 => Llama3(rope, f),
                RopeScaling.Yarn => Yarn(rope, d, i, f),
                RopeScaling.LongRope => f / (length > rope.OriginalPositions ? rope.LongFactors : rope.ShortFactors)[i],
                _ => f,
            });
        }
        return all;
    }

    /// <summary>
    /// Two lengths of which the rotation is the same have the same regime: a layer's cached keys are good as long as it stays. Longrope turns every key anew when
    /// a sequence outgrows the short factors; dynamic scaling leaves keys as they were rotated, so its regime never changes.
    /// </summary>
    public static bool SameRegime(RopeConfig? rope, int length, int other) =>
        rope?.Scaling != RopeScaling.LongRope || length > rope.OriginalPositions == other > rope.OriginalPositions;

    /// <summary>The least length that is rotated as this one is: what a step carries, so that tokens of one rotation can share steps.</summary>
    public static int Canonical(RopeConfig? rope, int length) => rope switch
    {
        { Scaling: RopeScaling.LongRope } => length > rope.OriginalPositions ? rope.OriginalPositions + 1 : 1,
        { Scaling: RopeScaling.Dynamic } => length > rope.OriginalPositions ? length : 1,
        _ => 0,
    };

    /// <summary>Long wavelengths are stretched, short ones stay, between them a straight line.</summary>
    private static double Llama3(RopeConfig rope, double f)
    {
        double turns = rope.OriginalPositions * f / (2 * Math.PI);
        if (turns < rope.LowFrequencyFactor) return f / rope.Factor;
        if (turns > rope.HighFrequencyFactor) return f;
        double smooth = (turns - rope.LowFrequencyFactor) / (rope.HighFrequencyFactor - rope.LowFrequencyFactor);
        return (1 - smooth) * f / rope.Factor + smooth * f;
    }

    /// <summary>Pairs that turn often are kept, those that turn seldom interpolated, between them a ramp (arXiv 2309.00071).</summary>
    private static double Yarn(RopeConfig rope, int d, int i, double f)
    {
        double Correction(double turns) => d * Math.Log(rope.OriginalPositions / (turns * 2 * Math.PI)) / (2 * Math.Log(rope.Theta));
        double low = Correction(rope.BetaFast), high = Correction(rope.BetaSlow);
        if (rope.Truncate) (low, high) = (Math.Floor(low), Math.Ceiling(high));
        low = Math.Max(low, 0);
        high = Math.Min(high, d - 1);
        if (low == high) high += 0.001;
        double ramp = Math.Clamp((i - low) / (high - low), 0, 1);
        return f / rope.Factor * ramp + f * (1 - ramp);
    }
}
