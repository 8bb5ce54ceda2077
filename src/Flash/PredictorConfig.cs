using System.Text.Json.Serialization;

namespace FlashOrleans.Flash;

/// <summary>One trained predictor of a layer: score = fc2 · relu(fc1 · x), through <paramref name="Rank"/> numbers; a neuron is predicted active where its score reaches the threshold.</summary>
public sealed record LowRank(int Rank, float Threshold);

/// <summary>
/// The trained predictors of a package, as its manifest describes them; their matrices are resident sections of the slices. Immutable. What does not fit the model
/// is a <see cref="FlashException"/>.
/// </summary>
public sealed record PredictorConfig
{
    public const string LowRankKind = "lowrank";
    private const int RankLimit = 1 << 16;

    public string Kind { get; init; } = LowRankKind;
    /// <summary>Of their matrices; null: 8 bits, which lose far less than training leaves open (f32 in packages where nothing is rounded).</summary>
    public string? Format { get; init; }
    /// <summary>Of each layer: x is the stream that enters its feed-forward, before any norm.</summary>
    public required IReadOnlyList<LowRank> Layers { get; init; }
    /// <summary>From layer 1 on, or null: x is the input of the layer before.</summary>
    public IReadOnlyList<LowRank>? Lookahead { get; init; }

    /// <summary>What tells this layer's neurons while the layer before computes; null: nothing trained does.</summary>
    public LowRank? LookaheadOf(int layer) => layer == 0 ? null : Lookahead?[layer - 1];

    /// <summary>The largest there is.</summary>
    [JsonIgnore] public int MaxRank => Layers.Concat(Lookahead ?? []).Max(static p => p.Rank);

    /// <summary>Refuses what the model cannot use.</summary>
    internal void Check(ModelConfig model)
    {
        if (Kind != LowRankKind) throw new FlashException($"predictors of the kind '{Manifest.Printable(Kind)}' are none this version knows");
        if (model.Experts != null) throw new FlashException("predictors choose neurons of one feed-forward; this model has experts");
        if (!model.IsSparse) throw new FlashException($"predictors choose neurons that are not zero; activation {model.Activation} has no zeros");
        if (Format != null && Format != PackageLayout.FormatName(WeightFormat.Q4)) throw new FlashException($"predictors in the format '{Manifest.Printable(Format)}' are none this version reads");
        Check("predictors", Layers, model.Layers);
        if (Lookahead != null) Check("look-ahead predictors", Lookahead, model.Layers - 1);
    }

    private static void Check(string what, IReadOnlyList<LowRank> all, int needed)
    {
        if (all.Count != needed) throw new FlashException($"{all.Count} {what} where this model needs {needed}");
        foreach (LowRank? one in all)
        {
            if (one is not { Rank: > 0 and <= RankLimit }) throw new FlashException($"{what} of rank {one?.Rank}, which is outside 1..{RankLimit}");
            if (!float.IsFinite(one.Threshold)) throw new FlashException($"{what} with a threshold that is not a number of use");
        }
    }
}
