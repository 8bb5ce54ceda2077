using System.Buffers.Binary;
using System.IO.Hashing;
using System.Text;

namespace FlashOrleans.Flash;

/// <summary>One line of a file's section table; the byte layout is in docs/FORMAT.md.</summary>
internal sealed record SectionEntry
{
    public required string Name { get; init; }
    public required SectionKind Kind { get; init; }
    public required WeightFormat Format { get; init; }
    public required int Rows { get; init; }
    public required int Cols { get; init; }
    public required long Bytes { get; init; }
    public long Offset { get; init; }
    public ulong Hash { get; init; }
    /// <summary>Bundles only: neurons per unit, distance of units, rows per neuron, order (0: identity).</summary>
    public int Group { get; init; }
    public int Stride { get; init; }
    public int RowsPerNeuron { get; init; }
    public int Permutation { get; init; }
    /// <summary>Bundles only: formats of down and gate rows; <see cref="Format"/> is that of up rows.</summary>
    public WeightFormat Down { get; init; }
    public WeightFormat Gate { get; init; }

    public long End => Offset + Bytes;

    /// <summary>Same thing apart from where it is and what it holds.</summary>
    public bool SameShape(SectionEntry other) => this with { Offset = 0, Hash = 0 } == other with { Offset = 0, Hash = 0 };

    public override string ToString() =>
        $"{Kind} {Rows} x {Cols} {Format}, {Bytes} bytes" + (Kind == SectionKind.Bundles ? $", {RowsPerNeuron} rows a neuron (down {Down}, gate {Gate}), {Group} neurons a unit of {Stride}" : "");
}

/// <summary>
/// The header of edge.bin and of a slice: a prefix of 64 bytes and 128 bytes per section, in one page. Decoding trusts nothing:
/// what comes back lies inside the file, is aligned and does not overlap; everything else is a <see cref="FlashException"/>.
/// </summary>
internal sealed record SectionTable(int Layer, long FileBytes, IReadOnlyList<SectionEntry> Sections)
{
    public const int PrefixBytes = 64;
    public const int EntryBytes = 128;
    public const int NameBytes = 48;
    public const int MaxSections = (PackageLayout.Page - PrefixBytes) / EntryBytes;
    /// <summary>Layer of the edge file.</summary>
    public const int Edge = -1;

    private static ReadOnlySpan<byte> Magic => "FLASHORL"u8;

    public byte[] Encode(int version)
    {
        byte[] header = new byte[PackageLayout.Page];
        Span<byte> h = header;
        Magic.CopyTo(h);
        BinaryPrimitives.WriteInt32LittleEndian(h[8..], version);
        BinaryPrimitives.WriteInt32LittleEndian(h[12..], Layer);
        BinaryPrimitives.WriteInt32LittleEndian(h[16..], header.Length);
        BinaryPrimitives.WriteInt32LittleEndian(h[20..], Sections.Count);
        BinaryPrimitives.WriteInt64LittleEndian(h[24..], FileBytes);
        for (int i = 0; i < Sections.Count; i++) Encode(Sections[i], h.Slice(PrefixBytes + i * EntryBytes, EntryBytes));
        BinaryPrimitives.WriteUInt64LittleEndian(h[32..], XxHash3.HashToUInt64(h[PrefixBytes..]));
        return header;
    }

    /// <summary>The identity of a header as the manifest records it.</summary>
    public static string Hash(ReadOnlySpan<byte> header) => Convert.ToHexStringLower(XxHash128.Hash(header));

    public static SectionTable Decode(ReadOnlySpan<byte> h, string file, long fileBytes, int layer, int alignment)
    {
        if (!h[..8].SequenceEqual(Magic)) throw new FlashException(file, 0, "this is not a flash package file (the magic FLASHORL is missing)");
        int version = BinaryPrimitives.ReadInt32LittleEndian(h[8..]);
        if (!Manifest.IsKnown(version))
            throw new FlashException(file, 8, $"format version {version}; this build reads {Manifest.KnownVersions}: import the model again (flash import PATH --name NAME)");
        int found = BinaryPrimitives.ReadInt32LittleEndian(h[12..]);
        if (found != layer) throw new FlashException(file, 12, $"this is {Who(found)}, {Who(layer)} was expected: the files were mixed up");
        int headerBytes = BinaryPrimitives.ReadInt32LittleEndian(h[16..]);
        if (headerBytes != PackageLayout.Page) throw new FlashException(file, 16, $"the header says it has {headerBytes} bytes, not {PackageLayout.Page}");
        int count = BinaryPrimitives.ReadInt32LittleEndian(h[20..]);
        if (count is < 0 or > MaxSections) throw new FlashException(file, 20, $"{count} sections; at most {MaxSections} fit");
        long bytes = BinaryPrimitives.ReadInt64LittleEndian(h[24..]);
        if (bytes != fileBytes) throw new FlashException(file, 24, $"the header says the file has {bytes} bytes, it has {fileBytes}");
        ulong hash = BinaryPrimitives.ReadUInt64LittleEndian(h[32..]), actual = XxHash3.HashToUInt64(h[PrefixBytes..]);
        if (hash != actual) throw new FlashException(file, 32, $"the section table is damaged (checksum {actual:x16}, expected {hash:x16})");

        SectionEntry[] sections = new SectionEntry[count];
        for (int i = 0; i < count; i++) sections[i] = Decode(h, PrefixBytes + i * EntryBytes, file, fileBytes, alignment, version);
        Array.Sort(sections, static (a, b) => a.Offset != b.Offset ? a.Offset.CompareTo(b.Offset) : a.Bytes.CompareTo(b.Bytes));
        for (int i = 1; i < count; i++)
        {
            if (sections[i].Offset < sections[i - 1].End)
                throw new FlashException(file, sections[i].Offset, $"sections {sections[i - 1].Name} and {sections[i].Name} overlap");
        }
        HashSet<string> names = new(StringComparer.Ordinal);
        foreach (SectionEntry section in sections)
        {
            if (!names.Add(section.Name)) throw new FlashException(file, PrefixBytes, $"section {section.Name} appears twice");
        }
        return new SectionTable(found, bytes, sections);
    }

