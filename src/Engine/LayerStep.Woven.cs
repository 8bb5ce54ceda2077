using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// How the units of a dense feed-forward that stay in memory lie there: rearranged once, by who uses them first, so that every step after it multiplies panels. Of each sixteen neurons the gate rows
/// become a panel, behind it the panel of the up rows, behind it the down rows; without a gate the up panel comes first. Units that come and go are used as they are read. A panel's lanes are rows, so the bits are the same.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Compute threads: rearranges a unit that has been checked, if it stays and its rows are ones that panels serve.</summary>
    private void Rearrange(int unit, int slot, int worker)
    {
        var bundles = _layer.Bundles!;
        var layout = _layer.Bundle;
        int group = layout.Group, cols = _layer.Config.HiddenSize;
        if (unit >= bundles.Resident || bundles.IsWoven[slot] || bundles.IsUnchecked(slot) || group % WeightLayout.PanelRows != 0 || (unit + 1) * group > _layer.Neurons) return;
        if (!WeightLayout.IsQuantized(layout.Up) || !WeightLayout.IsQuantized(layout.Gate)) return;
        byte* scratch = _woven + worker * _wovenBytes, at = bundles.UnitBase(slot, unit);
        byte** rows = stackalloc byte*[WeightLayout.PanelRows];
        RowOffsets offsets = _layer.Offsets;
        int gate = GatePanelBytes, up = WeightLayout.PanelBytes(layout.Up, cols), down = layout.DownBytes;
        for (int j = 0; j < group; j += WeightLayout.PanelRows)
        {
            byte* first = at + offsets.Up(j);
            for (int i = 0; i < WeightLayout.PanelRows; i++)
            {
                rows[i] = at + offsets.Up(j + i);
                Buffer.MemoryCopy(rows[i] + offsets.Down, scratch + gate + up + i * down, down, down);
            }
            kernels.Weave(layout.Up, rows, WeightLayout.PanelRows, cols, scratch + gate);
            for (int i = 0; i < WeightLayout.PanelRows && gate > 0; i++) rows[i] += offsets.Gate;
            if (gate > 0) kernels.Weave(layout.Gate, rows, WeightLayout.PanelRows, cols, scratch);
            long bytes = gate + up + WeightLayout.PanelRows * (long)down;
            Buffer.MemoryCopy(scratch, first, bytes, bytes);
        }
        bundles.IsWoven[slot] = true;
    }

    /// <summary>0 where there is no gate.</summary>
    private int GatePanelBytes => _layer.Config.Gated ? WeightLayout.PanelBytes(_layer.Bundle.Gate, _layer.Config.HiddenSize) : 0;

    /// <summary>The sixteen neurons from this one on, or null where they lie as they were read.</summary>
    private byte* WovenAt(in Segment segment, int neuron)
    {
        int group = _layer.Bundle.Group, unit = neuron / group, slot = _neededSlot[segment.From + unit - _needed[segment.From]];
        return _layer.Bundles!.IsWoven[slot] ? _layer.Bundles.UnitBase(slot, unit) + _layer.Offsets.Up((neuron - unit * group) & ~(WeightLayout.PanelRows - 1)) : null;
    }
}
