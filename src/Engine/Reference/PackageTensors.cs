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
            Panel.Unpack(section.Format, bytes.Span.Slice(r / WeightLayout.PanelRows * panelBytes, panelBytes), r % WeightLayout.PanelRows, section.Cols, row);
            Quantizer.DequantizeRow(section.Format, row, section.Cols, matrix.AsSpan(r * section.Cols, section.Cols));
        }
        return matrix;
    }

    private static float[] ReadBundles(PackageFile slice, string name)
    {
        BundleLayout b = slice.Bundles ?? throw new ArgumentException($"{slice.File.Name} has no bundles", nameof(slice));
        using NativeBuffer bytes = slice.Load(PackageLayout.Bundles, new MemoryLedger(), "reference");
        float[] matrix = new float[b.Neurons * b.Cols];
        byte[] panelled = new byte[Math.Max(WeightLayout.RowBytes(b.Down, b.Cols), Math.Max(WeightLayout.RowBytes(b.Up, b.Cols), WeightLayout.RowBytes(b.Gate, b.Cols)))];
        for (int i = 0; i < b.Neurons; i++)
        {
            int j = i % b.Group;
            WeightFormat format = name switch { "ffn.up" => b.Up, "ffn.down" => b.Down, _ => b.Gate };
            int rowBytes = WeightLayout.RowBytes(format, b.Cols);
            ReadOnlySpan<byte> unit = bytes.Span.Slice(i / b.Group * b.Stride, b.Stride), row;
            if (b.Panels)
            {
                FromPanels(b, unit[b.SixteenOffset(j)..], j % WeightLayout.PanelRows, name, format, panelled.AsSpan(0, rowBytes));
                row = panelled.AsSpan(0, rowBytes);
            }
            else
            {
                row = unit.Slice(name switch { "ffn.up" => b.UpOffset(j), "ffn.down" => b.DownOffset(j), _ => b.GateOffset(j) }, rowBytes);
            }
            Quantizer.DequantizeRow(format, row, b.Cols, matrix.AsSpan(i * b.Cols, b.Cols));
        }
        return matrix;
    }

    /// <summary>A row of the r-th of sixteen neurons, in row layout.</summary>
    private static void FromPanels(BundleLayout b, ReadOnlySpan<byte> sixteen, int r, string name, WeightFormat format, Span<byte> row)
    {
        if (name != "ffn.down")
        {
            Panel.Unpack(format, sixteen[(name == "ffn.up" ? b.GatePanelBytes : 0)..], r, b.Cols, row);
            return;
        }
        ReadOnlySpan<byte> tile = sixteen[(b.GatePanelBytes + b.UpPanelBytes)..];
        for (int from = 0; from < b.Cols; from += BundleLayout.TileColumns)
        {
            int columns = Math.Min(BundleLayout.TileColumns, b.Cols - from), each = WeightLayout.RowBytes(format, columns);
            Panel.PutColumns(format, tile.Slice(r * each, each), b.Cols, from, columns, row);
            tile = tile[(WeightLayout.PanelRows * each)..];
        }
    }
}
