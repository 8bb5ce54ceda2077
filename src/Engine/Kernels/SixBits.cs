namespace FlashOrleans.Engine;

/// <summary>
/// The 6-bit scales and minima of q4k: eight of each in three words S, M, L, in the arrangement that GGUF's Q4_K has. Blocks 0..3 lie whole in the bytes of S and M; of blocks
/// 4..7 the low four bits are nibbles of L (scale below, minimum above), the high two bits are the top of the bytes of S and M. So eight come out with a few masks where lanes
/// are blocks (a row), and where lanes are rows (a panel, a word each) every block is one shift by whole bytes further.
/// </summary>
internal static class SixBits
{
    private const uint Whole = 0x3F3F3F3F, Low = 0x0F0F0F0F, High = 0x30303030;

    public static int Scale(uint s, uint l, int block) => One(s, l, block);

    public static int Minimum(uint m, uint l, int block) => One(m, l >> 4, block);

    private static int One(uint whole, uint low, int block)
    {
        int shift = block % 4 * 8;
        return (int)(block < 4 ? whole >> shift & 63 : (low >> shift & 15) | (whole >> shift + 2 & 48));
    }

    /// <summary>Eight scales, a byte each.</summary>
    public static ulong Scales(uint s, uint l) => Eight(s, l);

    /// <summary>Eight minima, a byte each.</summary>
    public static ulong Minima(uint m, uint l) => Eight(m, l >> 4);

    private static ulong Eight(uint whole, uint low) => whole & Whole | (ulong)(low & Low | whole >> 2 & High) << 32;

    /// <summary>The words of eight scales and eight minima, each a byte of 0..63.</summary>
    public static (uint S, uint M, uint L) Pack(ulong scales, ulong minima)
    {
        uint highScales = (uint)(scales >> 32), highMinima = (uint)(minima >> 32);
        return ((uint)scales & Whole | (highScales & High) << 2, (uint)minima & Whole | (highMinima & High) << 2, highScales & Low | (highMinima & Low) << 4);
    }
}
