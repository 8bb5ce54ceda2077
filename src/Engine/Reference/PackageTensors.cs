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
        // Of lean bundles the row that decides is in the selector alone.
        if (package.Manifest.Lean && section == (package.Config.Gated ? "ffn.gate" : "ffn.up")) section = "ffn.selector";
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
        WeightFormat format = name switch { "ffn.up" => b.Up, "ffn.down" => b.Down, _ => b.Gate };
        if (b.Slabs)
        {
            ReadSlabs(b, bytes.Span, name, format, matrix);
            return matrix;
        }
        int rowBytes = WeightLayout.RowBytes(format, b.Cols);
        for (int i = 0; i < b.Neurons; i++)
        {
            int j = i % b.Group, at = name switch { "ffn.up" => b.UpOffset(j), "ffn.down" => b.DownOffset(j), _ => b.GateOffset(j) };
            Quantizer.DequantizeRow(format, bytes.Span.Slice(i / b.Group * b.Stride + at, rowBytes), b.Cols, matrix.AsSpan(i * b.Cols, b.Cols));
        }
        return matrix;
    }

    /// <summary>Gate and up rows as they are, down turned: its rows are columns of ours.</summary>
    private static void ReadSlabs(BundleLayout b, ReadOnlySpan<byte> bytes, string name, WeightFormat format, float[] matrix)
    {
        bool down = name == "ffn.down";
        int rows = down ? b.Cols : BundleLayout.SlabNeurons, cols = down ? BundleLayout.SlabNeurons : b.Cols, panelBytes = WeightLayout.PanelBytes(format, cols);
        int part = down ? b.SlabGateBytes + b.SlabUpBytes : name == "ffn.up" ? b.SlabGateBytes : 0, count;
        byte[] row = new byte[WeightLayout.RowBytes(format, cols)];
        float[] numbers = new float[cols];
        for (int first = 0; first < b.Neurons; first += count)
        {
            int j = first % b.Group;
            count = Math.Min(BundleLayout.SlabNeurons, Math.Min(b.Group - j, b.Neurons - first));
            ReadOnlySpan<byte> panels = bytes[(first / b.Group * b.Stride + b.SlabOffset(j) + part)..];
            for (int r = 0; r < (down ? rows : count); r++)
            {
                Panel.Unpack(format, panels.Slice(r / WeightLayout.PanelRows * panelBytes, panelBytes), r % WeightLayout.PanelRows, cols, row);
                Quantizer.DequantizeRow(format, row, cols, numbers);
                if (!down) numbers.CopyTo(matrix, (first + r) * b.Cols);
                for (int k = 0; down && k < count; k++) matrix[(first + k) * b.Cols + r] = numbers[k];
            }
        }
    }
}
