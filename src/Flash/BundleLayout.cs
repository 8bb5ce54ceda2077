namespace FlashOrleans.Flash;

/// <summary>
/// Where a neuron's rows are inside the bundle region. A unit holds <see cref="Group"/> neurons, unit u stored neurons u·Group … u·Group + Group - 1. Offsets are from the start of the unit.
/// Where single neurons are read, a unit is one (or as many as fill a sector) and a neuron's rows lie one after another. Where a layer always uses all neurons of a unit (experts, and
/// activations that are never zero), they lie in <see cref="Panels"/>: sixteen neurons at a time the gate rows woven into a panel, the up rows into another, then their down rows in tiles of
/// <see cref="TileColumns"/> columns, so that what is multiplied together is read together, from flash and from memory.
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
    public required int Rows { get; init; }
    public required int Group { get; init; }
    /// <summary>Distance of units on flash, a multiple of 512.</summary>
    public required int Stride { get; init; }
    public required long Offset { get; init; }
    public required int Units { get; init; }
    /// <summary>Sixteen neurons at a time as panels and tiles; else neuron by neuron.</summary>
    public bool Panels { get; init; }
    /// <summary>Columns of a tile of sixteen down rows, each a row of so many columns (fewer in the last tile).</summary>
    public const int TileColumns = 256;
    /// <summary>Order on flash as a permutation of neuron ids, or "identity".</summary>
    public string Permutation { get; init; } = "identity";

    public int UpBytes => WeightLayout.RowBytes(Up, Cols);
    public int DownBytes => WeightLayout.RowBytes(Down, Cols);
    /// <summary>0 where there is no gate.</summary>
    public int GateBytes => Rows == 3 ? WeightLayout.RowBytes(Gate, Cols) : 0;
    public int BundleBytes => UpBytes + DownBytes + GateBytes;
    /// <summary>Panels: bytes of sixteen neurons' gate rows (0 where there is no gate), up rows, and a whole tile and all tiles of their down rows.</summary>
    public int GatePanelBytes => Rows == 3 ? WeightLayout.PanelBytes(Gate, Cols) : 0;
    public int UpPanelBytes => WeightLayout.PanelBytes(Up, Cols);
    public int TileBytes => WeightLayout.PanelRows * WeightLayout.RowBytes(Down, Math.Min(TileColumns, Cols));
    public int TilesBytes => Cols / TileColumns * TileBytes + (Cols % TileColumns == 0 ? 0 : WeightLayout.PanelRows * WeightLayout.RowBytes(Down, Cols % TileColumns));
    public int SixteenBytes => GatePanelBytes + UpPanelBytes + TilesBytes;
    private static int Sixteens(int neurons) => (neurons + WeightLayout.PanelRows - 1) / WeightLayout.PanelRows;

    /// <summary>Units on flash that are read as one (<see cref="Joined"/>); their distance there.</summary>
    public int Run { get; private init; } = 1;
    private int UnitNeurons => Group / Run;
    private int UnitStride => Stride / Run;

    /// <summary>Byte offset of the up row of the j-th neuron of a unit; the down row follows, then the gate row.</summary>
    public int UpOffset(int j) => Run == 1 ? j * BundleBytes : j / UnitNeurons * UnitStride + j % UnitNeurons * BundleBytes;
    public int DownOffset(int j) => UpOffset(j) + UpBytes;
    public int GateOffset(int j) => UpOffset(j) + UpBytes + DownBytes;
    /// <summary>Panels: where the sixteen neurons begin that the j-th neuron of a unit is one of.</summary>
    public int SixteenOffset(int j) => j / UnitNeurons * UnitStride + j % UnitNeurons / WeightLayout.PanelRows * SixteenBytes;

    /// <summary>Bytes of a unit that hold bundles; the rest up to <see cref="Stride"/> is zero.</summary>
    public int UsedBytes => Stride - UnitStride + (Panels ? Sixteens(UnitNeurons) * SixteenBytes : UnitNeurons * BundleBytes);
    public long Bytes => (long)Units * Stride;

    /// <summary>
    /// The two checked spans of a unit. One neuron: what `exact` reads, then the rest. Panels: the first half of its sixteens and the second, so that two threads check an expert that has just come. Other
    /// groups are checked as a whole, their second span is empty.
    /// </summary>
    internal (int Offset, int Bytes) Span(int index)
    {
        if (Panels)
        {
            int sixteens = Sixteens(UnitNeurons), half = (sixteens + 1) / 2 * SixteenBytes;
            return index == 0 ? (0, half) : sixteens == 1 ? (0, 0) : (half, sixteens * SixteenBytes - half);
        }
        return (Group > 1, Rows == 3, index) switch
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
    /// The geometry that a package of this version has in a layer: panels of sixteen neurons or whole experts, or enough neurons a unit that a read is at least one sector, or one expert a unit. Neurons of a
    /// unit lie close together, units begin at sectors.
    /// </summary>
    internal static BundleLayout For(ModelConfig config, WeightFormats formats, int layer, int version)
    {
        int neurons = config.NeuronsOf(layer), expert = config.ExpertsOf(layer)?.Size ?? 0;
        BundleLayout one = new()
        {
            Up = formats.Of(layer, "ffn.up"),
            Down = formats.Of(layer, "ffn.down"),
            Gate = formats.Of(layer, config.Gated ? "ffn.gate" : "ffn.up"),
            Neurons = neurons,
            Cols = config.HiddenSize,
            Rows = config.RowsPerNeuron,
            Group = 1,
            Stride = 0,
            Offset = 0,
            Units = neurons,
            Panels = version >= Manifest.PanelsVersion && !config.HasSelector(layer),
        };
        int least = one.Panels ? WeightLayout.PanelRows : Math.Min(Math.Max(1, PackageLayout.Sector / one.BundleBytes), neurons);
        int group = expert > 0 ? expert : least;
        long unit = one.Panels ? (long)Sixteens(group) * one.SixteenBytes : (long)group * one.BundleBytes;
        if (unit > 1 << 30) throw new FlashException($"{group} neurons of {one.BundleBytes} bytes are more than one unit of read can hold");
        return one with { Group = group, Stride = (int)PackageLayout.RoundUp(unit, PackageLayout.Sector), Units = (neurons + group - 1) / group };
    }
}

