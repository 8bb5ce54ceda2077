using System.Runtime.Intrinsics;

namespace FlashOrleans.Engine;

/// <summary>
/// Chooses tokens from logits at the tail. One compute thread at a time; scratch for one vocabulary, no allocation after construction, and no sampler
/// state: the random number is a function of (seed, absolute position), so a replayed, moved or recovered session draws the same tokens. Same logits, same
/// bits, on every machine: exp is <see cref="FloatMath"/>'s, logarithm is ours, sums have a fixed order.
/// <para>Order of the options: top-k, softmax at the temperature, top-p, min-p. So top-p and min-p speak of the distribution that is really drawn from
/// (the meaning in the OpenAI and Hugging Face interfaces), top-p of what top-k left. Ties go to the lower id everywhere.</para>
/// <para>Failure: logits that are not all finite give token -1 and a NaN log probability, never a guess.</para>
/// </summary>
internal sealed unsafe class Sampler(int vocabulary)
{
    private readonly float[] _weights = new float[vocabulary];
    private readonly int[] _order = new int[vocabulary];

    /// <summary>The token for <paramref name="position"/> (where it will stand), or -1. <paramref name="logProbability"/> is the token's log softmax at temperature 1, nothing cut off.</summary>
    public int Sample(float* logits, int n, in Sampling sampling, int position, out float logProbability)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(n, _weights.Length);
        logProbability = float.NaN;
        int best = Best(logits, n);
        if (best < 0) return -1;

