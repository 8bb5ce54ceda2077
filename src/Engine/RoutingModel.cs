using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The experts that one layer of a model with random weights uses (<see cref="RoutingConfig"/>): a function of (its seed, the session's seed, position, layer, expert), so replay, company, chunks and threads
/// cannot change it. A step asks only after it has done the router's arithmetic on its own hidden state; a look-ahead is given a copy in which some are wrong. Conductor thread; allocates nothing after it is made.
/// </summary>
public sealed class RoutingModel
{
    /// <summary>Added to a drawn expert's logit: the weights among the drawn ones stay what the router made them.</summary>
    private const float Lift = 64;

    private readonly RoutingConfig _config;
    private readonly ulong _layer;
    private readonly int _active;
    private readonly float[] _popularity, _scores;
    private readonly int[] _ranked;

    public RoutingModel(RoutingConfig config, int layer, ExpertConfig experts)
    {
        _config = config;
        _layer = (ulong)layer;
        _active = experts.Active;
        _popularity = new float[experts.Count];
        _scores = new float[experts.Count];
        // A guess draws from twice as many as are used.
        _ranked = new int[Math.Min(experts.Count, 2 * experts.Active)];
        for (int e = 0; e < experts.Count; e++) _popularity[e] = (float)config.Popularity * Normal(Mix(config.Seed ^ Mix(_layer << 20 ^ (ulong)e ^ 0x5A5A)));
    }

    /// <summary>What one session's draws depend on: its seed, which stays the same when it is replayed or goes on elsewhere.</summary>
    public ulong Key(ulong seed) => Mix(_config.Seed ^ Mix(seed + 1));

    /// <summary>The experts of a token, the highest score first.</summary>
    public ReadOnlySpan<int> Draw(ulong session, int position)
    {
        Rank(session, position);
        return _ranked.AsSpan(0, _active);
    }

    /// <summary>In the logits of a token's router: those drawn are lifted above all others.</summary>
    public void Choose(ulong session, int position, Span<float> logits)
    {
        foreach (int e in Draw(session, position)) logits[e] += Lift;
    }

    /// <summary>The same for a router that was asked a layer ahead: those drawn, but that each is missed with a probability, twice the mean for the last and none for the first, and the next best stands in for it.</summary>
    public void Guess(ulong session, int position, Span<float> logits)
    {
        Rank(session, position);
        ulong key = Mix(session ^ Mix((ulong)position << 12 ^ _layer) ^ 0xA11EAD);
        int spare = _active;
        for (int i = 0; i < _active; i++)
        {
            double missed = 2 * (1 - _config.AheadRecall) * (i + 0.5) / _active;
            bool right = Mix(key + (ulong)i) / (double)ulong.MaxValue >= missed || spare == _ranked.Length;
            logits[right ? _ranked[i] : _ranked[spare++]] += Lift;
        }
    }

    private void Rank(ulong session, int position)
    {
        ulong layer = Mix(session ^ (_layer + 1) * 0x9E3779B97F4A7C15);
        float fresh = (float)_config.Fresh, brief = (float)_config.Short, slow = (float)_config.Long;
        for (int e = 0; e < _scores.Length; e++)
        {
            ulong key = Mix(layer + (ulong)e);
            // Each expert's spans begin elsewhere, so that a set changes a little at a time.
            long of = (position + (long)(key % (ulong)_config.ShortTokens)) / _config.ShortTokens, within = (position + (long)((key >> 32) % (ulong)_config.LongTokens)) / _config.LongTokens;
            _scores[e] = _popularity[e] + fresh * Normal(Mix(key ^ (ulong)position << 2 ^ 1)) + brief * Normal(Mix(key ^ (ulong)of << 2 ^ 2)) + slow * Normal(Mix(key ^ (ulong)within << 2 ^ 3));
        }
        for (int i = 0; i < _ranked.Length; i++)
        {
            int best = 0;
            for (int e = 1; e < _scores.Length; e++)
                if (_scores[e] > _scores[best]) best = e;
            _ranked[i] = best;
            _scores[best] = float.NegativeInfinity;
        }
    }

    /// <summary>Nearly: the sum of four uniform numbers.</summary>
    private static float Normal(ulong h)
    {
        uint sum = (ushort)h + (uint)(ushort)(h >> 16) + (ushort)(h >> 32) + (ushort)(h >> 48);
        return (sum - 131070f) * (1 / 37837f);
    }

    /// <summary>The finalizer of SplitMix64 (Steele, Lea and Flood 2014).</summary>
    private static ulong Mix(ulong x)
    {
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
        x = (x ^ x >> 27) * 0x94D049BB133111EB;
        return x ^ x >> 31;
    }
}
