using System.Globalization;
using System.Runtime.InteropServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The numbers of a package as plain float matrices, under the names that <see cref="ReferenceModel"/> asks for: panels are unwoven, bundles taken apart,
/// rows dequantised, one by one and without the engine's kernels, so that both can be compared. Reads (and checks) on every call; any thread but a grain turn.
/// </summary>
public sealed class PackageTensors(FlashPackage package)
{
    /// <summary>A tensor by its neutral name: "embed", "layers.3.attn.qkv", "layers.0.ffn.down".</summary>
    public float[] Read(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        if (!name.StartsWith("layers.", StringComparison.Ordinal))
        {
            using PackageFile edge = package.OpenEdge();
            return ReadSection(edge, name);
        }
        string rest = name["layers.".Length..];
        int dot = rest.IndexOf('.', StringComparison.Ordinal);
        using PackageFile slice = package.OpenSlice(int.Parse(rest.AsSpan(0, dot), CultureInfo.InvariantCulture));
        string section = rest[(dot + 1)..];
        if (section is "ffn.up" or "ffn.down" or "ffn.gate") return ReadBundles(slice, section);
        float[] numbers = ReadSection(slice, section);
        return section == "attn.qkv" && slice.Has("attn.v") ? [.. numbers, .. ReadSection(slice, "attn.v")] : numbers;
    }

    private static float[] ReadSection(PackageFile file, string name)
    {
        Section section = file.Section(name);
        using NativeBuffer bytes = file.Load(name, new MemoryLedger(), "reference");
        if (section.Kind == SectionKind.Plain) return MemoryMarshal.Cast<byte, float>(bytes.Span).ToArray();

        int panelBytes = WeightLayout.PanelBytes(section.Format, section.Cols);
        float[] matrix = new float[section.Rows * section.Cols];
        byte[] row = new byte[WeightLayout.RowBytes(section.Format, section.Cols)];
        for (int r = 0; r < section.Rows; r++)
        {
            UnweaveRow(section.Format, bytes.Span.Slice(r / WeightLayout.PanelRows * panelBytes, panelBytes), r % WeightLayout.PanelRows, section.Cols, row);
            Quantizer.DequantizeRow(section.Format, row, section.Cols, matrix.AsSpan(r * section.Cols, section.Cols));
        }
        return matrix;
    }

    private static float[] ReadBundles(PackageFile slice, string name)
    {
        BundleLayout b = slice.Bundles ?? throw new ArgumentException($"{slice.File.Name} has no bundles", nameof(slice));
        using NativeBuffer bytes = slice.Load(PackageLayout.Bundles, new MemoryLedger(), "reference");
        float[] matrix = new float[b.Neurons * b.Cols];
        for (int i = 0; i < b.Neurons; i++)
        {
            int j = i % b.Group;
            int offset = name switch { "ffn.up" => b.UpOffset(j), "ffn.down" => b.DownOffset(j), _ => b.GateOffset(j) };
            WeightFormat format = name switch { "ffn.up" => b.Up, "ffn.down" => b.Down, _ => b.Gate };
            ReadOnlySpan<byte> row = bytes.Span.Slice(i / b.Group * b.Stride + offset, WeightLayout.RowBytes(format, b.Cols));
            Quantizer.DequantizeRow(format, row, b.Cols, matrix.AsSpan(i * b.Cols, b.Cols));
        }
        return matrix;
    }

    /// <summary>Row r of a panel in row layout (<see cref="WeightLayout"/> draws both).</summary>
    private static void UnweaveRow(WeightFormat format, ReadOnlySpan<byte> panel, int r, int cols, Span<byte> row)
    {
        row.Clear();
        if (!WeightLayout.IsQuantized(format))
        {
            panel.Slice(r * row.Length, row.Length).CopyTo(row);
            return;
        }
        // Integers in groups of 4 bytes, 16 rows of them in turn; then the parameters likewise, f16 scales in groups of 2.
        int body = WeightLayout.IntegerBytes(format, cols), end = body + cols / WeightLayout.Block * WeightLayout.ParameterBytes(format), each = WeightLayout.ParameterGroup(format);
        for (int k = 0; k < body; k += 4) panel.Slice(k * WeightLayout.PanelRows + r * 4, 4).CopyTo(row[k..]);
        for (int k = body; k < end; k += each) panel.Slice(k * WeightLayout.PanelRows + r * each, each).CopyTo(row[k..]);
    }
}
