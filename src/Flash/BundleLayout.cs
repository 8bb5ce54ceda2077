namespace FlashOrleans.Flash;

/// <summary>
/// Where a neuron's rows are inside the bundle region. A unit holds <see cref="Group"/> neurons, unit u stored neurons u·Group … u·Group + Group - 1. Offsets are from the start of the unit.
/// Where single neurons are read, a unit is one (or as many as fill a sector) and a neuron's rows lie one after another. Where a layer always uses all neurons of a unit (experts, and
/// activations that are never zero), a unit consists of slabs, each a small feed-forward of <see cref="SlabNeurons"/> neurons: three matrices in panels, gate and up with the neurons as rows, down with
/// the neurons as columns, so that all three are multiplied alike and what is multiplied together is read together, from flash and from memory. A lean package's bundles lack the row that decides
/// whether a neuron is active: it is in <c>ffn.selector</c> alone, and what is left is what `exact` reads.
/// </summary>
public sealed record BundleLayout
{
    public required WeightFormat Up { get; init; }
    public required WeightFormat Down { get; init; }
    /// <summary>As <see cref="Up"/> where there is no gate.</summary>
    public required WeightFormat Gate { get; init; }
    /// <summary>Stored neurons (n_ff).</summary>
    public required int Neurons { get; init; }
    /// <summary>Columns of every row (d_model).</summary>
    public required int Cols { get; init; }
    /// <summary>Rows of a neuron's bundle.</summary>
    public required int Rows { get; init; }
    public required int Group { get; init; }
    /// <summary>Distance of units on flash, a multiple of 512.</summary>
    public required int Stride { get; init; }
    public required long Offset { get; init; }
    public required int Units { get; init; }
    /// <summary>Without the rows that decide: of a gated neuron up and down, else down alone.</summary>
    public bool Lean { get; init; }
    /// <summary>Slabs of neurons in panels; else neuron by neuron.</summary>
    public bool Slabs { get; init; }
    /// <summary>Neurons of a slab; where a unit ends sooner, the rest is zero.</summary>
    public const int SlabNeurons = 128;
    /// <summary>Order on flash as a permutation of neuron ids, or "identity".</summary>
    public string Permutation { get; init; } = "identity";

    /// <summary>0 where the up row decides and bundles are lean.</summary>
    public int UpBytes => Rows == 1 ? 0 : WeightLayout.RowBytes(Up, Cols);
    public int DownBytes => WeightLayout.RowBytes(Down, Cols);
    /// <summary>0 where there is no gate, or none in lean bundles.</summary>
    public int GateBytes => Rows == 3 ? WeightLayout.RowBytes(Gate, Cols) : 0;
    public int BundleBytes => UpBytes + DownBytes + GateBytes;
    /// <summary>Bytes of a slab's gate rows (0 where there is no gate), of its up rows, and of the down matrix (Cols x SlabNeurons).</summary>
    public int SlabGateBytes => Rows == 3 ? (int)WeightLayout.MatrixBytes(Gate, SlabNeurons, Cols) : 0;
    public int SlabUpBytes => (int)WeightLayout.MatrixBytes(Up, SlabNeurons, Cols);
    public int SlabDownBytes => (int)WeightLayout.MatrixBytes(Down, Cols, SlabNeurons);
    public int SlabBytes => SlabGateBytes + SlabUpBytes + SlabDownBytes;
    /// <summary>The format of down's matrix in slabs where this one is asked for: form K's super-blocks are wider than a slab, form B is as near.</summary>
    public static WeightFormat DownOf(WeightFormat format) => format == WeightFormat.Q4K ? WeightFormat.Q4B : format;
    /// <summary>Slabs of so many neurons.</summary>
    public static int SlabsOf(int neurons) => (neurons + SlabNeurons - 1) / SlabNeurons;

    /// <summary>Units on flash that are read as one (<see cref="Joined"/>); their distance there.</summary>
    public int Run { get; private init; } = 1;
    private int UnitNeurons => Group / Run;
    private int UnitStride => Stride / Run;

    /// <summary>Byte offset of the up row of the j-th neuron of a unit; the down row follows, then the gate row.</summary>
    public int UpOffset(int j) => Run == 1 ? j * BundleBytes : j / UnitNeurons * UnitStride + j % UnitNeurons * BundleBytes;
    public int DownOffset(int j) => UpOffset(j) + UpBytes;
    public int GateOffset(int j) => UpOffset(j) + UpBytes + DownBytes;
    /// <summary>Where the slab begins that the j-th neuron of a unit is in.</summary>
    public int SlabOffset(int j) => j / SlabNeurons * SlabBytes;

