using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

/// <summary>
/// A wave above 1 MiB that goes to another silo travels as several messages, cut between slots: one long message would hold up every other on the
/// connection, the cluster's probes included. The next inbox merges them like any waves. A slot is never cut: a step is one slot.
/// </summary>
internal static class WaveSplitter
{
    public const int MaxBytes = 1 << 20;

    /// <summary>The wave itself when it is small enough or has one slot; else copies of its parts, and the wave's array goes back.</summary>
    public static Wave[] Split(Wave wave, int maxBytes = MaxBytes)
    {
        if (wave.Length <= maxBytes || wave.SlotCount <= 1) return [wave];
        List<Wave> parts = [];
        int slot = 0, row = 0;
        while (slot < wave.SlotCount)
        {
            int count = 0, rows = 0;
            do
            {
                rows += wave.Slots[slot + count].Count;
                count++;
            }
            while (slot + count < wave.SlotCount && (long)(rows + wave.Slots[slot + count].Count) * wave.Width * sizeof(float) <= maxBytes);
            Wave part = Wave.Rent(count, rows, wave.Width);
            wave.Slots.Slice(slot, count).CopyTo(part.Slots);
            wave.Tokens.Slice(row, rows).CopyTo(part.Tokens);
            wave.Rows.Slice(row * wave.Width, rows * wave.Width).CopyTo(part.Rows);
            parts.Add(part);
            slot += count;
            row += rows;
        }
        wave.Return();
        return [.. parts];
    }
}
