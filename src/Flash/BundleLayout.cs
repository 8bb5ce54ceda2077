namespace FlashOrleans.Flash;

/// <summary>
/// Where a neuron's rows are inside the bundle region. A unit holds <see cref="Group"/> neurons (one, unless bundles are smaller than a
/// sector), unit u holds stored neurons u·Group … u·Group + Group - 1. Offsets are from the start of the unit.
/// </summary>
public sealed record BundleLayout
{
    public required WeightFormat Format { get; init; }
    /// <summary>Stored neurons (n_ff).</summary>
    public required int Neurons { get; init; }
    /// <summary>Columns of every row (d_model).</summary>
    public required int Cols { get; init; }
    public required int Rows { get; init; }
    public required int RowBytes { get; init; }
    public required int Group { get; init; }
    /// <summary>Distance of units on flash, a multiple of 512.</summary>
    public required int Stride { get; init; }
    public required long Offset { get; init; }
    public required int Units { get; init; }
    /// <summary>Order on flash as a permutation of neuron ids, or "identity".</summary>
    public string Permutation { get; init; } = "identity";

    public int BundleBytes => Rows * RowBytes;
    /// <summary>Byte offset of the up row of the j-th neuron of a unit; the down row follows, then the gate row.</summary>
    public int UpOffset(int j) => j * BundleBytes;
    public int DownOffset(int j) => j * BundleBytes + RowBytes;
    public int GateOffset(int j) => j * BundleBytes + 2 * RowBytes;

    /// <summary>Bytes of a unit that hold bundles; the rest up to <see cref="Stride"/> is zero.</summary>
    public int UsedBytes => Group * BundleBytes;
    public long Bytes => (long)Units * Stride;

    /// <summary>The two checked spans of a unit: what `exact` reads, then the rest. Grouped units are read and checked as a whole, their second span is empty.</summary>
    internal (int Offset, int Bytes) Span(int index) => (Group > 1, Rows == 3, index) switch
    {
        (true, _, 0) => (0, UsedBytes),
        (true, _, _) => (0, 0),
        (false, true, 0) => (0, 2 * RowBytes),
        (false, true, _) => (2 * RowBytes, RowBytes),
        (false, false, 0) => (RowBytes, RowBytes),
        (false, false, _) => (0, RowBytes),
    };

    /// <summary>The geometry that the writer gives to a feed-forward: enough neurons a unit that a read is at least one sector.</summary>
    internal static BundleLayout For(ModelConfig config, WeightFormat format)
    {
        int rowBytes = WeightLayout.RowBytes(format, config.HiddenSize);
        int bundleBytes = config.RowsPerNeuron * rowBytes;
        int group = Math.Min(Math.Max(1, PackageLayout.Sector / bundleBytes), config.FfnSize);
        return new BundleLayout
        {
            Format = format,
            Neurons = config.FfnSize,
            Cols = config.HiddenSize,
            Rows = config.RowsPerNeuron,
            RowBytes = rowBytes,
            Group = group,
            Stride = (int)PackageLayout.RoundUp(group * bundleBytes, PackageLayout.Sector),
            Offset = 0,
            Units = (config.FfnSize + group - 1) / group,
        };
    }
}
