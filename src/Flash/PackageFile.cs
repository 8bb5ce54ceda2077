using System.Buffers.Binary;

namespace FlashOrleans.Flash;

/// <summary>
/// One open file of a package: named sections and regions of units. Immutable once open, except for the file it holds; any thread may
/// ask, loader threads read (never a grain turn). The owner disposes it when no read is under way.
/// </summary>
public sealed unsafe class PackageFile : IDisposable
{
    private readonly Dictionary<string, SectionEntry> _entries;
    /// <summary>With those this version does not know, by offset.</summary>
    private readonly IReadOnlyList<SectionEntry> _all;
    private readonly string _label;
    private readonly ulong[][] _bundleHashes = [];

    private PackageFile(FlashFile file, string label, SectionTable table, IReadOnlyList<SectionEntry> known, Manifest manifest, FileScan scan)
    {
        File = file;
        _label = label;
        _all = table.Sections;
        _entries = known.ToDictionary(static s => s.Name, StringComparer.Ordinal);
        Sections = [.. known.Select(static s => new Section
        {
            Name = s.Name, Offset = s.Offset, Bytes = s.Bytes, Format = s.Format, Rows = s.Rows, Cols = s.Cols, Kind = s.Kind, Hash = s.Hash.ToString("x16"),
        })];
        if (!_entries.TryGetValue(PackageLayout.Bundles, out SectionEntry? b)) return;
        Bundles = BundleLayout.For(manifest, table.Layer) with { Offset = b.Offset, Permutation = manifest.Permutation };
        _bundleHashes = LoadHashes(PackageLayout.Bundles, scan);
    }

    public FlashFile File { get; }
    /// <summary>Every section that the model needs, by offset.</summary>
    public IReadOnlyList<Section> Sections { get; }
    /// <summary>Neuron bundles of a slice; null in edge.bin.</summary>
    public BundleLayout? Bundles { get; }
    /// <summary>Bytes of the sections that a running layer keeps in memory: everything but bundles and checksums. With predictors somewhat less: no mode needs selector and predictor both.</summary>
    public long ResidentBytes => Sections.Where(static s => s.IsResident).Sum(static s => s.Bytes);

