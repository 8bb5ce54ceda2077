namespace FlashOrleans.Engine;

/// <summary>
/// Which units a layer's steps need: neuron i fires with probability p ~ Beta(a, b), independently from token to token; the mean is the layer's density. The model and
/// a = 0.3 are those that fit the published figures of OPT-6.7B (mean 3.3 %: 26 % of the neurons make 80 % of the activations; unions over 1 to 256 tokens within a few points).
/// <para>Silent(k) = E[(1 − p)^k] = Γ(b + k) Γ(a + b) / (Γ(b) Γ(a + b + k)): the share that is silent for k tokens; to the power of the neurons of a unit, which fire apart.</para>
/// <para>A window by recency that holds what fired within the last T steps of n tokens each holds the share 1 − Silent(nT), and a step misses
/// Silent(nT) − Silent(n(T + 1)) of all units: what was silent for T steps and fires in this one (Che's approximation). For 3.3 % that is 2.4, 1.9, 1.0 and .17 % at
/// windows of 7, 12, 24 and 50 %; simulated with least recently used 2.4, 1.9, 1.0, .18. The window's mixed score misses a quarter less, alike in all layers: an upper estimate.</para>
/// Experts: popularity is flat and what was used lately is what helps, of which this model knows nothing; a = 0.6 has the hit rates that sets with the reported locality have (docs/adr/0025): .72, .82 and .96 at 40, 50 and 73 % of 64 experts of which 8 are used, where those are .75, .83 and .94.
/// </summary>
internal readonly struct Firing
{
    private readonly double _a, _b;
    private readonly int _group;

    private Firing(double density, double a, int group)
    {
        density = Math.Clamp(density, 1e-4, 0.95);
        _a = a;
        _b = a * (1 - density) / density;
        _group = group;
    }

    /// <summary>Of OPT-6.7B.</summary>
    public const double Popularity = 0.3;

    public static Firing Neurons(double density, int group, double popularity = Popularity) => new(density, popularity, group);
    public static Firing Experts(double density) => new(density, 0.6, 1);

    /// <summary>Mean share of the neurons that one token fires.</summary>
    public double Density => _a / (_a + _b);

    public double Silent(double tokens) => Math.Exp(_group * (LogGamma(_b + tokens) - LogGamma(_b) + LogGamma(_a + _b) - LogGamma(_a + _b + tokens)));

    /// <summary>Share of the units that one step of so many tokens needs.</summary>
    public double Needed(int tokens) => 1 - Silent(tokens);

    /// <summary>The share that a step misses when the window holds what the last <paramref name="steps"/> of them needed.</summary>
    public double Missed(double steps, int tokens)
    {
        // Silent(k) (1 − Silent(k + n) / Silent(k)), the ratio as a product: the difference of two nearly equal numbers would be noise.
        double ratio = 0, k = steps * tokens;
        for (int j = 0; j < tokens; j++) ratio += Math.Log((_b + k + j) / (_a + _b + k + j));
        ratio *= _group;
        return Silent(k) * (ratio > -1e-5 ? -ratio * (1 + ratio / 2) : 1 - Math.Exp(ratio));
    }

    /// <summary>The smallest share of units in the window with which a step misses at most so large a share of all.</summary>
    public double WindowFor(double missed, int tokens)
    {
        double low = 0, high = MostSteps;
        if (Missed(high, tokens) > missed) return 1;
        for (int i = 0; i < 50; i++)
        {
            double middle = (low + high) / 2;
            if (Missed(middle, tokens) <= missed) high = middle;
            else low = middle;
        }
        return 1 - Silent(high * tokens);
    }

    /// <summary>What a step misses of all units with a window of this share.</summary>
    public double MissedWith(double share, int tokens)
    {
        if (share >= 1) return 0;
        double low = 0, high = MostSteps;
        for (int i = 0; i < 50; i++)
        {
            double middle = (low + high) / 2;
            if (1 - Silent(middle * tokens) <= share) low = middle;
            else high = middle;
        }
        return Missed(low, tokens);
    }

    private const double MostSteps = 1e6;

    /// <summary>Stirling's series from 10 on, below by Γ(x + 1) = x Γ(x).</summary>
    internal static double LogGamma(double x)
    {
        double below = 0;
        while (x < 10) below += Math.Log(x++);
        double r = 1 / x, r2 = r * r;
        return (x - 0.5) * Math.Log(x) - x + 0.5 * Math.Log(2 * Math.PI) + r * (1.0 / 12 - r2 * (1.0 / 360 - r2 * (1.0 / 1260 - r2 / 1680))) - below;
    }
}
