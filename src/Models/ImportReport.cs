using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>What an import should make of a checkpoint.</summary>
public sealed record ImportOptions
{
    /// <summary>Name of the package; null takes it from the package's folder.</summary>
    public string? Name { get; init; }
    /// <summary>auto, keep, f32, bf16, q8, q4 (where rows come in 256: q4k), q4b or q4k (<see cref="ImportFormats"/>).</summary>
    public string Quant { get; init; } = "auto";
    /// <summary>relu, silu or fatrelu:THRESHOLD where the configuration names another activation than the model was trained with; null: as it says.</summary>
    public string? Activation { get; init; }
    /// <summary>Folder of trained predictors (model_0.pt ...), or sketch2, sketch3, sketch4, svd, svd:RANK to make them from the weights; null: those that a PowerInfer file brings, if any.</summary>
    public string? Predictors { get; init; }
    /// <summary>Thresholds are chosen so that predictors find so much of what is active on the calibration text, 0..1; null: <see cref="ImportStudy.DefaultRecall"/> for those that are made, trained ones keep theirs.</summary>
    public double? Recall { get; init; }
    /// <summary>identity or popularity: the neurons that are active most often on the calibration text first.</summary>
    public string Order { get; init; } = Flash.PackageLayout.Identity;
    /// <summary>UTF-8 file with text like that the model will see; null: a short tale.</summary>
    public string? Calibration { get; init; }
    /// <summary>Bundles without the rows that decide which neurons are active: for `exact` alone, which has them resident. Of ReLU models, and not together with predictors; experts' neurons are then read one by one.</summary>
    public bool Lean { get; init; }

    /// <summary>For measuring what no user can choose: formats of the matrices, what happens to rows before they are stored, no run on a text afterwards.</summary>
    internal Func<Checkpoint, WeightFormats>? Formats { get; init; }
    internal RowPreparation? Prepare { get; init; }
    internal bool Measure { get; init; } = true;
    internal double CoreShare { get; init; } = ImportStudy.DefaultCore;
    internal double CoreLeast { get; init; } = ImportStudy.DefaultCoreLeast;
    /// <summary>For random weights: predictors that predict nothing, and how active neurons are made out to be.</summary>
    internal PredictorConfig? RandomPredictors { get; init; }
    internal ActivityConfig? Drawn { get; init; }
    /// <summary>How the experts of random weights are drawn.</summary>
    internal RoutingConfig? Routing { get; init; }
}

/// <summary>Changes a row of a kind of matrix before it is stored. Several threads at a time.</summary>
internal delegate void RowPreparation(string kind, Span<float> row);

/// <summary>How far an import is: what it is at, and bytes written of those to write.</summary>
public readonly record struct ImportProgress(string Step, long Done, long Total);

/// <summary>What storing one kind of matrix cost: the error relative to the numbers' own size, ‖stored - source‖ / ‖source‖.</summary>
/// <param name="Kind">The matrix, for all layers together: "attn.qkv".</param>
/// <param name="Mean">Over all numbers of the kind.</param>
/// <param name="WorstRow">Of the row that lost most.</param>
public sealed record QuantizationError(string Kind, double Mean, double WorstRow);

/// <summary>An import that was only thought through.</summary>
public sealed record ImportPlan
{
    public required ModelConfig Config { get; init; }
    public required WeightFormats Formats { get; init; }
    /// <summary>The trained predictors, or null.</summary>
    public PredictorConfig? Predictors { get; init; }
    public required long SourceBytes { get; init; }
    /// <summary>Bytes of the package's files.</summary>
    public required long Bytes { get; init; }
    /// <summary>Bytes of them that a running model keeps in memory.</summary>
    public required long ResidentBytes { get; init; }
    /// <summary>Bytes of them that are read as they are needed: neurons, and embedding rows where the head is another matrix.</summary>
    public required long StreamedBytes { get; init; }
    /// <summary>What storing each kind of matrix would lose, from some of its rows.</summary>
    public required IReadOnlyList<QuantizationError> Errors { get; init; }
    /// <summary>Share of the numbers that <see cref="Errors"/> are from, of those that are not kept as they are.</summary>
    public required double Sampled { get; init; }
    public required IReadOnlyList<string> Notes { get; init; }
}

/// <summary>A finished import.</summary>
public sealed record ImportResult
{
    public required string Path { get; init; }
    public required string Name { get; init; }
    /// <summary>The package's hash.</summary>
    public required string Hash { get; init; }
    public required ModelConfig Config { get; init; }
    public required WeightFormats Formats { get; init; }
    /// <summary>The trained predictors, or null.</summary>
    public PredictorConfig? Predictors { get; init; }
    /// <summary>Its bundles lack the rows that decide.</summary>
    public bool Lean { get; init; }
    /// <summary>Format of most matrices.</summary>
    public WeightFormat Format => Formats.Most;
    /// <summary>Bytes of the checkpoint's weight files.</summary>
    public required long SourceBytes { get; init; }
    /// <summary>Bytes of the package's files.</summary>
    public required long Bytes { get; init; }
    /// <summary>Bytes of them that are read as they are needed: neurons, and embedding rows where the head is another matrix.</summary>
    public long StreamedBytes => PackageLayout.StreamedBytes(Config, Formats, Lean);
    public required IReadOnlyList<QuantizationError> Errors { get; init; }
    /// <summary>What the model did with a short text; null where that could not be measured (the notes say why).</summary>
    public Measured? Measured { get; init; }
    /// <summary>What the user should know: choices made, things missing. One line each.</summary>
    public required IReadOnlyList<string> Notes { get; init; }
}
