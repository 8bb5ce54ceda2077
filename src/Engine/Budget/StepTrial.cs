using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What a step of a few layers took that was run for the purpose, on a model of the same rows, formats, attention and experts with windows that hold the same share of them: what kernels, threads, grains and reads really
/// take together, of which the machine's rates are only the limit. Pure; who runs it says how (<c>flash plan</c>).
/// </summary>
public sealed record StepTrial
{
    public required int Sessions { get; init; }
    /// <summary>Computing a layer, and waiting for what its window missed.</summary>
    public required double LayerSeconds { get; init; }
    /// <summary>Head and sampler, for each token of the vocabulary.</summary>
    public required double HeadSecondsPerToken { get; init; }
    /// <summary>From layer to layer, and once to the session: neither computing nor waiting for flash.</summary>
    public required double HopSeconds { get; init; }

    /// <summary>From what was counted.</summary>
    /// <param name="sessions">Of each step.</param>
    /// <param name="step">Seconds of a step.</param>
    /// <param name="computing">Seconds of a step in each layer, the last one's with its head.</param>
    /// <param name="waiting">Seconds that each layer waited for flash. The first one's tell nothing of the others': nobody looks ahead for it in a layer before.</param>
    /// <param name="vocabulary">Tokens of the head.</param>
    public static StepTrial Of(int sessions, double step, IReadOnlyList<double> computing, IReadOnlyList<double> waiting, int vocabulary)
    {
        ArgumentNullException.ThrowIfNull(computing);
        ArgumentNullException.ThrowIfNull(waiting);
        double layers = computing.Sum() + waiting.Sum(), compute = computing.SkipLast(1).Average(), head = Math.Max(0, computing[^1] - compute);
        // Waves of several sessions wait beside each other: what they did in layers is more than the time that went by.
        double own = Math.Min(1, step / layers);
        return new StepTrial
        {
            Sessions = sessions,
            LayerSeconds = own * (compute + waiting.Skip(1).Average()),
            HeadSecondsPerToken = own * head / vocabulary,
            HopSeconds = Math.Max(0, step - layers) / (computing.Count + 1),
        };
    }

    /// <summary>A step of the whole model.</summary>
    public double Seconds(ModelConfig model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return model.Layers * LayerSeconds + model.VocabSize * HeadSecondsPerToken + (model.Layers + 1) * HopSeconds;
    }
}