    /// <summary>Opens and checks structure against the manifest; takes over <paramref name="file"/>.</summary>
    internal static PackageFile Open(FlashFile file, Manifest manifest, int index, FileScan scan)
    {
        try
        {
            ManifestFile listed = manifest.Files[index];
            int layer = index - 1;
            if (file.Length != listed.Bytes) throw new FlashException(file.Name, Math.Min(file.Length, listed.Bytes), $"the file has {file.Length} bytes, the manifest says {listed.Bytes}");
            ReadOnlySpan<byte> header = scan.Read(file, 0, PackageLayout.Page);
            SectionTable table = SectionTable.Decode(header, file.Name, file.Length, layer, manifest.Alignment);
            string hash = SectionTable.Hash(header);
            if (hash != listed.Header)
                throw new FlashException(file.Name, 0, $"the header is not the one in the manifest (hash {hash}, expected {listed.Header}): the file is damaged or belongs to another import");
            IReadOnlyList<SectionEntry> known = Known(table, index == 0 ? PackageLayout.Edge(manifest.Model, manifest.Weights) : PackageLayout.Slice(manifest, layer), file.Name);
            return new PackageFile(file, listed.Path, table, known, manifest, scan);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    public bool Has(string section) => _entries.ContainsKey(section);

    public Section Section(string name) => Sections.FirstOrDefault(s => s.Name == name) ?? throw Missing(name);

    /// <summary>Reads a section into native memory and checks it. Loader threads.</summary>
    public NativeBuffer Load(string section, MemoryLedger ledger, string label)
    {
        SectionEntry entry = Entry(section);
        NativeBuffer buffer = new(entry.Bytes, ledger, label);
        try
        {
            using FileScan scan = new(ledger, (int)Math.Clamp(entry.Bytes, PackageLayout.Page, 1 << 20));
            scan.Check(File, entry, buffer.Pointer);
            return buffer;
        }
        catch
        {
            buffer.Dispose();
            throw;
        }
    }

    /// <summary>The bundles as units to read: <paramref name="whole"/> for every row of a neuron, else only the rows that `exact` lacks (gated: up and down; ungated: down).</summary>
    /// <param name="whole">See above.</param>
    /// <param name="joined">The same units in longer ones (<see cref="BundleLayout.Joined"/>), whole; null: as they are.</param>
    public UnitRegion BundleUnits(bool whole, BundleLayout? joined = null)
    {
        BundleLayout b = Bundles ?? throw Missing(PackageLayout.Bundles);
        if (joined is { Run: > 1 } j) return Joined(b, j);
        string name = _label + " bundles";
        (int offset, int bytes) = b.Span(0);
        (int restOffset, int restBytes) = b.Span(1);
        // Of lean bundles every mode that runs reads everything.
        int[] all = [.. new[] { b.UpBytes, b.DownBytes, b.GateBytes }.Where(static r => r > 0)];
        int[] rows = b.Group > 1 ? [] : whole || b.Lean ? all : b.Rows == 3 ? [b.UpBytes, b.DownBytes] : [b.DownBytes];
        if (restBytes == 0 || (!whole && b.Group == 1)) return new UnitRegion(File, name, b.Offset, b.Units, b.Stride, offset, bytes, new UnitCheck(0, bytes, _bundleHashes[0])) { Rows = rows };
        return new UnitRegion(File, name, b.Offset, b.Units, b.Stride, 0, b.UsedBytes, new UnitCheck(offset, bytes, _bundleHashes[0]), new UnitCheck(restOffset, restBytes, _bundleHashes[1])) { Rows = rows };
    }

    private UnitRegion Joined(BundleLayout b, BundleLayout joined)
    {
        var checks = new List<UnitCheck>();
        for (int i = 0; i < joined.Run; i++)
        {
            for (int s = 0; s < 2; s++)
            {
                (int offset, int bytes) = b.Span(s);
                if (bytes > 0) checks.Add(new UnitCheck(i * b.Stride + offset, bytes, _bundleHashes[s], i, joined.Run));
            }
        }
        return new UnitRegion(File, _label + " bundles", b.Offset, joined.Units, joined.Stride, 0, joined.UsedBytes, [.. checks]);
    }

    /// <summary>The rows of a section ("embed") as units: one panel of 16 rows each for quantised formats, one row each for f32 and bf16. Reads the section's checksums: loader threads.</summary>
    public UnitRegion SectionUnits(string section)
    {
        using FileScan scan = new(new MemoryLedger());
        return SectionUnits(section, scan);
    }

    public void Dispose() => File.Dispose();

    internal UnitRegion SectionUnits(string section, FileScan scan)
    {
        SectionEntry s = Entry(section);
        int bytes = PackageLayout.EmbedUnitBytes(s.Format, s.Cols);
        return new UnitRegion(File, $"{_label} {section}", s.Offset, PackageLayout.EmbedUnits(s.Format, s.Rows), bytes, 0, bytes, new UnitCheck(0, bytes, LoadHashes(section, scan)[0]));
    }

    /// <summary>Checks the sections that a running layer keeps in memory, or every byte of the file.</summary>
    internal void Check(FileScan scan, bool everything, ScanProgress? progress = null)
    {
        long end = PackageLayout.Page;
        foreach (SectionEntry section in _all)
        {
            bool bundles = section.Kind == SectionKind.Bundles;
            if (everything)
            {
                scan.CheckZero(File, end, section.Offset);
                end = section.End;
                bool hasUnits = _entries.ContainsKey(section.Name + PackageLayout.HashesSuffix);
                UnitRegion? units = !hasUnits ? null : bundles ? BundleUnits(whole: true) : SectionUnits(section.Name, scan);
                scan.Check(File, section, units: units, progress: progress);
            }
            else if (!bundles)
            {
                scan.Check(File, section, progress: progress);
            }
        }
        if (everything) scan.CheckZero(File, end, File.Length);
    }

    /// <summary>Scratch that every check of a file of this model can work with.</summary>
    internal static int ScanChunk(Manifest manifest)
    {
        int most = Math.Max(1 << 20, PackageLayout.EmbedUnitBytes(manifest.Weights.Of("embed"), manifest.Model.EmbeddingWidth));
        // Without exceptions and experts every layer is like the first.
        int layers = manifest.Weights.Exceptions.Count == 0 && manifest.Model.Experts == null ? 1 : manifest.Model.Layers;
        for (int i = 0; i < layers; i++) most = Math.Max(most, BundleLayout.For(manifest, i).Stride);
        return most;
    }

    /// <summary>Those sections that the model needs, by offset: they must be there, exactly as its shape demands. Others, of a later version, may lie beside them.</summary>
    private static List<SectionEntry> Known(SectionTable table, IReadOnlyList<SectionEntry> expected, string file)
    {
        List<SectionEntry> known = [.. table.Sections.Where(s => expected.Any(want => want.Name == s.Name))];
        foreach (SectionEntry want in expected)
        {
            SectionEntry found = known.Find(s => s.Name == want.Name) ?? throw new FlashException(file, SectionTable.PrefixBytes, $"section {want.Name} is missing");
            if (!found.SameShape(want)) throw new FlashException(file, found.Offset, $"section {want.Name} is {found}; the model needs {want}");
        }
        return known;
    }

    /// <summary>The per-unit checksums of a section, one array per checked span.</summary>
    private ulong[][] LoadHashes(string of, FileScan scan)
    {
        SectionEntry entry = Entry(of + PackageLayout.HashesSuffix);
        // Its size was checked against the model's shape; it is smaller than the file.
        byte[] bytes = GC.AllocateUninitializedArray<byte>(checked((int)entry.Bytes));
        fixed (byte* p = bytes) scan.Check(File, entry, p);
        ulong[][] hashes = new ulong[entry.Cols][];
        for (int column = 0; column < hashes.Length; column++)
        {
            ulong[] one = hashes[column] = new ulong[entry.Rows];
            for (int unit = 0; unit < one.Length; unit++)
                one[unit] = BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan((unit * hashes.Length + column) * 8));
        }
        return hashes;
    }

    private SectionEntry Entry(string name) => _entries.GetValueOrDefault(name) ?? throw Missing(name);

    private FlashException Missing(string section) => new($"{File.Name}: there is no section {section}");
}
