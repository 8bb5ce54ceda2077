namespace FlashOrleans.Flash;

/// <summary>How the score of a unit ages (docs/adr/0005, 0025).</summary>
/// <param name="Decay">What is left of a use after a tick.</param>
/// <param name="RecentBonus">What the last use is worth beyond that, in uses, fading by <see cref="WindowScore.RecentDecay"/> a tick.</param>
/// <param name="SureGuess">The score up to which a unit makes room for a guess where most guesses come true.</param>
/// <param name="DoubtfulGuess">The same where they do not.</param>
public sealed record Retention(float Decay, float RecentBonus, float SureGuess, float DoubtfulGuess)
{
    /// <summary>
    /// What a neuron does in the long run decides, and what the text is about now. The score of a stationary unit is its uses per tick times 50, so 4 means: what is used in more than one of 12 ticks is safer than a doubtful guess.
    /// A sure one takes what demand would take a moment later.
    /// </summary>
    public static Retention Neurons { get; } = new(0.98f, 2, 1e6f, 4);
    /// <summary>
    /// Popularity is flat and drifts: the last ten tokens or so decide. A step of several sessions needs more experts than a window may have slots, and what is held then is as likely to be needed as a guess is to be right, and read already:
    /// with uses per tick times 10, 4 is one step in three.
    /// </summary>
    public static Retention Experts { get; } = new(0.9f, 0, 4, 1);
}

/// <summary>
/// How much a unit deserves its slot: uses, each decaying per tick, plus a bonus that fades within a few
/// ticks of the last use. In the stationary model of WindowPolicyTests the gain over pure frequency and pure recency comes
/// from scoring by frequency while what was just read stays; the bonus is neutral there and is for bursts and drift, to be settled on traces of real
/// checkpoints. Kept per unit, not per slot, so that history outlives eviction. Ageing is lazy: a tick is one addition.
/// Conductor thread.
/// </summary>
internal sealed class WindowScore
{
    public const float RecentDecay = 0.7f;
    /// <summary>Older than this nothing of a use is left.</summary>
    private const int Horizon = 1024;

    private readonly float[] _decay = new float[Horizon + 1];
    private readonly float[] _recent = new float[Horizon + 1];
    private readonly float[] _weight;
    private readonly int[] _last;

    public WindowScore(int units, Retention retention)
    {
        _weight = new float[units];
        _last = new int[units];
        for (int age = 0; age < Horizon; age++)
        {
            _decay[age] = (float)Math.Pow(retention.Decay, age);
            _recent[age] = retention.RecentBonus * (float)Math.Pow(RecentDecay, age);
        }
    }

    public int Now { get; private set; }

    public void Tick(int ticks) => Now += ticks;

    public void Use(int unit, float uses = 1)
    {
        _weight[unit] = _weight[unit] * _decay[Age(unit)] + uses;
        _last[unit] = Now;
    }

    public float Of(int unit)
    {
        float weight = _weight[unit];
        if (weight == 0) return 0; // never used: no recency either
        int age = Age(unit);
        return weight * _decay[age] + _recent[age];
    }

    // Ticks wrap after 2^31; the difference stays right.
    private int Age(int unit) => (int)Math.Min((uint)(Now - _last[unit]), Horizon);
}
