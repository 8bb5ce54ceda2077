using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What a step of a few layers took that was run for the purpose, on a small model of the same rows, formats and attention with all in memory: what kernels, threads and grains really take, of which the
/// machine's rates are only the limit. Pure; who runs it says how (<c>flash plan</c>).
/// </summary>
public sealed record StepTrial
{
    public required int Sessions { get; init; }
    /// <summary>Computing a layer.</summary>
    public required double LayerSeconds { get; init; }
    /// <summary>Head and sampler, for each token of the vocabulary.</summary>
    public required double HeadSecondsPerToken { get; init; }
    /// <summary>From layer to layer, and once to the session: what is not computing.</summary>
    public required double HopSeconds { get; init; }

    /// <summary>From what was counted.</summary>
    /// <param name="sessions">Of each step.</param>
    /// <param name="step">Seconds of a step.</param>
    /// <param name="layers">Seconds of computing in each layer, the last one's with its head.</param>
    /// <param name="vocabulary">Tokens of the head.</param>
    public static StepTrial Of(int sessions, double step, IReadOnlyList<double> layers, int vocabulary)
    {
        ArgumentNullException.ThrowIfNull(layers);
        double each = layers.SkipLast(1).Average(), head = Math.Max(0, layers[^1] - each);
        return new StepTrial { Sessions = sessions, LayerSeconds = each, HeadSecondsPerToken = head / vocabulary, HopSeconds = Math.Max(0, step - layers.Sum()) / (layers.Count + 1) };
    }

    /// <summary>A step of the whole model that misses nothing. What it misses takes its time beside that: reads that were foreseen run while layers compute, but what they bring is checked and comes out of the same memory's rate, which on two
    /// cores takes as long again (measured: ADR 0025).</summary>
    public double Seconds(ModelConfig model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return model.Layers * LayerSeconds + model.VocabSize * HeadSecondsPerToken + (model.Layers + 1) * HopSeconds;
    }
}