    private static string Who(int layer) => layer == Edge ? "the edge file" : $"the slice of layer {layer}";

    private static void Encode(SectionEntry s, Span<byte> to)
    {
        if (Encoding.ASCII.GetByteCount(s.Name) is 0 or >= NameBytes) throw new ArgumentException($"section name '{s.Name}' must have 1 to {NameBytes - 1} bytes");
        Encoding.ASCII.GetBytes(s.Name, to);
        BinaryPrimitives.WriteInt32LittleEndian(to[48..], (int)s.Kind);
        BinaryPrimitives.WriteInt32LittleEndian(to[52..], (int)s.Format);
        BinaryPrimitives.WriteInt32LittleEndian(to[56..], s.Rows);
        BinaryPrimitives.WriteInt32LittleEndian(to[60..], s.Cols);
        BinaryPrimitives.WriteInt64LittleEndian(to[64..], s.Offset);
        BinaryPrimitives.WriteInt64LittleEndian(to[72..], s.Bytes);
        BinaryPrimitives.WriteUInt64LittleEndian(to[80..], s.Hash);
        BinaryPrimitives.WriteInt32LittleEndian(to[88..], s.Group);
        BinaryPrimitives.WriteInt32LittleEndian(to[92..], s.Stride);
        BinaryPrimitives.WriteInt32LittleEndian(to[96..], s.RowsPerNeuron);
        BinaryPrimitives.WriteInt32LittleEndian(to[100..], s.Permutation);
        BinaryPrimitives.WriteInt32LittleEndian(to[104..], (int)s.Down);
        BinaryPrimitives.WriteInt32LittleEndian(to[108..], (int)s.Gate);
    }

    private static SectionEntry Decode(ReadOnlySpan<byte> header, int at, string file, long fileBytes, int alignment, int version)
    {
        ReadOnlySpan<byte> e = header.Slice(at, EntryBytes);
        int nameLength = e[..NameBytes].IndexOf((byte)0);
        if (nameLength <= 0 || e[..nameLength].ContainsAnyExceptInRange((byte)0x21, (byte)0x7e))
            throw new FlashException(file, at, "a section has no legible name");
        SectionEntry s = new()
        {
            Name = Encoding.ASCII.GetString(e[..nameLength]),
            Kind = (SectionKind)BinaryPrimitives.ReadInt32LittleEndian(e[48..]),
            Format = (WeightFormat)BinaryPrimitives.ReadInt32LittleEndian(e[52..]),
            Rows = BinaryPrimitives.ReadInt32LittleEndian(e[56..]),
            Cols = BinaryPrimitives.ReadInt32LittleEndian(e[60..]),
            Offset = BinaryPrimitives.ReadInt64LittleEndian(e[64..]),
            Bytes = BinaryPrimitives.ReadInt64LittleEndian(e[72..]),
            Hash = BinaryPrimitives.ReadUInt64LittleEndian(e[80..]),
            Group = BinaryPrimitives.ReadInt32LittleEndian(e[88..]),
            Stride = BinaryPrimitives.ReadInt32LittleEndian(e[92..]),
            RowsPerNeuron = BinaryPrimitives.ReadInt32LittleEndian(e[96..]),
            Permutation = BinaryPrimitives.ReadInt32LittleEndian(e[100..]),
        };
        if (s.Kind == SectionKind.Bundles)
        {
            // In version 1 all rows of a neuron had one format.
            s = version == 1
                ? s with { Down = s.Format, Gate = s.Format }
                : s with { Down = (WeightFormat)BinaryPrimitives.ReadInt32LittleEndian(e[104..]), Gate = (WeightFormat)BinaryPrimitives.ReadInt32LittleEndian(e[108..]) };
        }
        if (s.Offset < header.Length || s.Offset % alignment != 0)
            throw new FlashException(file, at + 64, $"section {s.Name} starts at {s.Offset}, which is inside the header or no multiple of {alignment}");
        if (s.Bytes < 0 || s.Bytes > fileBytes - s.Offset)
            throw new FlashException(file, at + 72, $"section {s.Name} has {s.Bytes} bytes at {s.Offset}, beyond the end of the file ({fileBytes} bytes)");
        return s;
    }
}
