namespace FlashOrleans.Flash;

/// <summary>
/// How much a unit deserves its slot: uses, each decaying by .98 per tick (what it does in the long run), plus a bonus that fades within a few
/// ticks of the last use (what the text is about now). In the stationary model of WindowPolicyTests the gain over pure frequency and pure recency comes
/// from scoring by frequency while what was just read stays; the bonus is neutral there and is for bursts and drift, to be settled on traces of real
/// checkpoints. Kept per unit, not per slot, so that history outlives eviction. Ageing is lazy: a tick is one addition.
/// Units of experts are kept by recency alone (docs/adr/0025): their popularity is flat and drifts.
/// Conductor thread.
/// </summary>
internal sealed class WindowScore
{
    public const float Decay = 0.98f;
    /// <summary>Weight of recency in uses, and how fast it fades.</summary>
    public const float RecentBonus = 2f, RecentDecay = 0.7f;
    /// <summary>Older than this nothing of a use is left.</summary>
    private const int Horizon = 1024;

    private readonly float[] _decay = new float[Horizon + 1];
    private readonly float[] _recent = new float[Horizon + 1];
    /// <summary>By recency alone the score of a unit of this age is as much over 1 + age: 4, what a guess may not take, at 15 ticks.</summary>
    private const float RecencyOnly = 64;

    private readonly bool _recency;
    private readonly float[] _weight;
    private readonly int[] _last;

    public WindowScore(int units, bool recency = false)
    {
        _recency = recency;
        _weight = new float[units];
        _last = new int[units];
        for (int age = 0; age < Horizon; age++)
        {
            _decay[age] = (float)Math.Pow(Decay, age);
            _recent[age] = RecentBonus * (float)Math.Pow(RecentDecay, age);
        }
    }

    public int Now { get; private set; }

    public void Tick() => Now++;

    public void Use(int unit)
    {
        _weight[unit] = _weight[unit] * _decay[Age(unit)] + 1;
        _last[unit] = Now;
    }

    public float Of(int unit)
    {
        float weight = _weight[unit];
        if (weight == 0) return 0; // never used: no recency either
        if (_recency) return RecencyOnly / (1f + (uint)(Now - _last[unit]));
        int age = Age(unit);
        return weight * _decay[age] + _recent[age];
    }

    // Ticks wrap after 2^31; the difference stays right.
    private int Age(int unit) => (int)Math.Min((uint)(Now - _last[unit]), Horizon);
}
