using System.Runtime.InteropServices;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Bench;

/// <summary>
/// One matrix of 4096 columns in panels and in rows, and activations for it, in native memory: larger than the caches when asked for enough rows, so that
/// one token measures DRAM and eight measure arithmetic. Owns its memory.
/// </summary>
internal sealed unsafe class Workload : IDisposable
{
    public const int Cols = 4096;

    private readonly Kernels _kernels;
    private readonly WeightFormat _format;
    private readonly byte* _panels;
    private readonly byte* _x;
    private readonly nint _xStride;
    private readonly float* _y;
    private readonly float* _coefficients;
    private readonly byte** _rows;
    private readonly byte** _xs;
    private readonly byte* _panel;
    private readonly float* _grouped;
    private readonly List<nint> _owned = [];

    public Workload(string kernels, WeightFormat format, int rows, int tokens)
    {
        _kernels = Kernels.Choose(kernels);
        (_format, Rows, Tokens) = (format, rows, tokens);
        int rowBytes = WeightLayout.RowBytes(format, Cols), panelBytes = WeightLayout.PanelBytes(format, Cols);
        _panels = Native(WeightLayout.MatrixBytes(format, rows, Cols));
        _xStride = WeightLayout.IsQuantized(format) ? Kernels.QuantizedBytes(Cols) : Cols * 4;
        _x = Native((long)_xStride * tokens);
        _y = (float*)Native(Math.Max((long)rows * tokens, (long)Cols * tokens) * 4);
        _coefficients = (float*)Native(rows * 4);
        _rows = (byte**)Native(rows * sizeof(byte*));
        _xs = (byte**)Native(rows * sizeof(byte*));
        _panel = Native(panelBytes);
        _grouped = (float*)Native(((long)tokens + 8) * Kernels.ColumnRows * 4);
        byte* stored = Native((long)rowBytes * rows);
        Random random = new(1);
        float[] row = new float[Cols];
        // Sixteen rows repeated: the numbers do not matter to the time, quantising 64 MB would.
        for (int r = 0; r < Math.Min(16, rows); r++)
        {
            for (int k = 0; k < Cols; k++) row[k] = random.NextSingle() - 0.5f;
            Quantizer.QuantizeRow(format, row, new Span<byte>(stored + r * rowBytes, rowBytes));
        }
        for (int r = 0; r < rows; r++)
        {
            if (r >= 16) Buffer.MemoryCopy(stored + (long)(r % 16) * rowBytes, stored + (long)r * rowBytes, rowBytes, rowBytes);
            _rows[r] = stored + (long)(r * 7919L % rows) * rowBytes;
            _xs[r] = _x + r % tokens * _xStride;
            _coefficients[r] = 0.01f;
        }
        for (int p = 0; p < WeightLayout.Panels(rows); p++)
            Panel.Pack(format, new ReadOnlySpan<byte>(stored, 16 * rowBytes), 16, Cols, new Span<byte>(_panels + (long)p * panelBytes, panelBytes));
        for (int t = 0; t < tokens; t++)
        {
            for (int k = 0; k < Cols; k++) row[k] = random.NextSingle() - 0.5f;
            fixed (float* px = row)
                if (WeightLayout.IsQuantized(format)) _kernels.QuantizeRow(px, Cols, _x + t * _xStride);
                else Buffer.MemoryCopy(px, _x + t * _xStride, Cols * 4, Cols * 4);
        }
    }

    public int Rows { get; }

    public int Tokens { get; }

    public long PanelBytes => WeightLayout.MatrixBytes(_format, Rows, Cols);

    public void Panels() => _kernels.Panels(_format, _panels, 0, WeightLayout.Panels(Rows), Rows, Cols, _x, _xStride, Tokens, _y, Rows);

    public void Dots() => _kernels.Dots(_format, _rows, _xs, Rows, Cols, _y);

    public void Axpys() => _kernels.Axpys(_format, _coefficients, _rows, Rows, Cols, _y);

    /// <summary>Products of rows with all tokens, woven sixteen at a time.</summary>
    public void Products() => _kernels.Products(_format, _rows, Rows, Cols, _x, _xStride, Tokens, _y, Rows, _panel);

    /// <summary>Down rows for all tokens, blocks of 128 neurons after each other, in strips of 256 columns as the engine does.</summary>
    public void Columns()
    {
        for (int from = 0; from < Cols; from += 256)
            for (int i = 0; i < Rows; i += Kernels.ColumnRows)
                _kernels.Columns(_format, _rows + i, Kernels.ColumnRows, Cols, from, from + 256, _grouped, 8 * Kernels.ColumnRows, Tokens, _y, Cols, true);
    }

    /// <summary>Down rows of blocks of 128 neurons that are always used, as panels of 16 columns, in strips of 256 columns as the engine does.</summary>
    public void Slabs()
    {
        int slab = (int)WeightLayout.MatrixBytes(_format, Cols, Kernels.ColumnRows), slabs = Rows / Kernels.ColumnRows;
        for (int from = 0; from < Cols / 16; from += 16)
            for (int i = 0; i < slabs; i++)
            {
                byte* at = _panels + (long)i * slab;
                _kernels.Panels(_format, at, from, from + 16, Cols, Kernels.ColumnRows, _x, Kernels.QuantizedBytes(Kernels.ColumnRows), Tokens, _y, Cols, i + 1 < slabs ? at + slab + from * (slab / (Cols / 16)) : null, add: true);
            }
    }

    /// <summary>Reads the panels and nothing else: what memory alone would take.</summary>
    public long ReadAll()
    {
        System.Numerics.Vector<long> sum = default;
        System.Numerics.Vector<long>* p = (System.Numerics.Vector<long>*)_panels;
        for (long i = 0; i < PanelBytes / sizeof(System.Numerics.Vector<long>); i += 4) sum ^= p[i] ^ p[i + 1] ^ p[i + 2] ^ p[i + 3];
        return sum[0];
    }

    public void Dispose()
    {
        foreach (nint pointer in _owned) NativeMemory.AlignedFree((void*)pointer);
        _owned.Clear();
    }

    private byte* Native(long bytes)
    {
        byte* pointer = (byte*)NativeMemory.AlignedAlloc((nuint)bytes + 64, 4096);
        NativeMemory.Clear(pointer, (nuint)bytes);
        _owned.Add((nint)pointer);
        return pointer;
    }
}
