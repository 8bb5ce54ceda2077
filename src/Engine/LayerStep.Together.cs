using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Products and sums of neurons that are used together: a dense feed-forward's and an expert's. They lie sixteen by sixteen in panels and tiles, as packages have them since version 3, or row by row
/// (older packages, and models that may be sparse and are asked not to be): then the rows are woven into a panel first. A panel's lanes are rows and a tile's order is that of the neurons, so the bits are the same.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Inputs of several tokens as a format's kernels take them, so many bytes apart.</summary>
    private readonly struct Inputs(byte* at, nint stride)
    {
        public readonly byte* At = at;
        public readonly nint Stride = stride;
    }

    private static nint StrideOf(WeightFormat format, int width) => WeightLayout.IsQuantized(format) ? Kernels.QuantizedBytes(width) : width * 4;

    /// <summary>a[t * n + i] = gate row i · x_t and u[t * n + i] = up row i · x_t of n neurons; without a gate the up rows' go into a. <paramref name="at"/>: where they lie, one by one or sixteen by sixteen.</summary>
    private void Products(byte** at, int n, Inputs gate, Inputs up, int tokens, float* a, float* u, int worker)
    {
        bool gated = _layer.Config.Gated;
        var layout = _layer.Bundle;
        RowOffsets offsets = _layer.Offsets;
        int width = _layer.Config.HiddenSize;
        if (!gated) u = a;
        if (!layout.Panels)
        {
            byte** rows = stackalloc byte*[Numerics.NeuronBlock];
            byte* panel = _woven + worker * _wovenBytes;
            for (int i = 0; i < n && gated; i++) rows[i] = at[i] + offsets.Gate;
            if (gated) kernels.Products(layout.Gate, rows, n, width, gate.At, gate.Stride, tokens, a, n, panel);
            kernels.Products(layout.Up, at, n, width, up.At, up.Stride, tokens, u, n, panel);
            return;
        }
        for (int i = 0; i < n; i += WeightLayout.PanelRows, at++)
        {
            int count = Math.Min(WeightLayout.PanelRows, n - i);
            if (gated) kernels.Panels(layout.Gate, *at + offsets.Gate, 0, 1, count, width, gate.At, gate.Stride, tokens, a + i, n, *at + offsets.Up);
            kernels.Panels(layout.Up, *at + offsets.Up, 0, 1, count, width, up.At, up.Stride, tokens, u + i, n, i + WeightLayout.PanelRows < n ? at[1] : null);
        }
    }

    private static void AddBias(float* products, int n, int tokens, float* bias, int neuron)
    {
        if (bias == null) return;
        for (int t = 0; t < tokens; t++, products += n)
            for (int i = 0; i < n; i++) products[i] += bias[neuron + i];
    }

    /// <summary>y_t += a_ti · down row i of at most 128 neurons, one after another, for few tokens that lie row by row. Token t's a_i is a[t * aStride + i].</summary>
    private void AddRows(byte** at, int n, float* a, int aStride, int tokens, float* y)
    {
        int width = _layer.Config.HiddenSize;
        byte** rows = stackalloc byte*[Numerics.NeuronBlock];
        for (int i = 0; i < n; i++) rows[i] = at[i] + _layer.Offsets.Down;
        for (int t = 0; t < tokens; t++) kernels.Axpys(_layer.Bundle.Down, a + t * aStride, rows, n, width, y + (long)t * width);
    }

    /// <summary>The same for columns [from, to) of tiles, one tile's; the sum from +0, and then y_t += it, where <paramref name="whole"/>. <paramref name="next"/>: where the neurons lie that come next, or null.</summary>
    private void AddTiles(byte** at, int n, int from, int to, float* a, nint aStride, int tokens, float* y, bool whole, byte** next)
    {
        const int most = Kernels.ColumnRows / WeightLayout.PanelRows;
        byte** tiles = stackalloc byte*[2 * most];
        nint offset = _layer.Offsets.Down + from / BundleLayout.TileColumns * (nint)_layer.Offsets.Tile;
        for (int i = 0; i * WeightLayout.PanelRows < n; i++)
        {
            tiles[i] = at[i] + offset;
            if (next != null) tiles[most + i] = next[i] + offset;
        }
        kernels.Tiles(_layer.Bundle.Down, tiles, n, to - from, a, aStride, tokens, y + from, _layer.Config.HiddenSize, whole, next != null ? tiles + most : null);
    }

    /// <summary>Columns [from, to) for many tokens and at most 128 neurons, one tile's where there are tiles, as <see cref="Kernels.Columns"/> takes and does it.</summary>
    private void AddColumns(byte** at, int n, int from, int to, float* a, nint aStride, int tokens, float* y, bool whole)
    {
        var layout = _layer.Bundle;
        RowOffsets offsets = _layer.Offsets;
        int width = _layer.Config.HiddenSize, first = layout.Panels ? 0 : from, columns = layout.Panels ? to - from : width, bytes = WeightLayout.RowBytes(layout.Down, columns);
        byte** rows = stackalloc byte*[Kernels.ColumnRows];
        nint offset = offsets.Down + (layout.Panels ? from / BundleLayout.TileColumns * (nint)offsets.Tile : 0);
        for (int i = 0; i < n; i++) rows[i] = layout.Panels ? at[i / WeightLayout.PanelRows] + offset + i % WeightLayout.PanelRows * bytes : at[i] + offset;
        kernels.Columns(layout.Down, rows, n, columns, first, first + to - from, a, aStride, tokens, y + from - first, width, whole);
    }
}