    /// <summary>Bytes of a unit that hold bundles; the rest up to <see cref="Stride"/> is zero.</summary>
    public int UsedBytes => Stride - UnitStride + (Slabs ? SlabsOf(UnitNeurons) * SlabBytes : UnitNeurons * BundleBytes);
    public long Bytes => (long)Units * Stride;

    /// <summary>
    /// The two checked spans of a unit. One neuron: what `exact` reads, then the rest. Slabs: the first half of them and the second, so that two threads check an expert that has just come. Other
    /// groups, and lean bundles, of which `exact` reads all, are checked as a whole: their second span is empty.
    /// </summary>
    internal (int Offset, int Bytes) Span(int index)
    {
        if (Slabs)
        {
            int slabs = SlabsOf(UnitNeurons), half = (slabs + 1) / 2 * SlabBytes;
            return index == 0 ? (0, half) : slabs == 1 ? (0, 0) : (half, slabs * SlabBytes - half);
        }
        return (Group > 1 || Lean, Rows == 3, index) switch
        {
            (true, _, 0) => (0, UsedBytes),
            (true, _, _) => (0, 0),
            (false, true, 0) => (0, UpBytes + DownBytes),
            (false, true, _) => (UpBytes + DownBytes, GateBytes),
            (false, false, 0) => (UpBytes, DownBytes),
            (false, false, _) => (0, UpBytes),
        };
    }

    /// <summary>
    /// The same bundles in longer units, for who reads all of them: a read is up to 256 KiB, one unit to find and keep instead of dozens; yet a layer has at least
    /// <paramref name="least"/> units, so that a part of it can be kept, and a unit at most <paramref name="most"/> neurons.
    /// </summary>
    public BundleLayout Joined(int least, int most)
    {
        int run = 1;
        while (2 * run * Stride <= ReadPlanner.DefaultMaxBytes && Units % (2 * run) == 0 && Units / (2 * run) >= least && 2 * run * Group <= most) run *= 2;
        return this with { Run = run, Group = Group * run, Stride = Stride * run, Units = Units / run };
    }

    /// <summary>
    /// The geometry that a package has in a layer: slabs, of experts one expert a unit, or enough neurons a unit that a read is at least one sector. Neurons of a
    /// unit lie close together, units begin at sectors.
    /// </summary>
    internal static BundleLayout For(ModelConfig config, WeightFormats formats, int layer, bool lean = false)
    {
        int neurons = config.NeuronsOf(layer), expert = config.ExpertsOf(layer)?.Size ?? 0;
        bool slabs = !config.HasSelector(layer);
        WeightFormat down = formats.Of(layer, "ffn.down");
        BundleLayout one = new()
        {
            Up = formats.Of(layer, "ffn.up"),
            Down = slabs ? DownOf(down) : down,
            Gate = formats.Of(layer, config.Gated ? "ffn.gate" : "ffn.up"),
            Neurons = neurons,
            Cols = config.HiddenSize,
            Rows = config.RowsPerNeuron - (lean && !slabs ? 1 : 0),
            Group = 1,
            Stride = 0,
            Offset = 0,
            Units = neurons,
            Slabs = slabs,
            Lean = lean && !slabs,
        };
        int least = slabs ? SlabNeurons : Math.Min(Math.Max(1, PackageLayout.Sector / one.BundleBytes), neurons);
        int group = slabs && expert > 0 ? expert : least;
        long unit = slabs ? (long)SlabsOf(group) * one.SlabBytes : (long)group * one.BundleBytes;
        if (unit > 1 << 30) throw new FlashException($"{group} neurons of {one.BundleBytes} bytes are more than one unit of read can hold");
        return one with { Group = group, Stride = (int)PackageLayout.RoundUp(unit, PackageLayout.Sector), Units = (neurons + group - 1) / group };
    }

    internal static BundleLayout For(Manifest manifest, int layer) => For(manifest.Model, manifest.Weights, layer, manifest.Lean);
}

/// <summary>The offsets of a <see cref="BundleLayout"/> as plain numbers, for loops over neurons.</summary>
public readonly struct RowOffsets(BundleLayout layout)
{
    private readonly int _run = layout.Run, _group = layout.Group / layout.Run, _stride = layout.Stride / layout.Run, _bytes = layout.BundleBytes;
    /// <summary>From where a neuron, or a slab, begins to the rows or panels of each kind.</summary>
    public readonly int Gate = layout.Slabs ? 0 : layout.UpBytes + layout.DownBytes, Up = layout.Slabs ? layout.SlabGateBytes : 0, Down = layout.Slabs ? layout.SlabGateBytes + layout.SlabUpBytes : layout.UpBytes;

    /// <summary>Where the j-th neuron of a unit begins, one by one: <see cref="BundleLayout.UpOffset"/>.</summary>
    public int Of(int j)
    {
        int unit = _run == 1 ? 0 : j / _group;
        return unit * _stride + (j - unit * _group) * _bytes;
    }
}
