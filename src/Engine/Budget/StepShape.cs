using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>What a layer did in one step, in the mean of many: counted by the engine.</summary>
public readonly record struct LayerWork(double Steps, double Rows, double Slots, double Units, double Neurons);

/// <summary>What a layer's shape costs whenever it runs.</summary>
/// <param name="ResidentBytes">Read once a step: matrices, norms and what chooses neurons; look-ahead apart, which no step needs.</param>
/// <param name="Weights">Numbers of the matrices among them: multiply-adds of a token.</param>
/// <param name="UnitBytes">Read for each unit that is needed.</param>
/// <param name="NeuronWeights">Multiply-adds of a neuron that is computed.</param>
/// <param name="Shared">All tokens compute all neurons, as a matrix product.</param>
/// <param name="Positions">That attention sees at most.</param>
public readonly record struct LayerShape(double ResidentBytes, double Weights, int UnitBytes, int NeuronWeights, bool Shared, int Positions);

/// <summary>From counts to needs: the bytes and multiply-adds that a package's matrices, neurons, keys and values cost in a mode. A pure function of the manifest and of options; any thread.</summary>
public sealed record StepShape
{
    public required IReadOnlyList<LayerShape> Layers { get; init; }
    /// <summary>The head's matrix, and what projects into and out of the stream.</summary>
    public required double HeadBytes { get; init; }
    public required double HeadWeights { get; init; }
    /// <summary>Keys and values of one position in one layer.</summary>
    public required double PositionBytes { get; init; }
    /// <summary>Multiply-adds of a token with one position in one layer.</summary>
    public required double PositionWeights { get; init; }

    /// <summary>A mode that the model has nothing for is a <see cref="FlashException"/>.</summary>
    public static StepShape Of(Manifest manifest, LayerOptions options)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        ArgumentNullException.ThrowIfNull(options);
        ModelConfig c = manifest.Model;
        Section[] edge = [.. PackageLayout.Sections(manifest, -1).Where(s => s.Kind == SectionKind.Panels && (s.Name != "embed" || c.TiedHead))];
        return new StepShape
        {
            Layers = [.. Enumerable.Range(0, c.Layers).Select(i => LayerOf(manifest, i, options))],
            HeadBytes = edge.Sum(static s => (double)s.Bytes),
            HeadWeights = edge.Sum(static s => (double)s.Rows * s.Cols),
            PositionBytes = KvCache.BlockBytes(c, KvCache.TypeOf(options.Kv, manifest.Weights.Most)) / (double)KvCache.BlockPositions,
            PositionWeights = (double)c.Heads * (c.HeadDim + c.ValueHeadDim),
        };
    }

    /// <param name="work">What each layer did in a step.</param>
    /// <param name="sampled">Tokens of a step that went through the head.</param>
    /// <param name="context">Positions that a token sees.</param>
    /// <param name="flashBytes">That a step read from flash.</param>
    /// <param name="flashReads">In so many reads.</param>
    public StepNeeds Needs(IReadOnlyList<LayerWork> work, double sampled, double context, double flashBytes, double flashReads)
    {
        ArgumentNullException.ThrowIfNull(work);
        double memory = sampled > 0 ? HeadBytes : 0, shared = sampled * HeadWeights, alone = 0, tokens = 0;
        for (int i = 0; i < work.Count; i++)
        {
            (LayerWork w, LayerShape l) = (work[i], Layers[i]);
            double seen = Math.Min(context, l.Positions);
            memory += w.Steps * l.ResidentBytes + w.Units * l.UnitBytes + w.Slots * seen * PositionBytes;
            shared += w.Rows * l.Weights + (l.Shared ? w.Neurons * l.NeuronWeights : 0);
            alone += w.Rows * seen * PositionWeights + (l.Shared ? 0 : w.Neurons * l.NeuronWeights);
            tokens += w.Rows / work.Count;
        }
        return new StepNeeds { Tokens = tokens, MemoryBytes = memory, Shared = shared, Alone = alone, FlashBytes = flashBytes, FlashReads = flashReads };
    }

    private static LayerShape LayerOf(Manifest manifest, int index, LayerOptions options)
    {
        ModelConfig c = manifest.Model;
        FeedForwardMode mode = Layer.ModeOf(manifest, c, index, options.Mode);
        bool scans = Sweep.Scans(c, index, mode);
        Section[] resident = [.. BudgetNeeds.ResidentSections(manifest, index, options with { Prefetch = false })];
        // Of the gates of experts a token needs those of the experts it uses.
        double Used(Section s) => s.Name == "ffn.selector" && c.ExpertsOf(index) is { } e ? (double)e.Active / e.Count : 1;
        return new LayerShape(
            resident.Sum(s => Used(s) * s.Bytes),
            resident.Where(static s => s.Kind == SectionKind.Panels).Sum(s => Used(s) * s.Rows * s.Cols),
            BudgetNeeds.Slots(manifest, index, PackageLayout.Page, mode).PartBytes,
            // In `exact` the selector has done the first row's product.
            (c.RowsPerNeuron - (mode == FeedForwardMode.Exact ? 1 : 0)) * c.HiddenSize,
            scans, c.WindowOf(index));
    }
}