        int token = best;
        if (sampling.Temperature > 0)
        {
            double u = Uniform(sampling.Seed, position);
            bool byRank = (sampling.TopK > 0 && sampling.TopK < n) || sampling.TopP < 1;
            token = byRank ? DrawByRank(logits, n, logits[best], sampling, u) : DrawById(logits, n, logits[best], sampling, u);
        }
        logProbability = (float)(logits[token] - logits[best] - Log(WeighAll(logits, n, logits[best], 1)));
        return token;
    }

    /// <summary>The k highest logits, best first. Ids that are NaN do not appear.</summary>
    public static (int Id, float Logit)[] TopLogits(float* logits, int n, int k)
    {
        var top = new (int Id, float Logit)[Math.Clamp(k, 0, n)];
        int held = 0;
        for (int id = 0; id < n; id++)
        {
            float logit = logits[id];
            if (float.IsNaN(logit) || top.Length == 0 || (held == top.Length && logit <= top[^1].Logit)) continue;
            int at = held < top.Length ? held++ : held - 1;
            for (; at > 0 && top[at - 1].Logit < logit; at--) top[at] = top[at - 1];
            top[at] = (id, logit);
        }
        return held == top.Length ? top : top[..held];
    }

    /// <summary>Negative log-likelihood of a token; NaN when the logits are not all finite or there is no such token.</summary>
    public float Nll(float* logits, int n, int target)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(n, _weights.Length);
        int best = Best(logits, n);
        if (best < 0 || (uint)target >= (uint)n) return float.NaN;
        return (float)(Log(WeighAll(logits, n, logits[best], 1)) + logits[best] - (double)logits[target]);
    }

    /// <summary>A number in [0, 1) from (seed, position): two rounds of the SplitMix64 finaliser, so that neighbouring seeds and positions have nothing in common.</summary>
    internal static double Uniform(ulong seed, int position)
    {
        const ulong gamma = 0x9E3779B97F4A7C15;
        ulong bits = Mix(Mix(seed + gamma) + ((ulong)(uint)position + 1) * gamma);
        return (bits >> 11) * (1.0 / (1UL << 53));
    }

    private static ulong Mix(ulong z)
    {
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }

    /// <summary>Id of the highest logit, the lowest such id; -1 when there is none or any is not finite.</summary>
    private static int Best(float* logits, int n)
    {
        if (n <= 0) return -1;
        float max = logits[0];
        int i = 0;
        if (n >= 8)
        {
            var high = Vector256.Create(max);
            var finite = Vector256<int>.AllBitsSet;
            for (; i + 8 <= n; i += 8)
            {
                var x = Vector256.Load(logits + i);
                // x - x is 0 for what is finite and NaN for the rest.
                finite &= Vector256.Equals(x - x, Vector256<float>.Zero).AsInt32();
                high = Vector256.ConditionalSelect(Vector256.GreaterThan(x, high), x, high);
            }
            if (finite != Vector256<int>.AllBitsSet) return -1;
            for (int lane = 0; lane < 8; lane++) max = MathF.Max(max, high[lane]);
        }
        for (; i < n; i++)
        {
            if (!float.IsFinite(logits[i])) return -1;
            max = MathF.Max(max, logits[i]);
        }
        if (!float.IsFinite(max)) return -1;
        int best = 0;
        while (best + 8 <= n && !Vector256.EqualsAny(Vector256.Load(logits + best), Vector256.Create(max))) best += 8;
        while (logits[best] != max) best++;
        return best;
    }

    /// <summary>All tokens, in the order of their ids.</summary>
    private int DrawById(float* logits, int n, float max, in Sampling sampling, double u)
    {
        double total = WeighAll(logits, n, max, sampling.Temperature);
        if (sampling.MinP > 0)
        {
            total = 0;
            for (int i = 0; i < n; i++)
            {
                if (_weights[i] < sampling.MinP && _weights[i] < 1) _weights[i] = 0;
                total += _weights[i];
            }
        }
        double left = u * total, sum = 0;
        int last = 0;
        for (int i = 0; i < n; i++)
        {
            if (_weights[i] == 0) continue;
            sum += _weights[i];
            last = i;
            if (left < sum) return i;
        }
        return last;
    }

    /// <summary>
    /// Best first, only as far as the options reach. Those that can matter at all are put into a heap, which gives them up in order and
    /// lays them down from its own end: n + candidates + kept · log candidates.
    /// </summary>
    private int DrawByRank(float* logits, int n, float max, in Sampling sampling, double u)
    {
        double all = 0;
        int candidates;
        if (sampling.TopK > 0 && sampling.TopK < n)
        {
            candidates = sampling.TopK;
            SelectBest(logits, n, candidates);
            for (int i = 0; i < candidates; i++) _weights[_order[i]] = FloatMath.Exp((logits[_order[i]] - max) / sampling.Temperature);
        }
        else
        {
            all = WeighAll(logits, n, max, sampling.Temperature);
            // All below (1 - p) / n of the sum have less than 1 - p together: the set ends before them. Half of it, for rounding's sake.
            float floor = (float)Math.Min(0.5 * (1 - (double)sampling.TopP) * all / n, 1);
            candidates = 0;
            for (int i = 0; i < n; i++)
                if (_weights[i] >= floor && _weights[i] > 0) _order[candidates++] = i;
        }
        for (int i = candidates / 2 - 1; i >= 0; i--) Sink(logits, i, candidates);

        // With top-k, top-p takes its share of the k.
        int sorted = 0;
        if (all == 0)
            while (sorted < candidates) all += _weights[Pop(logits, candidates - sorted++)];

        double total = 0;
        int kept = 0;
        while (kept < candidates)
        {
            float weight = _weights[kept < sorted ? _order[candidates - 1 - kept] : Pop(logits, candidates - kept)];
            // The best one (weight 1) always stays.
            if (kept > 0 && (weight < sampling.MinP || weight == 0)) break;
            total += weight;
            kept++;
            if (sampling.TopP < 1 && total >= sampling.TopP * all) break;
        }

        double left = u * total, sum = 0;
        for (int i = 0; i < kept - 1; i++)
        {
            int id = _order[candidates - 1 - i];
            sum += _weights[id];
            if (left < sum) return id;
        }
        return _order[candidates - kept];
    }

    /// <summary>The k best ids into the first k places, in no order: a heap with the worst on top, replaced by whatever is better.</summary>
    private void SelectBest(float* logits, int n, int k)
    {
        for (int i = 0; i < k; i++) _order[i] = i;
        for (int i = k / 2 - 1; i >= 0; i--) SinkWorst(logits, i, k);
        for (int i = k; i < n; i++)
        {
            // An equal logit of a higher id is worse.
            if (!(logits[i] > logits[_order[0]])) continue;
            _order[0] = i;
            SinkWorst(logits, 0, k);
        }
    }

    private void SinkWorst(float* logits, int at, int size)
    {
        int id = _order[at];
        while (true)
        {
            int child = 2 * at + 1;
            if (child >= size) break;
            if (child + 1 < size && Before(logits, _order[child], _order[child + 1])) child++;
            if (!Before(logits, id, _order[child])) break;
            _order[at] = _order[child];
            at = child;
        }
        _order[at] = id;
    }

    /// <summary>Takes the best of a heap of <paramref name="size"/> and puts it behind the rest.</summary>
    private int Pop(float* logits, int size)
    {
        int best = _order[0];
        _order[0] = _order[size - 1];
        _order[size - 1] = best;
        Sink(logits, 0, size - 1);
        return best;
    }

    private void Sink(float* logits, int at, int size)
    {
        int id = _order[at];
        while (true)
        {
            int child = 2 * at + 1;
            if (child >= size) break;
            if (child + 1 < size && Before(logits, _order[child + 1], _order[child])) child++;
            if (!Before(logits, _order[child], id)) break;
            _order[at] = _order[child];
            at = child;
        }
        _order[at] = id;
    }

    private static bool Before(float* logits, int a, int b) => logits[a] > logits[b] || (logits[a] == logits[b] && a < b);

    /// <summary>
    /// weights = exp((logit - max) / temperature); returns their sum in double: four lanes (i mod 4) and the rest after them, the same on every machine. A division,
    /// because the reciprocal of a tiny temperature would be infinite, and 0 · ∞ is NaN.
    /// </summary>
    private double WeighAll(float* logits, int n, float max, float temperature)
    {
        fixed (float* weights = _weights)
        {
            var lanes = Vector256<double>.Zero;
            int i = 0;
            for (; i + 8 <= n; i += 8)
            {
                var w = FloatMath.Exp((Vector256.Load(logits + i) - Vector256.Create(max)) / Vector256.Create(temperature));
                w.Store(weights + i);
                var (lower, upper) = Vector256.Widen(w);
                lanes = lanes + lower + upper;
            }
            double sum = lanes[0] + lanes[2] + (lanes[1] + lanes[3]);
            for (; i < n; i++)
            {
                weights[i] = FloatMath.Exp((logits[i] - max) / temperature);
                sum += weights[i];
            }
            return sum;
        }
    }

    /// <summary>Natural logarithm of a normal number, from IEEE operations alone: x = m · 2^e with m around 1, then 2 artanh((m - 1) / (m + 1)). Error below 1e-15.</summary>
    internal static double Log(double x)
    {
        long bits = BitConverter.DoubleToInt64Bits(x);
        int e = (int)(bits >> 52) - 1023;
        double m = BitConverter.Int64BitsToDouble((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
        if (m > 1.4142135623730951)
        {
            m *= 0.5;
            e++;
        }
        double s = (m - 1) / (m + 1), s2 = s * s, sum = 0;
        for (int k = 21; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
        return e * 0.6931471805599453 + 2 * s * sum;
    }
}
