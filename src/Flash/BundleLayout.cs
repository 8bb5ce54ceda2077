namespace FlashOrleans.Flash;

/// <summary>
/// Where a neuron's rows are inside the bundle region. A unit holds <see cref="Group"/> neurons (one, unless bundles are smaller than a
/// sector), unit u holds stored neurons u·Group … u·Group + Group - 1. Offsets are from the start of the unit.
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
    /// <summary>Order on flash as a permutation of neuron ids, or "identity".</summary>
    public string Permutation { get; init; } = "identity";

    public int UpBytes => WeightLayout.RowBytes(Up, Cols);
    public int DownBytes => WeightLayout.RowBytes(Down, Cols);
    /// <summary>0 where there is no gate.</summary>
    public int GateBytes => Rows == 3 ? WeightLayout.RowBytes(Gate, Cols) : 0;
    public int BundleBytes => UpBytes + DownBytes + GateBytes;
    /// <summary>Units on flash that are read as one (<see cref="Joined"/>); their distance there.</summary>
    public int Run { get; private init; } = 1;
    private int UnitNeurons => Group / Run;
    private int UnitStride => Stride / Run;

    /// <summary>Byte offset of the up row of the j-th neuron of a unit; the down row follows, then the gate row.</summary>
    public int UpOffset(int j) => Run == 1 ? j * BundleBytes : j / UnitNeurons * UnitStride + j % UnitNeurons * BundleBytes;
    public int DownOffset(int j) => UpOffset(j) + UpBytes;
    public int GateOffset(int j) => UpOffset(j) + UpBytes + DownBytes;

    /// <summary>Bytes of a unit that hold bundles; the rest up to <see cref="Stride"/> is zero.</summary>
    public int UsedBytes => Stride - UnitStride + UnitNeurons * BundleBytes;
    public long Bytes => (long)Units * Stride;

    /// <summary>The two checked spans of a unit: what `exact` reads, then the rest. Grouped units are read and checked as a whole, their second span is empty.</summary>
    internal (int Offset, int Bytes) Span(int index) => (Group > 1, Rows == 3, index) switch
    {
        (true, _, 0) => (0, UsedBytes),
        (true, _, _) => (0, 0),
        (false, true, 0) => (0, UpBytes + DownBytes),
        (false, true, _) => (UpBytes + DownBytes, GateBytes),
        (false, false, 0) => (UpBytes, DownBytes),
        (false, false, _) => (0, UpBytes),
    };

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
    /// The geometry that the writer gives to a layer's feed-forward: enough neurons a unit that a read is at least one sector, or one expert a unit. Neurons of a
    /// unit lie close together, units begin at sectors.
    /// </summary>
    internal static BundleLayout For(ModelConfig config, WeightFormats formats, int layer)
    {
        int neurons = config.NeuronsOf(layer);
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
        };
        int group = config.ExpertsOf(layer)?.Size ?? Math.Min(Math.Max(1, PackageLayout.Sector / one.BundleBytes), neurons);
        long unit = (long)group * one.BundleBytes;
        if (unit > 1 << 30) throw new FlashException($"{group} neurons of {one.BundleBytes} bytes are more than one unit of read can hold");
        return one with { Group = group, Stride = (int)PackageLayout.RoundUp(unit, PackageLayout.Sector), Units = (neurons + group - 1) / group };
    }
}

/// <summary>The offsets of a <see cref="BundleLayout"/> as plain numbers, for loops over neurons: from the up row of a unit's j-th neuron its down and gate rows are always as far.</summary>
public readonly struct RowOffsets(BundleLayout layout)
{
    private readonly int _bundle = layout.BundleBytes, _run = layout.Run, _group = layout.Group / layout.Run, _stride = layout.Stride / layout.Run;
    public readonly int Down = layout.UpBytes, Gate = layout.UpBytes + layout.DownBytes;

    /// <summary><see cref="BundleLayout.UpOffset"/>.</summary>
    public int Up(int j)
    {
        if (_run == 1) return j * _bundle;
        int unit = j / _group;
        return unit * _stride + (j - unit * _group) * _bundle;
    }
}
