using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Products of rows that lie anywhere (bundle rows in a window) with several tokens: sixteen of them are woven into a panel, as the format stores matrices, and multiplied as one. Weaving costs
/// a fraction of one token's product, and a panel's lanes are rows, so the bits are those of <see cref="Dots"/>.
/// </summary>
internal abstract unsafe partial class Kernels
{
    /// <summary>y[t * yStride + i] = row_i · x_t for n rows. <paramref name="panel"/> has room for one panel of the format.</summary>
    public void Products(WeightFormat format, byte** rows, int n, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, byte* panel)
    {
        // For one token rows are as quickly multiplied where they are.
        if (tokens == 1)
        {
            byte** xs = stackalloc byte*[ColumnRows];
            for (int i = 0; i < Math.Min(n, ColumnRows); i++) xs[i] = x;
            for (int i = 0; i < n; i += ColumnRows) Dots(format, rows + i, xs, Math.Min(n - i, ColumnRows), cols, y + i);
            return;
        }
        for (int i = 0; i < n; i += WeightLayout.PanelRows)
        {
            int count = Math.Min(WeightLayout.PanelRows, n - i);
            Weave(format, rows + i, count, cols, panel);
            Panels(format, panel, 0, 1, count, cols, x, xStride, tokens, y + i, yStride);
        }
    }

    /// <summary>The panel of n rows, 1 to 16; what is missing repeats the last row.</summary>
    public void Weave(WeightFormat format, byte** rows, int n, int cols, byte* panel)
    {
        byte** all = stackalloc byte*[WeightLayout.PanelRows];
        for (int r = 0; r < WeightLayout.PanelRows; r++) all[r] = rows[Math.Min(r, n - 1)];
        if (!WeightLayout.IsQuantized(format))
        {
            int rowBytes = WeightLayout.RowBytes(format, cols);
            for (int r = 0; r < n; r++) Buffer.MemoryCopy(all[r], panel + (long)r * rowBytes, rowBytes, rowBytes);
            return;
        }
        // Integers go four bytes of each row in turn; so do parameters of four bytes and more, which follow them in the row and in the panel alike.
        int integers = WeightLayout.IntegerBytes(format, cols), parameters = cols / WeightLayout.Block * WeightLayout.ParameterBytes(format);
        bool halves = WeightLayout.ParameterGroup(format) == 2;
        int words = (halves ? integers : integers + parameters) / 4;
        for (int w = WeaveWords(all, words, panel); w < words; w++)
            for (int r = 0; r < WeightLayout.PanelRows; r++) ((uint*)panel)[w * WeightLayout.PanelRows + r] = ((uint*)all[r])[w];
        if (!halves) return;
        panel += (long)integers * WeightLayout.PanelRows;
        for (int h = WeaveHalves(all, integers, parameters / 2, panel); h < parameters / 2; h++)
            for (int r = 0; r < WeightLayout.PanelRows; r++) ((ushort*)panel)[h * WeightLayout.PanelRows + r] = ((ushort*)(all[r] + integers))[h];
    }

    /// <summary>Four bytes of each of 16 rows in turn, from the first word; how many words were done, the rest is left to the caller.</summary>
    protected virtual int WeaveWords(byte** rows, int words, byte* panel) => 0;

    /// <summary>Two bytes of each of 16 rows in turn, from byte <paramref name="offset"/>; how many of each row were done.</summary>
    protected virtual int WeaveHalves(byte** rows, nint offset, int halves, byte* panel) => 0;
}
