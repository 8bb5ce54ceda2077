using System.Buffers.Binary;
using System.IO.Hashing;
using System.Text.Json.Nodes;
using FlashOrleans.Flash;
using FlashOrleans.Flash.Tests;
using FlashOrleans.Tests;

namespace FlashOrleans.Fuzz.Bench;

/// <summary>
/// Damaged packages: manifest.json, edge.bin or a slice. Half of them are forged: the checksums above the change are made to fit again, since what is of interest lies behind them.
/// Files are opened in memory: a direct read of a file just written waits for the disk.
/// </summary>
internal static class PackageCase
{
    private static readonly Lazy<(string Path, byte[] Bytes)[][]> s_packages = new(static () =>
        [.. Directory.EnumerateDirectories(Path.Combine("tests", "data", "packages")).Order(StringComparer.Ordinal)
            .Select(static p => Directory.EnumerateFiles(p, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal).Select(f => (Path.GetRelativePath(p, f), File.ReadAllBytes(f))).ToArray())]);

    private static readonly string[] s_words = ["f32", "bf16", "q8", "q4", "q4b", "q4k", "relu", "silu", "selector", "none", "identity", "lean", "lowrank", "rope", "learned", "rms", "layer", "ffn.down", "layers.1.attn.v", "../../etc/passwd", "edge.bin"];

    private const string SideFile = "tokenizer.json";

    public static Action Prepare(Random random, string folder)
    {
        (string Path, byte[] Bytes)[] good = s_packages.Value[random.Next(s_packages.Value.Length)];
        string package = Path.Combine(folder, "m.flash");
        Directory.CreateDirectory(Path.Combine(package, "layers"));
        foreach ((string path, byte[] bytes) in good) File.WriteAllBytes(Path.Combine(package, path), bytes);
        bool forged = random.Next(2) == 0;
        // manifest.json knows the hash of the side file, which is three bytes here: nothing is behind it.
        (string Path, byte[] Bytes)[] damageable = [.. good.Where(static f => f.Path != SideFile)];
        (string relative, byte[] content) = damageable[random.Next(damageable.Length)];
        string file = Path.Combine(package, relative);
        if (relative == PackageLayout.ManifestPath)
        {
            JsonObject donor = JsonNode.Parse(s_packages.Value[random.Next(s_packages.Value.Length)].Single(static f => f.Path == PackageLayout.ManifestPath).Bytes)!.AsObject();
            if (forged) PackageForge.Manifest(package, root => { for (int n = random.Next(1, 4); n > 0; n--) JsonMutations.Mutate(root, root, donor, s_words, random); });
            else File.WriteAllBytes(file, Mutations.Bytes(content, 0, content.Length, random, "{}[]\",:0123456789-e\\"u8));
        }
        else
        {
            int end = random.Next(2) == 0 ? content.Length : Math.Min(content.Length, 64 + 16 * SectionTable.EntryBytes);
            byte[] bytes = Mutations.Bytes(content, 0, end, random);
            // Without a whole header there is nothing to make fit.
            if (forged && bytes.Length >= PackageLayout.Page) PackageForge.File_(package, relative, _ => Fitted(bytes, random.Next(2) == 0));
            else File.WriteAllBytes(file, bytes);
        }
        bool everything = random.Next(2) == 0;
        return () => Read(package, everything);
    }

    /// <summary>The file's length and, with <paramref name="sections"/>, each section's checksum.</summary>
    private static byte[] Fitted(byte[] bytes, bool sections)
    {
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(24), bytes.Length);
        int count = Math.Clamp(BinaryPrimitives.ReadInt32LittleEndian(bytes.AsSpan(20)), 0, SectionTable.MaxSections);
        for (int i = 0; sections && i < count; i++)
        {
            Span<byte> entry = bytes.AsSpan(SectionTable.PrefixBytes + i * SectionTable.EntryBytes, SectionTable.EntryBytes);
            long offset = BinaryPrimitives.ReadInt64LittleEndian(entry[64..]), size = BinaryPrimitives.ReadInt64LittleEndian(entry[72..]);
            if (offset >= PackageLayout.Page && size >= 0 && size <= bytes.Length && offset <= bytes.Length - size)
                BinaryPrimitives.WriteUInt64LittleEndian(entry[80..], XxHash3.HashToUInt64(bytes.AsSpan((int)offset, (int)size)));
        }
        return bytes;
    }

    private static void Read(string path, bool everything)
    {
        using FlashPackage package = FlashPackage.Open(path, static p => new MemoryFile(File.ReadAllBytes(p), 512, p), everything, null);
        foreach (ManifestSideFile side in package.Manifest.SideFiles) package.SideFile(side.Name);
        using (PackageFile edge = package.OpenEdge())
        {
            Load(edge);
            ReadUnits(edge.SectionUnits("embed"));
        }
        for (int layer = 0; layer < package.Config.Layers; layer++)
        {
            using PackageFile slice = package.OpenSlice(layer);
            Load(slice);
            ReadUnits(slice.BundleUnits(whole: true));
            ReadUnits(slice.BundleUnits(whole: false));
        }
    }

    private static void Load(PackageFile file)
    {
        var ledger = new MemoryLedger();
        foreach (Section section in file.Sections.Where(static s => s.Kind is SectionKind.Plain or SectionKind.Panels)) file.Load(section.Name, ledger, "section").Dispose();
    }

    /// <summary>As a layer reads them: what does not have its checksum is an answer here, not an exception.</summary>
    private static unsafe void ReadUnits(UnitRegion units)
    {
        using var scan = new FileScan(new MemoryLedger(), Math.Max(units.PartBytes, PackageLayout.Page));
        for (int unit = 0; unit < units.Count; unit++)
            fixed (byte* part = scan.Read(units.File, units.Start(unit), units.PartBytes)) units.Verify(unit, part);
    }
}
