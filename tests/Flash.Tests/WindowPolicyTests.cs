namespace FlashOrleans.Flash.Tests;

/// <summary>
/// Misses of eviction policies in a model of neuron activity that fits published figures: unit i fires with probability p ~ Beta(.3, 8.8)
/// (mean 3.3 %, so 26 % of units make most of the activations); with persistence r a unit repeats its last state with probability r.
/// Fixed seed; the two rivals are computed here by definition (sort and cut), the window by itself.
/// </summary>
public sealed class WindowPolicyTests
{
    private const int Units = 4096, Warm = 300, Tokens = 500;

    [Theory]
    [InlineData(0.24, 0.3)]
    [InlineData(0.12, 0.3)]
    [InlineData(0.24, 0.6)]
    public void The_mixed_score_misses_less_than_recency_and_than_frequency_alone(double share, double persistence)
    {
        int slots = (int)(share * Units);
        double mixed = Misses(persistence, new WindowPolicy(slots));
        double recency = Misses(persistence, new SortedPolicy(slots, frequency: false));
        double frequency = Misses(persistence, new SortedPolicy(slots, frequency: true));
        TestContext.Current.TestOutputHelper?.WriteLine($"window {share:P0}, persistence {persistence}: misses per token mixed {mixed:P2}, recency {recency:P2}, frequency {frequency:P2}");
        Assert.True(mixed < 0.98 * recency, $"mixed {mixed:P2} against recency {recency:P2}");
        Assert.True(mixed < 0.98 * frequency, $"mixed {mixed:P2} against frequency {frequency:P2}");
    }

    private interface IPolicy : IDisposable
    {
        /// <summary>One token's set; returns how many of it were missing.</summary>
        int Step(List<int> active);
    }

    /// <summary>Share of all units that one token has to read.</summary>
    private static double Misses(double persistence, IPolicy policy)
    {
        Random random = new(20240229);
        double[] p = [.. Enumerable.Range(0, Units).Select(_ => Beta(random, 0.3, 0.3 * (1 - 0.033) / 0.033))];
        bool[] on = [.. p.Select(x => random.NextDouble() < x)];
        long misses = 0;
        List<int> active = [];
        using (policy)
        {
            for (int token = 0; token < Warm + Tokens; token++)
            {
                active.Clear();
                for (int u = 0; u < Units; u++)
                {
                    double repeat = random.NextDouble(), fire = random.NextDouble();
                    if (repeat >= persistence) on[u] = fire < p[u];
                    if (on[u]) active.Add(u);
                }
                int missed = policy.Step(active);
                if (token >= Warm) misses += missed;
            }
        }
        return misses / (double)Tokens / Units;
    }

    /// <summary>Jöhnk's method: fine for small parameters, for the second one as a ratio of gammas would be; here by powers and a sum of exponentials.</summary>
    private static double Beta(Random random, double a, double b)
    {
        double x = Gamma(random, a), y = Gamma(random, b);
        return x / (x + y);
    }

    private static double Gamma(Random random, double shape)
    {
        // Whole part: exponentials; fraction: Ahrens and Dieter's rejection.
        double sum = 0;
        for (; shape >= 1; shape--) sum -= Math.Log(1 - random.NextDouble());
        if (shape <= 0) return sum;
        while (true)
        {
            double u = random.NextDouble() * (1 + shape / Math.E), e = -Math.Log(1 - random.NextDouble());
            if (u <= 1)
            {
                double x = Math.Pow(u, 1 / shape);
                if (x <= e) return sum + x;
            }
            else
            {
                double x = -Math.Log((1 + shape / Math.E - u) / shape);
                if (Math.Pow(x, shape - 1) >= 1 - random.NextDouble()) return sum + x;
            }
        }
    }

    private sealed class WindowPolicy(int slots) : IPolicy
    {
        private readonly Window _window = new(Units, slots, 64, new MemoryLedger(), "window");
        private readonly List<int> _pinned = [];

        public int Step(List<int> active)
        {
            int missed = 0;
            foreach (int unit in active)
            {
                int slot = _window.Find(unit);
                if (slot < 0) continue;
                _window.Pin(slot);
                _pinned.Add(slot);
            }
            foreach (int unit in active)
            {
                int slot = _window.Find(unit);
                if (slot < 0)
                {
                    missed++;
                    slot = _window.Reserve(unit);
                    _window.Filled(slot);
                    _pinned.Add(slot);
                }
                _window.Touch(slot);
            }
            foreach (int slot in _pinned) _window.Unpin(slot);
            _pinned.Clear();
            _window.Tick();
            return missed;
        }

        public void Dispose() => _window.Dispose();
    }

    /// <summary>After each token the best units, of those held and those just read, stay.</summary>
    private sealed class SortedPolicy(int slots, bool frequency) : IPolicy
    {
        private readonly double[] _score = new double[Units];
        private HashSet<int> _held = [];
        private int _now;

        public int Step(List<int> active)
        {
            _now++;
            if (frequency)
                for (int u = 0; u < Units; u++) _score[u] *= 0.98;
            int missed = active.Count(unit => !_held.Contains(unit));
            foreach (int unit in active) _score[unit] = frequency ? _score[unit] + 1 : _now;
            _held.UnionWith(active);
            _held = [.. _held.OrderByDescending(unit => _score[unit]).ThenBy(unit => unit).Take(slots)];
            return missed;
        }

        public void Dispose() { }
    }
}
