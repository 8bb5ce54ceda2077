using System.Buffers.Binary;
using System.IO.Hashing;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace FlashOrleans.Flash.Tests;

/// <summary>Changes packages the way a malicious or broken writer would: every checksum above the change is made to fit again.</summary>
internal static class PackageForge
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, NewLine = "\n" };

    public static void Manifest(string package, Action<JsonObject> edit)
    {
        string path = Path.Combine(package, PackageLayout.ManifestPath);
        JsonObject root = JsonNode.Parse(File.ReadAllBytes(path))!.AsObject();
        root.Remove("hash");
        edit(root);
        string body = root.ToJsonString(Indented);
        byte[] hashed = System.Text.Encoding.UTF8.GetBytes(body[..^2] + ",\n  ");
        File.WriteAllBytes(path, [.. hashed, .. System.Text.Encoding.ASCII.GetBytes("\"hash\": \"" + Convert.ToHexStringLower(XxHash128.Hash(hashed)) + "\"\n}\n")]);
    }

    /// <summary>Edits a file's bytes (their number may change), then fits the table's checksum, the file's length and the manifest to it.</summary>
    public static void File_(string package, string relative, Func<byte[], byte[]> edit, bool fitTable = true)
    {
        string path = Path.Combine(package, relative);
        byte[] bytes = edit(File.ReadAllBytes(path));
        if (fitTable) BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(32), XxHash3.HashToUInt64(bytes.AsSpan(SectionTable.PrefixBytes, PackageLayout.Page - SectionTable.PrefixBytes)));
        File.WriteAllBytes(path, bytes);
        Manifest(package, root =>
        {
            JsonObject listed = root["files"]!.AsArray().Single(f => (string)f!["path"]! == relative)!.AsObject();
            listed["bytes"] = bytes.Length;
            listed["header"] = SectionTable.Hash(bytes.AsSpan(0, PackageLayout.Page));
        });
    }

    /// <summary>Edits the table entry of a section.</summary>
    public static void Entry(string package, string relative, string section, Action<byte[], int> edit) => File_(package, relative, bytes =>
    {
        edit(bytes, At(bytes, section));
        return bytes;
    });

    public static int At(byte[] file, string section)
    {
        for (int i = 0; i < SectionTable.MaxSections; i++)
        {
            int at = SectionTable.PrefixBytes + i * SectionTable.EntryBytes;
            if (System.Text.Encoding.ASCII.GetString(file, at, SectionTable.NameBytes).TrimEnd('\0') == section) return at;
        }
        throw new ArgumentException(section);
    }

    public static void Copy(string from, string to)
    {
        foreach (string file in Directory.EnumerateFiles(from, "*", SearchOption.AllDirectories))
        {
            string target = Path.Combine(to, Path.GetRelativePath(from, file));
            Directory.CreateDirectory(Path.GetDirectoryName(target)!);
            File.Copy(file, target, overwrite: true);
        }
    }
}
