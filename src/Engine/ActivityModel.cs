using System.Numerics;
using System.Runtime.Intrinsics;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The sets of neurons of one layer of a model with random weights (<see cref="ActivityConfig"/>): what is drawn is a function of (its seed, the session's seed, position, layer, neuron), so
/// replay, company, chunks and threads cannot change it. A step asks only after it has done the selector's or predictor's arithmetic on its own hidden state, and pays for
/// everything the sets demand; the model saves it nothing. Conductor thread; allocates nothing after it is made.
/// <para>Neuron i fires at position t where u(i, s) is below p(i) · burst(t): p from Beta(a, b), s the last position at or before t at which i was drawn anew, which it is with probability 1 - persistence.
/// What a burst lifts above 1 is lost, so a factor on p is solved for, with which the mean is the layer's density. The predicted set is the
/// same draw with a larger factor, less what it forgets: it errs towards neurons that were near to firing, as trained predictors do.</para>
/// <para>Where neurons are ordered by popularity (<see cref="ActivityConfig.Ordered"/>) the same sets are drawn, and each neuron has another place.</para>
/// </summary>
public sealed unsafe class ActivityModel
{
    private const int Lanes = 8;
    /// <summary>Draws back in time, at most: beyond it a state is drawn anew whatever persistence says.</summary>
    private const int Longest = 16;
    /// <summary>What a selector's or predictor's scores become; all but <see cref="Missed"/> and <see cref="Idle"/> are above every cut.</summary>
    public const float Active = 2, Wrong = 1, Idle = -1, Missed = -2;

    private readonly ActivityConfig _config;
    private readonly int _layer;
    /// <summary>By neuron, rounded up to whole vectors with 0.</summary>
    private readonly float[] _probability;
    private readonly float _true, _chosen, _aheadOfTrue, _aheadOfChosen;
    /// <summary>By neuron as it is drawn: its place among those of the layer; null: the same.</summary>
    private readonly int[]? _place;

    public ActivityModel(ActivityConfig config, int layer, int neurons)
    {
        _config = config;
        _layer = layer;
        _probability = new float[(neurons + Lanes - 1) / Lanes * Lanes];
        double density = config.Density[layer], a = config.Popularity, b = a * (1 - density) / density;
        var random = new Random(HashCode(config.Seed, (ulong)layer));
        for (int i = 0; i < neurons; i++) _probability[i] = (float)Beta(random, a, b);
        float[] sample = _probability.AsSpan(0, Math.Min(neurons, 2048)).ToArray();
        _true = Factor(sample, config.Burst, density);
        double needed = Math.Min(0.95, density * config.Predicted);
        _chosen = config.Predicted == 1 ? _true : Factor(sample, config.Burst, needed);
        // Beyond what is needed a look-ahead guesses so many more.
        double wrong = config.AheadRecall * (1 / config.AheadPrecision - 1);
        _aheadOfTrue = Factor(sample, config.Burst, Math.Min(0.98, density * (1 + wrong)));
        _aheadOfChosen = Factor(sample, config.Burst, Math.Min(0.98, needed * (1 + wrong)));
        if (config.Ordered > 0) _place = Places(config.Ordered, neurons);
    }

    /// <summary>Those that were active most often in so many tokens first.</summary>
    private int[] Places(int tokens, int neurons)
    {
        int[] uses = new int[neurons], order = new int[neurons], place = new int[neurons];
        float[] scores = new float[neurons];
        // Nobody's session is measured by what it says itself.
        ulong session = Key(0xCA11B8A7E);
        for (int t = 0; t < tokens; t++)
        {
            fixed (float* g = scores) Exact(session, t, g, neurons, 0);
            for (int i = 0; i < neurons; i++) uses[i] -= scores[i] > 0 ? 1 : 0;
        }
        for (int i = 0; i < neurons; i++) order[i] = i;
        Array.Sort(uses, order);
        for (int i = 0; i < neurons; i++) place[order[i]] = i;
        return place;
    }

    /// <summary>What one session's draws depend on: its seed, which stays the same when it is replayed or goes on elsewhere.</summary>
    public ulong Key(ulong seed) => Mix(_config.Seed ^ Mix(seed + 1));

    /// <summary>In place of one row of the selector's pre-activations: the drawn set. Those that fire keep their size, above <paramref name="cut"/>.</summary>
    public void Exact(ulong session, int position, float* g, int neurons, float cut)
    {
        var draw = new Draw(this, session, position);
        var least = Vector256.Create(MathF.BitIncrement(cut));
        if (_place != null)
        {
            // All are idle with their size kept, until they fire.
            for (int i = 0; i < neurons; i++) g[i] = -(MathF.Abs(g[i]) + least[0]);
            for (int i = 0; i < neurons; i += Lanes)
            {
                for (uint fires = draw.Below(draw.At(i), i, _true).ExtractMostSignificantBits(); fires != 0; fires &= fires - 1)
                {
                    int neuron = i + BitOperations.TrailingZeroCount(fires);
                    if (neuron < neurons) g[_place[neuron]] = -g[_place[neuron]];
                }
            }
            return;
        }
        for (int i = 0; i < neurons; i += Lanes)
        {
            var fires = draw.Below(draw.At(i), i, _true);
            if (i + Lanes > neurons)
            {
                for (int k = 0; i + k < neurons; k++) g[i + k] = fires.GetElement(k) != 0 ? MathF.Abs(g[i + k]) + least[0] : Idle;
                return;
            }
            Vector256.ConditionalSelect(fires.AsSingle(), Vector256.Abs(Vector256.Load(g + i)) + least, Vector256.Create(Idle)).Store(g + i);
        }
    }

    /// <summary>In place of one row of a predictor's scores: <see cref="Active"/>, <see cref="Wrong"/>, <see cref="Missed"/> or <see cref="Idle"/>. Returns how many fire and how many of them are missed.</summary>
    public (int Fire, int Missed) Predicted(ulong session, int position, float* g, int neurons)
    {
        var draw = new Draw(this, session, position);
        var fire = Vector256<uint>.Zero;
        var missed = Vector256<uint>.Zero;
        for (int i = 0; i < neurons; i += Lanes)
        {
            var u = draw.At(i);
            var within = Vector256.LessThan(Vector256.Create((uint)i) + s_lanes, Vector256.Create((uint)neurons));
            var fires = draw.Below(u, i, _true) & within;
            var forgotten = _config.Recall == 1 ? Vector256<uint>.Zero : fires & draw.Chance(u, 1 - _config.Recall);
            fire -= fires;
            missed -= forgotten;
            var chosen = Vector256.ConditionalSelect(draw.Below(u, i, _chosen).AsSingle(), Vector256.Create(Wrong), Vector256.Create(Idle));
            Store(Vector256.ConditionalSelect(forgotten.AsSingle(), Vector256.Create(Missed), Vector256.ConditionalSelect(fires.AsSingle(), Vector256.Create(Active), chosen)), g, i, neurons);
        }
        return (Count(fire), Count(missed));
    }

    /// <summary><see cref="Predicted"/> into an array.</summary>
    public (int Fire, int Missed) PredictedInto(ulong session, int position, float[] scores)
    {
        fixed (float* g = scores) return Predicted(session, position, g, scores.Length);
    }

    /// <summary>In place of one row of scores computed a layer ahead: a guess at what the layer will read.</summary>
    /// <param name="session">Key of the session.</param>
    /// <param name="position">The row's position.</param>
    /// <param name="g">The row.</param>
    /// <param name="neurons">Its numbers.</param>
    /// <param name="predicted">The layer reads its predicted set, not the true one.</param>
    public void Ahead(ulong session, int position, float* g, int neurons, bool predicted)
    {
        var draw = new Draw(this, session, position);
        for (int i = 0; i < neurons; i += Lanes)
        {
            var u = draw.At(i);
            var guessed = Vector256.ConditionalSelect(draw.Below(u, i, predicted ? _aheadOfChosen : _aheadOfTrue).AsSingle(), Vector256.Create(Wrong), Vector256.Create(Idle));
            var needed = Vector256.ConditionalSelect(draw.Chance(u, 1 - _config.AheadRecall).AsSingle(), Vector256.Create(Idle), Vector256.Create(Active));
            Store(Vector256.ConditionalSelect(draw.Below(u, i, predicted ? _chosen : _true).AsSingle(), needed, guessed), g, i, neurons);
        }
    }

    private static readonly Vector256<uint> s_lanes = Vector256.Create(0u, 1, 2, 3, 4, 5, 6, 7);

    private static int Count(Vector256<uint> lanes)
    {
        uint n = 0;
        for (int k = 0; k < Lanes; k++) n += lanes[k];
        return (int)n;
    }

    private void Store(Vector256<float> values, float* g, int i, int neurons)
    {
        if (_place == null && i + Lanes <= neurons) values.Store(g + i);
        else
            for (int k = 0; k < Lanes && i + k < neurons; k++) g[_place == null ? i + k : _place[i + k]] = values[k];
    }

    /// <summary>The draws of one row.</summary>
    private readonly ref struct Draw
    {
        private readonly ActivityModel _model;
        private readonly uint _key, _persists;
        private readonly int _position;
        private readonly float _burst;
        private readonly uint _topic, _shift, _drift;

        public Draw(ActivityModel model, ulong session, int position)
        {
            var c = model._config;
            _model = model;
            _position = position;
            ulong key = Mix(session ^ (ulong)(model._layer + 1) * 0x9E3779B97F4A7C15);
            _key = (uint)key;
            _persists = (uint)(c.Persistence * 4096);
            _burst = (float)BurstOf(c, session, position, model._layer);
            int topic = (int)(((long)position + (long)(session % (ulong)c.Topic)) / c.Topic);
            ulong drift = Mix(session ^ (ulong)topic * 0xD6E8FEB86659FD93);
            _topic = (uint)drift | 1;
            _shift = (uint)(drift >> 33);
            _drift = (uint)(c.Drift * uint.MaxValue);
        }

        /// <summary>The last draws of neurons i to i + 7.</summary>
        public Vector256<uint> At(int i)
        {
            var at = (Vector256.Create((uint)i) + s_lanes + Vector256.Create(_key)) * 0x9E3779B1u;
            var u = Vector256<uint>.Zero;
            var open = Vector256<uint>.AllBitsSet;
            var persists = Vector256.Create(_persists);
            for (int back = 0; ; back++)
            {
                int position = _position - back;
                var h = Hash(at ^ Vector256.Create((uint)position * 0x85EBCA77u));
                u = Vector256.ConditionalSelect(open, h, u);
                if (position == 0 || back == Longest) return u;
                open &= Vector256.LessThan(h & Vector256.Create(0xFFFu), persists);
                if (open == Vector256<uint>.Zero) return u;
            }
        }

        /// <summary>Which of them are below probability · factor · burst.</summary>
        public Vector256<uint> Below(Vector256<uint> u, int i, float factor)
        {
            var p = _model._probability;
            int block = i / Lanes, blocks = p.Length / Lanes;
            // For the length of a topic some neurons are as popular as others: eight at a time, neurons being in no order.
            if (Hash((uint)block * 0x9E3779B1u ^ _topic) < _drift) block = (int)(((uint)block + _shift) % (uint)blocks);
            var limit = Vector256.Create<float>(p.AsSpan(block * Lanes, Lanes)) * (factor * _burst);
            return Vector256.LessThan(Vector256.ConvertToSingle((u >>> 12).AsInt32()) * (1f / (1 << 20)), limit).AsUInt32();
        }

        /// <summary>With this probability, for each draw anew at each position.</summary>
        public Vector256<uint> Chance(Vector256<uint> u, double probability) =>
            Vector256.LessThan(Hash(u ^ Vector256.Create(_key * 31 + (uint)_position)) >>> 1, Vector256.Create((uint)(probability * (1u << 31))));
    }

    /// <summary>Log-normal with mean 1; of its logarithm's variance one half is shared by four layers, the other by four others, so that neighbours go together.</summary>
    private static double BurstOf(ActivityConfig c, ulong session, int position, int layer)
    {
        if (c.Burst == 0) return 1;
        double z = (Normal(session, position, layer / 4, 1) + Normal(session, position, (layer + 2) / 4, 2)) * Math.Sqrt(0.5);
        return Math.Exp(c.Burst * z - c.Burst * c.Burst / 2);
    }

    /// <summary>Box–Muller.</summary>
    private static double Normal(ulong session, int position, int group, int which)
    {
        ulong h = Mix(session ^ Mix((ulong)position << 20 ^ (ulong)group << 2 ^ (ulong)which));
        double u = ((h >> 32) + 0.5) / 4294967296.0, v = (uint)h / 4294967296.0;
        return Math.Sqrt(-2 * Math.Log(u)) * Math.Cos(2 * Math.PI * v);
    }

    /// <summary>The factor f with which the mean of min(1, f · p · burst) is the density: bisection over a sample of neurons and the quantiles of bursts.</summary>
    private static float Factor(float[] p, double sigma, double density)
    {
        const int Quantiles = 33;
        Span<double> bursts = stackalloc double[Quantiles];
        for (int q = 0; q < Quantiles; q++) bursts[q] = sigma == 0 ? 1 : Math.Exp(sigma * Quantile((q + 0.5) / Quantiles) - sigma * sigma / 2);
        double low = 0, high = 1;
        while (Mean(p, bursts, high) < density && high < 1e6) high *= 2;
        for (int i = 0; i < 40; i++)
        {
            double middle = (low + high) / 2;
            if (Mean(p, bursts, middle) < density) low = middle;
            else high = middle;
        }
        return (float)high;

        static double Mean(float[] p, ReadOnlySpan<double> bursts, double f)
        {
            double sum = 0;
            foreach (double burst in bursts)
                foreach (float one in p) sum += Math.Min(1, one * f * burst);
            return sum / bursts.Length / p.Length;
        }
    }

    /// <summary>Of the normal distribution, by bisection of its distribution function (Abramowitz and Stegun 26.2.17, error below 1e-7).</summary>
    private static double Quantile(double share)
    {
        double low = -8, high = 8;
        for (int i = 0; i < 60; i++)
        {
            double x = (low + high) / 2, t = 1 / (1 + 0.2316419 * Math.Abs(x));
            double tail = Math.Exp(-x * x / 2) / Math.Sqrt(2 * Math.PI) * t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
            if ((x < 0 ? tail : 1 - tail) < share) low = x;
            else high = x;
        }
        return low;
    }

    private static double Beta(Random random, double a, double b)
    {
        double x = Gamma(random, a), y = Gamma(random, b);
        return x + y == 0 ? 0 : x / (x + y);
    }

    /// <summary>Marsaglia and Tsang 2000; below shape 1 by the power of a uniform number.</summary>
    private static double Gamma(Random random, double shape)
    {
        if (shape < 1) return Gamma(random, shape + 1) * Math.Pow(1 - random.NextDouble(), 1 / shape);
        double d = shape - 1.0 / 3, c = 1 / Math.Sqrt(9 * d);
        while (true)
        {
            double z = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()), v = 1 + c * z;
            if (v <= 0) continue;
            v = v * v * v;
            if (Math.Log(1 - random.NextDouble()) < 0.5 * z * z + d - d * v + d * Math.Log(v)) return d * v;
        }
    }

    private static int HashCode(ulong seed, ulong layer) => (int)Mix(seed ^ Mix(layer + 1));

    /// <summary>The finalizer of SplitMix64 (Steele, Lea and Flood 2014).</summary>
    private static ulong Mix(ulong x)
    {
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
        x = (x ^ x >> 27) * 0x94D049BB133111EB;
        return x ^ x >> 31;
    }

    /// <summary>Multiply and shift twice ("lowbias32", Wellons 2018).</summary>
    private static Vector256<uint> Hash(Vector256<uint> x)
    {
        x = (x ^ x >>> 16) * 0x7FEB352Du;
        x = (x ^ x >>> 15) * 0x846CA68Bu;
        return x ^ x >>> 16;
    }

    private static uint Hash(uint x)
    {
        x = (x ^ x >> 16) * 0x7FEB352Du;
        x = (x ^ x >> 15) * 0x846CA68Bu;
        return x ^ x >> 16;
    }
}
