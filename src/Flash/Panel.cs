using System.Runtime.InteropServices;

namespace FlashOrleans.Flash;

/// <summary>Rows become panels and back (<see cref="WeightLayout"/> draws both): for who writes packages and who reads them number by number. The engine weaves with its own kernels. Any thread.</summary>
public static class Panel
{
    /// <summary>Weaves up to 16 rows in row layout, <paramref name="stride"/> bytes apart (0: one after another), into one panel; missing rows become zeros.</summary>
    public static void Pack(WeightFormat format, ReadOnlySpan<byte> rows, int rowCount, int cols, Span<byte> panel, int stride = 0)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rowCount, WeightLayout.PanelRows);
        int rowBytes = WeightLayout.RowBytes(format, cols);
        if (stride == 0) stride = rowBytes;
        panel = panel[..WeightLayout.PanelBytes(format, cols)];
        if (rowCount < WeightLayout.PanelRows) panel.Clear();
        for (int r = 0; r < rowCount; r++)
        {
            ReadOnlySpan<byte> row = rows.Slice(r * stride, rowBytes);
            if (!WeightLayout.IsQuantized(format))
            {
                row.CopyTo(panel[(r * rowBytes)..]);
                continue;
            }
            // Integers four bytes at a time: for nibbles that is step s with step s + 4, as the row pairs column j with j + 16. Then the parameters.
            int integers = WeightLayout.IntegerBytes(format, cols), parameters = cols / WeightLayout.Block * WeightLayout.ParameterBytes(format);
            Weave(row[..integers], 4, r, panel);
            Weave(row.Slice(integers, parameters), WeightLayout.ParameterGroup(format), r, panel[(integers * WeightLayout.PanelRows)..]);
        }
    }

    /// <summary>Row <paramref name="r"/> of a panel in row layout.</summary>
    public static void Unpack(WeightFormat format, ReadOnlySpan<byte> panel, int r, int cols, Span<byte> row)
    {
        row.Clear();
        if (!WeightLayout.IsQuantized(format))
        {
            panel.Slice(r * row.Length, row.Length).CopyTo(row);
            return;
        }
        int body = WeightLayout.IntegerBytes(format, cols), end = body + cols / WeightLayout.Block * WeightLayout.ParameterBytes(format), each = WeightLayout.ParameterGroup(format);
        for (int k = 0; k < body; k += 4) panel.Slice(k * WeightLayout.PanelRows + r * 4, 4).CopyTo(row[k..]);
        for (int k = body; k < end; k += each) panel.Slice(k * WeightLayout.PanelRows + r * each, each).CopyTo(row[k..]);
    }

    /// <summary>Weaves any number of rows, <paramref name="stride"/> bytes apart (0: one after another), into panels one behind the other.</summary>
    public static void PackAll(WeightFormat format, ReadOnlySpan<byte> rows, int rowCount, int cols, Span<byte> panels, int stride = 0)
    {
        int panelBytes = WeightLayout.PanelBytes(format, cols);
        if (stride == 0) stride = WeightLayout.RowBytes(format, cols);
        for (int first = 0; first < rowCount; first += WeightLayout.PanelRows, panels = panels[panelBytes..])
            Pack(format, rows[(first * stride)..], Math.Min(WeightLayout.PanelRows, rowCount - first), cols, panels, stride);
    }

    /// <summary>Row r's bytes into a panel that takes <paramref name="each"/> bytes, four or two, of 16 rows in turn.</summary>
    private static void Weave(ReadOnlySpan<byte> row, int each, int r, Span<byte> panel)
    {
        if (each == 4) Weave(MemoryMarshal.Cast<byte, uint>(row), MemoryMarshal.Cast<byte, uint>(panel)[r..]);
        else Weave(MemoryMarshal.Cast<byte, ushort>(row), MemoryMarshal.Cast<byte, ushort>(panel)[r..]);
    }

    private static void Weave<T>(ReadOnlySpan<T> row, Span<T> panel)
    {
        for (int k = 0; k < row.Length; k++) panel[k * WeightLayout.PanelRows] = row[k];
    }
}
