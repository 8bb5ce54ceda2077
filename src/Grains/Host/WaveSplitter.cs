using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

/// <summary>
/// A wave above 1 MiB that goes to another silo travels as several messages, cut between slots: one long message would hold up every other on the
/// connection, the cluster's probes included. The next inbox merges them like any waves. A slot is never cut, a step is one slot: sessions submit no larger
/// chunk than fits (<see cref="RowsThatFit"/>). What counts is the rows; slots and token ids are a few per cent.
/// </summary>
internal static class WaveSplitter
{
    public const int MaxBytes = 1 << 20;

    public static bool Fits(Wave wave, int maxBytes = MaxBytes) => (long)wave.RowCount * wave.Width * sizeof(float) <= maxBytes || wave.SlotCount <= 1;

    /// <summary>Most rows of that width in one message.</summary>
    public static int RowsThatFit(int width, int maxBytes = MaxBytes) => Math.Max(1, maxBytes / (width * sizeof(float)));

    /// <summary>Copies of the wave's parts, each as large as fits or one slot; the wave stays the caller's.</summary>
    public static Wave[] Split(Wave wave, int maxBytes = MaxBytes)
    {
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
        return [.. parts];
    }
}
