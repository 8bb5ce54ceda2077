namespace FlashOrleans.Engine;

/// <summary>
/// How far one model's distributions are from another's over the same tokens: Kullback-Leibler divergence per position over the whole vocabulary, KL(reference ‖ model), how often
/// both have the same best token, and both mean negative log-likelihoods. Double arithmetic of the base library: a measure beside the data path. One thread.
/// </summary>
public sealed class Divergence
{
    private readonly List<double> _kl = [];
    private double _nll, _referenceNll;
    private int _same, _scored;

    /// <summary>Positions compared.</summary>
    public int Positions => _kl.Count;
    /// <summary>Of them those whose next token is known.</summary>
    public int Scored => _scored;
    public double Nll => _nll / _scored;
    public double ReferenceNll => _referenceNll / _scored;
    /// <summary>KL(reference ‖ model) in nats: mean, what 95 % of the positions stay below (nearest rank), largest.</summary>
    public double Mean => _kl.Average();
    public double Most => _kl.Max();
    public double At95 => _kl.Order().ElementAt((int)Math.Ceiling(0.95 * _kl.Count) - 1);
    /// <summary>Share of positions where both have the same best token; of equal logits the lowest id is the best.</summary>
    public double SameBest => (double)_same / _kl.Count;

    /// <summary>One position's logits of both; <paramref name="target"/> is the token that follows, or -1.</summary>
    public void Add(ReadOnlySpan<float> reference, ReadOnlySpan<float> logits, int target)
    {
        if (reference.Length != logits.Length) throw new ArgumentException($"{logits.Length} logits where the reference has {reference.Length}", nameof(logits));
        (int best, double p) = Normaliser(reference);
        (int other, double q) = Normaliser(logits);
        double kl = 0;
        for (int i = 0; i < logits.Length; i++)
        {
            double log = reference[i] - p;
            kl += Math.Exp(log) * (log - (logits[i] - q));
        }
        // Rounding may leave a hair below zero where both are the same.
        _kl.Add(Math.Max(kl, 0));
        if (best == other) _same++;
        if (target < 0) return;
        _scored++;
        _nll += q - logits[target];
        _referenceNll += p - reference[target];
    }

    /// <summary>
    /// Runs the tokens, from an empty cache, through both models and adds the positions from <paramref name="first"/> to the last but one. They take turns, a chunk at a time, so that
    /// only a chunk's rows of logits are held. Nobody else may use the engines meanwhile. Throws <see cref="StepFaultException"/>.
    /// </summary>
    public void Run(LocalEngine reference, LocalEngine model, ReadOnlySpan<int> tokens, int first = 0, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(reference);
        ArgumentNullException.ThrowIfNull(model);
        int vocabulary = reference.Package.Config.VocabSize;
        if (model.Package.Config.VocabSize != vocabulary) throw new ArgumentException($"the vocabularies differ: {vocabulary} and {model.Package.Config.VocabSize} ids", nameof(model));
        const int chunk = 64;
        int[] ids = tokens.ToArray();
        float[] rows = new float[Math.Min(chunk, ids.Length) * vocabulary];
        int from = 0;
        using EngineSession theirs = reference.OpenSession(), ours = model.OpenSession();
        theirs.Timeline.Append(ids);
        ours.Timeline.Append(ids);
        reference.WatchLogits = (position, logits) => logits.CopyTo(rows.AsSpan((position - from) * vocabulary));
        model.WatchLogits = (position, logits) =>
        {
            if (position >= first && position + 1 < ids.Length) Add(rows.AsSpan((position - from) * vocabulary, vocabulary), logits, ids[position + 1]);
        };
        try
        {
            for (int end; from < ids.Length; from = end)
            {
                cancel.ThrowIfCancellationRequested();
                end = Step(theirs, from, chunk);
                if (Step(ours, from, end - from) != end) throw new InvalidOperationException("the models cut the tokens into different steps");
            }
        }
        finally
        {
            reference.WatchLogits = model.WatchLogits = null;
        }
    }

    private static int Step(EngineSession session, int from, int chunk)
    {
        session.Submit(Sampling.Greedy, SlotFlags.Score, 0, chunk);
        // Nobody else has sessions here that could push this one's keys and values out.
        if (!session.Wait(out StepResult result)) throw new InvalidOperationException($"the keys and values before position {from} were lost");
        return result.End;
    }

    /// <summary>The best token, and ln Σ exp(logit).</summary>
    private static (int Best, double LogSum) Normaliser(ReadOnlySpan<float> logits)
    {
        int best = 0;
        for (int i = 1; i < logits.Length; i++)
            if (logits[i] > logits[best]) best = i;
        double sum = 0;
        foreach (float logit in logits) sum += Math.Exp((double)logit - logits[best]);
        return (best, logits[best] + Math.Log(sum));
    }
}
