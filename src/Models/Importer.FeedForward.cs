using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>How a layer's feed-forward gets into its slice: slab by slab where all of its neurons are used, else neuron by neuron.</summary>
public sealed partial class Importer
{
    /// <summary>
    /// The bundles of neurons that are always used, slab by slab. Down's rows are cut where a slab ends and stored as they will be multiplied: as the checkpoint's blocks are, or quantised; those come neuron by
    /// neuron, whatever way round the checkpoint has it, and are turned.
    /// </summary>
    private void WriteSlabs(string prefix, int layer, TurnedParts parts)
    {
        using BundleWriter bundles = _writer.BeginBundles();
        BundleLayout layout = bundles.Layout;
        const int most = BundleLayout.SlabNeurons;
        int d = layout.Cols, unit = _config.ExpertsOf(layer)?.Size ?? layout.Neurons, each = BundleLayout.SlabsOf(unit);
        bool gated = _config.Gated, keptDown = _checkpoint.KeptInSlabs(prefix + "ffn.down", unit) == layout.Down;
        bool keptUp = ImportFormats.IsKept(_checkpoint.Nearest(prefix + "ffn.up", 0, layout.Neurons), layout.Up), keptGate = gated && ImportFormats.IsKept(_checkpoint.Nearest(prefix + "ffn.gate", 0, layout.Neurons), layout.Gate);
        for (int p = 0; p < parts.All.Count; p++)
        {
            TurnedPart part = parts.All[p];
            parts.Await(p);
            _blocks.Run(part.Count / unit * each, (k, block) =>
            {
                int j = k % each * most, first = part.First + k / each * unit + j, n = Math.Min(most, unit - j);
                byte[] slab = block.Panels.Of(layout.SlabBytes);
                Rows("ffn.up", keptUp, layout.Up, slab.AsSpan(layout.SlabGateBytes, layout.SlabUpBytes));
                int bytes = WeightLayout.RowBytes(layout.Down, most);
                byte[] stored = block.Stored.Of(d * bytes);
                if (keptDown)
                {
                    _checkpoint.ReadStoredSlab(prefix + "ffn.down", first, layout.Down, stored, bytes);
                    block.Costs.Add(("ffn.down", default));
                }
                else
                {
                    float[] numbers = block.Numbers.Of(n * d), turned = block.Turned.Of(most * d);
                    _checkpoint.ReadRows(prefix + "ffn.down", first, n, numbers.AsSpan(0, n * d));
                    Turn(numbers, n, d, turned);
                    block.Costs.Add(("ffn.down", _store.Store(layout.Down, "ffn.down", 0, turned, d, most, stored, bytes, 0)));
                }
                Panel.PackAll(layout.Down, stored, d, most, slab.AsSpan(layout.SlabGateBytes + layout.SlabUpBytes, layout.SlabDownBytes), bytes);
                if (gated) Rows("ffn.gate", keptGate, layout.Gate, slab.AsSpan(0, layout.SlabGateBytes));

                void Rows(string kind, bool kept, WeightFormat format, Span<byte> to)
                {
                    int rowBytes = WeightLayout.RowBytes(format, d);
                    byte[] rows = block.Stored.Of(most * rowBytes);
                    Fill(kept, format, kind, prefix + kind, first, n, d, block, rows, rowBytes, 0);
                    to.Clear();
                    Panel.PackAll(format, rows, n, d, to, rowBytes);
                }
            }, (k, block) =>
            {
                Enter(block);
                bundles.WriteSlab(block.Panels.Of(0).AsSpan(0, layout.SlabBytes));
            }, _cancel);
        }
    }

    /// <summary>n rows of d numbers become d rows of a slab's width, the rest of each zero: in squares, so that a cache line is written while it is there.</summary>
    internal static void Turn(float[] from, int n, int d, float[] to)
    {
        const int most = BundleLayout.SlabNeurons, side = 16;
        for (int column = 0; column < d; column += side)
            for (int row = 0; row < most; row += side)
                for (int c = column; c < Math.Min(column + side, d); c++)
                    for (int r = row; r < row + side; r++) to[c * most + r] = r < n ? from[r * d + c] : 0;
    }

    /// <summary>
    /// The bundles of a ReLU model, up ‖ down ‖ gate row of each neuron, and beside them the deciding rows once more as resident panels: woven from the same
    /// stored rows, so that a neuron's numbers are the same in both places. Lean bundles go without the row that decides, which is made as the last one or the first.
    /// </summary>
    private void WriteNeurons(string prefix, int layer, int[]? order, TurnedParts parts)
    {
        int d = _config.HiddenSize, n = _config.NeuronsOf(layer), blockRows = BlockRows(d, n);
        (string Kind, WeightFormat Format, int Offset)[] kinds = new (string, WeightFormat, int)[_config.RowsPerNeuron];
        int bundleBytes = 0;
        for (int i = 0; i < kinds.Length; i++)
        {
            string kind = i == 0 ? "ffn.up" : i == 1 ? "ffn.down" : "ffn.gate";
            kinds[i] = (kind, _formats.Of(layer, kind), bundleBytes);
            bundleBytes += WeightLayout.RowBytes(kinds[i].Format, d);
        }
        (_, WeightFormat decides, int offset) = kinds[_config.Gated ? 2 : 0];
        bool[] kept = [.. kinds.Select(k => ImportFormats.IsKept(_checkpoint.Nearest(prefix + k.Kind, 0, n), k.Format))];
        int panelBytes = WeightLayout.PanelBytes(decides, d);
        using BundleWriter bundles = _writer.BeginBundles();
        using SectionWriter selector = _writer.BeginSection("ffn.selector", decides, n, d);
        int bundled = bundles.Layout.BundleBytes, from = bundles.Layout.Lean && !_config.Gated ? bundleBytes - bundled : 0;
        for (int p = 0; p < parts.All.Count; p++)
        {
            TurnedPart part = parts.All[p];
            parts.Await(p);
            int Count(int block) => Math.Min(blockRows, part.Count - block * blockRows);
            _blocks.Run((part.Count + blockRows - 1) / blockRows, (k, block) =>
            {
                int first = part.First + k * blockRows;
                byte[] stored = block.Stored.Of(blockRows * bundleBytes);
                for (int i = 0; i < kinds.Length; i++)
                {
                    (string kind, WeightFormat format, int at) = kinds[i];
                    if (order == null) Fill(kept[i], format, kind, prefix + kind, first, Count(k), d, block, stored, bundleBytes, at);
                    for (int j = 0; order != null && j < Count(k); j++) Fill(kept[i], format, kind, prefix + kind, order[first + j], 1, d, block, stored, bundleBytes, at + j * bundleBytes);
                }
                Panel.PackAll(decides, stored.AsSpan(offset), Count(k), d, block.Panels.Of(WeightLayout.Panels(blockRows) * panelBytes), bundleBytes);
            }, (k, block) =>
            {
                Enter(block);
                for (int i = 0; i < Count(k); i++) bundles.WriteNeuron(block.Stored.Of(0).AsSpan(i * bundleBytes + from, bundled));
                selector.Write(block.Panels.Of(0).AsSpan(0, WeightLayout.Panels(Count(k)) * panelBytes));
            }, _cancel);
        }
    }
}
