using System.Text.Json.Serialization;

namespace FlashOrleans.Flash;

/// <summary>One predictor of a layer: a neuron is predicted active where its score reaches the threshold. Low-rank ones go through <paramref name="Rank"/> numbers; that of a sketch is 0.</summary>
public sealed record LowRank(int Rank, float Threshold)
{
    /// <summary>Neurons that are computed whatever the score says; null: none.</summary>
    public int? Core { get; init; }
    /// <summary>Where the threshold was calibrated: what it reached on that text, of the truly active neurons and in neurons taken per truly active one, the core included; else null.</summary>
    public double? Recall { get; init; }
    public double? Taken { get; init; }
}

/// <summary>
/// The predictors of a package, as its manifest describes them; their matrices are resident sections of the slices. Immutable. What does not fit the model
/// is a <see cref="FlashException"/>.
/// </summary>
public sealed record PredictorConfig
{
    /// <summary>Trained: score = fc2 · relu(fc1 · x), x the stream that enters the feed-forward, before any norm.</summary>
    public const string LowRankKind = "lowrank";
    /// <summary>Computed from the weights: score = fc2 · fc1 · x + bias, x the input of the feed-forward as its own rows see it.</summary>
    public const string SvdKind = "svd";
    /// <summary>The deciding rows in few bits: score = sketch · x + bias, x as of <see cref="SvdKind"/>.</summary>
    public const string SketchKind = "sketch";
    private const int RankLimit = 1 << 16;

    public string Kind { get; init; } = LowRankKind;
    /// <summary>Of their matrices; null: 8 bits, which lose far less than training leaves open (f32 in packages where nothing is rounded).</summary>
    public string? Format { get; init; }
    /// <summary>Of a sketch: bits of a weight, 2 to 4; a number takes four in memory whatever it says.</summary>
    public int? Bits { get; init; }
    /// <summary>The recall that thresholds were calibrated to, and on how many tokens; null: they are as they came.</summary>
    public double? Recall { get; init; }
    public int? Tokens { get; init; }
    /// <summary>Of each layer.</summary>
    public required IReadOnlyList<LowRank> Layers { get; init; }
    /// <summary>From layer 1 on, or null: x is the input of the layer before.</summary>
    public IReadOnlyList<LowRank>? Lookahead { get; init; }

    /// <summary>What tells this layer's neurons while the layer before computes; null: nothing trained does.</summary>
    public LowRank? LookaheadOf(int layer) => layer == 0 ? null : Lookahead?[layer - 1];

    /// <summary>Scores are guesses of the pre-activation itself: from the feed-forward's own input, with its bias.</summary>
    [JsonIgnore] public bool GuessesActivation => Kind != LowRankKind;

    /// <summary>The largest there is.</summary>
    [JsonIgnore] public int MaxRank => Layers.Concat(Lookahead ?? []).Max(static p => p.Rank);

    /// <summary>Refuses what the model cannot use.</summary>
    internal void Check(ModelConfig model)
    {
        if (Kind is not (LowRankKind or SvdKind or SketchKind)) throw new FlashException($"predictors of the kind '{Manifest.Printable(Kind)}' are none this version knows");
        if (model.Experts != null) throw new FlashException("predictors choose neurons of one feed-forward; this model has experts");
        if (!model.IsSparse) throw new FlashException($"predictors choose neurons that are not zero; activation {model.Activation} has no zeros");
        if (Format != null && Format != PackageLayout.FormatName(WeightFormat.Q4)) throw new FlashException($"predictors in the format '{Manifest.Printable(Format)}' are none this version reads");
        bool sketch = Kind == SketchKind;
        if (sketch ? Bits is not (>= 2 and <= 4) : Bits != null) throw new FlashException($"predictors of the kind {Kind} with {Bits?.ToString(System.Globalization.CultureInfo.InvariantCulture) ?? "no"} bits");
        if (sketch && model.HiddenSize % WeightLayout.Block != 0) throw new FlashException($"a sketch needs a hidden size in blocks of {WeightLayout.Block}, not {model.HiddenSize}");
        if (GuessesActivation && Lookahead != null) throw new FlashException($"predictors of the kind {Kind} have no look-ahead of their own");
        Check("predictors", Layers, model.Layers, sketch, model.FfnSize);
        if (Lookahead != null) Check("look-ahead predictors", Lookahead, model.Layers - 1, false, 0);
    }

    private static void Check(string what, IReadOnlyList<LowRank> all, int needed, bool sketch, int mostCore)
    {
        if (all.Count != needed) throw new FlashException($"{all.Count} {what} where this model needs {needed}");
        foreach (LowRank? one in all)
        {
            if (one == null || (sketch ? one.Rank != 0 : one.Rank is not (> 0 and <= RankLimit))) throw new FlashException($"{what} of rank {one?.Rank}, which is outside 1..{RankLimit}");
            if (one.Core is { } core && (core < 1 || core > mostCore)) throw new FlashException($"{what} with {core} neurons of {mostCore} that are always computed");
            if (!float.IsFinite(one.Threshold)) throw new FlashException($"{what} with a threshold that is not a number of use");
        }
    }
}
