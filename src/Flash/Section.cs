namespace FlashOrleans.Flash;

/// <summary>How the bytes of a section are arranged; the numbers are those of the file format.</summary>
public enum SectionKind
{
    /// <summary>Rows one after another without padding: vectors, position tables.</summary>
    Plain = 1,
    /// <summary>Panels of 16 rows (<see cref="WeightLayout"/>).</summary>
    Panels = 2,
    /// <summary>Units of neuron bundles (<see cref="BundleLayout"/>).</summary>
    Bundles = 3,
    /// <summary>XxHash3 of every unit of the section whose name comes before ".hashes": Rows units, Cols hashes each.</summary>
    Hashes = 4,
}

/// <summary>A named run of bytes in a package file.</summary>
public sealed record Section
{
    public required string Name { get; init; }
    public required long Offset { get; init; }
    public required long Bytes { get; init; }
    /// <summary>Format of the numbers; matrices are in panels, vectors (Rows = 1) plain.</summary>
    public required WeightFormat Format { get; init; }
    public required int Rows { get; init; }
    public required int Cols { get; init; }
    /// <summary>XxHash3 of the bytes, hex.</summary>
    public required string Hash { get; init; }
    public SectionKind Kind { get; init; } = SectionKind.Plain;

    /// <summary>What a running layer may keep in memory; where a neuron came from is for people and tests.</summary>
    public bool IsResident => Kind is SectionKind.Plain or SectionKind.Panels && Name != PackageLayout.Permutation;

    internal long End => Offset + Bytes;
}