/// <summary>The offsets of a <see cref="BundleLayout"/> as plain numbers, for loops over neurons.</summary>
public readonly struct RowOffsets(BundleLayout layout)
{
    private readonly int _run = layout.Run, _group = layout.Group / layout.Run, _stride = layout.Stride / layout.Run, _bytes = layout.Panels ? layout.SixteenBytes : layout.BundleBytes, _shift = layout.Panels ? 4 : 0;
    /// <summary>Neurons that lie together: 1, or sixteen in panels.</summary>
    public readonly int Each = layout.Panels ? WeightLayout.PanelRows : 1;
    /// <summary>From where they begin to the rows or panels of each kind: the gate's, the up's, and the first down row, or tile.</summary>
    public readonly int Gate = layout.Panels ? 0 : layout.UpBytes + layout.DownBytes, Up = layout.Panels ? layout.GatePanelBytes : 0, Down = layout.Panels ? layout.GatePanelBytes + layout.UpPanelBytes : layout.UpBytes;
    /// <summary>From one tile to the next.</summary>
    public readonly int Tile = layout.TileBytes;

    /// <summary>Where the j-th neuron of a unit begins, or the sixteen that it is one of: <see cref="BundleLayout.UpOffset"/>, <see cref="BundleLayout.SixteenOffset"/>.</summary>
    public int Of(int j)
    {
        int unit = _run == 1 ? 0 : j / _group;
        return unit * _stride + ((j - unit * _group) >> _shift) * _bytes;
    }
}
