using System.Numerics;
using System.Runtime.Intrinsics;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// The types whose codes choose points of a grid (<see cref="GgufGrids"/>): 8 numbers a point for 1 and 2 bits, 4 for 3 bits. Signs are stored apart:
/// as 8 bits, or as 7 whose parity is the eighth. Each loop makes 16 numbers at a time.
/// </summary>
internal static partial class GgufDequantizer
{
    /// <summary>d, then for each 32 numbers 4 codes of 8 bits and a word of 4 × 7 sign bits and 4 bits of scale.</summary>
    private static void Iq2Xxs(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        ulong[] grid = GgufGrids.Iq2Xxs;
        for (int at = 0, v = 0; at < blocks.Length; at += 66, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 66);
            float d = Lanes.Half(b);
            for (int s = 0; s < 8; s++)
            {
                ReadOnlySpan<byte> codes = b.Slice(2 + 8 * s, 8);
                uint word = Lanes.U32(codes[4..]);
                float by = d * (0.5f + (word >> 28)) * 0.25f;
                Span<float> to = values.Slice(v + 32 * s, 32);
                Points(grid[codes[0]], grid[codes[1]], Signs(word) | Signs(word >> 7) << 8, by, to);
                Points(grid[codes[2]], grid[codes[3]], Signs(word >> 14) | Signs(word >> 21) << 8, by, to[16..]);
            }
        }
    }

    /// <summary>d, 32 codes of 9 bits with 7 sign bits, 8 bytes of 4-bit scales for 16 numbers each.</summary>
    private static void Iq2Xs(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        ulong[] grid = GgufGrids.Iq2Xs;
        for (int at = 0, v = 0; at < blocks.Length; at += 74, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 74);
            float d = Lanes.Half(b);
            for (int s = 0; s < 16; s++)
            {
                uint first = Lanes.U16(b[(2 + 4 * s)..]), second = Lanes.U16(b[(4 + 4 * s)..]);
                float by = d * (0.5f + Nibble(b[66..], s)) * 0.25f;
                Points(grid[first & 511], grid[second & 511], Signs(first >> 9) | Signs(second >> 9) << 8, by, values.Slice(v + 16 * s, 16));
            }
        }
    }

    /// <summary>d, 32 low bytes of codes, 32 bytes of signs, 8 bytes with two high bits per code, 8 bytes of 4-bit scales for 16 numbers each.</summary>
    private static void Iq2S(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        ulong[] grid = GgufGrids.Iq2S;
        for (int at = 0, v = 0; at < blocks.Length; at += 82, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 82);
            float d = Lanes.Half(b);
            for (int s = 0; s < 16; s++)
            {
                int high = b[66 + (s >> 1)] >> (4 * (s & 1));
                int first = b[2 + 2 * s] | (high & 3) << 8, second = b[3 + 2 * s] | (high >> 2 & 3) << 8;
                float by = d * (0.5f + Nibble(b[74..], s)) * 0.25f;
                Points(grid[first], grid[second], Lanes.U16(b[(34 + 2 * s)..]), by, values.Slice(v + 16 * s, 16));
            }
        }
    }

    /// <summary>d, 64 codes of 8 bits, then for each 32 numbers a word of 4 × 7 sign bits and 4 bits of scale.</summary>
    private static void Iq3Xxs(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        uint[] grid = GgufGrids.Iq3Xxs;
        for (int at = 0, v = 0; at < blocks.Length; at += 98, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 98);
            float d = Lanes.Half(b);
            for (int s = 0; s < 8; s++)
            {
                ReadOnlySpan<byte> codes = b.Slice(2 + 8 * s, 8);
                uint word = Lanes.U32(b[(66 + 4 * s)..]);
                float by = d * (0.5f + (word >> 28)) * 0.5f;
                Span<float> to = values.Slice(v + 32 * s, 32);
                Points(Pair(grid[codes[0]], grid[codes[1]]), Pair(grid[codes[2]], grid[codes[3]]), Signs(word) | Signs(word >> 7) << 8, by, to);
                Points(Pair(grid[codes[4]], grid[codes[5]]), Pair(grid[codes[6]], grid[codes[7]]), Signs(word >> 14) | Signs(word >> 21) << 8, by, to[16..]);
            }
        }
    }

    /// <summary>d, 64 low bytes of codes, 8 bytes with their ninth bits, 32 bytes of signs, 4 bytes of 4-bit scales for 32 numbers each.</summary>
    private static void Iq3S(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        uint[] grid = GgufGrids.Iq3S;
        for (int at = 0, v = 0; at < blocks.Length; at += 110, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 110);
            float d = Lanes.Half(b);
            for (int s = 0; s < 16; s++)
            {
                ReadOnlySpan<byte> codes = b.Slice(2 + 4 * s, 4);
                int high = b[66 + (s >> 1)] >> (4 * (s & 1));
                ulong first = Pair(grid[codes[0] | (high & 1) << 8], grid[codes[1] | (high >> 1 & 1) << 8]);
                ulong second = Pair(grid[codes[2] | (high >> 2 & 1) << 8], grid[codes[3] | (high >> 3 & 1) << 8]);
                Points(first, second, Lanes.U16(b[(74 + 2 * s)..]), d * (1 + 2 * Nibble(b[106..], s >> 1)), values.Slice(v + 16 * s, 16));
            }
        }
    }

    /// <summary>d, 32 low bytes of codes, then for each 32 numbers 16 bits: 4 × 3 high code bits, 3 bits of scale, the sign of a shift by 1/8.</summary>
    private static void Iq1S(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        ulong[] grid = GgufGrids.Iq1;
        for (int at = 0, v = 0; at < blocks.Length; at += 50, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 50);
            float d = Lanes.Half(b);
            for (int s = 0; s < 8; s++)
            {
                ReadOnlySpan<byte> codes = b.Slice(2 + 4 * s, 4);
                int word = Lanes.U16(b[(34 + 2 * s)..]);
                float by = d * (2 * (word >> 12 & 7) + 1);
                int shift = (word & 0x8000) == 0 ? 1 : -1;
                Span<float> to = values.Slice(v + 32 * s, 32);
                Shifted(grid[codes[0] | (word & 7) << 8], shift, grid[codes[1] | (word >> 3 & 7) << 8], shift, by, to);
                Shifted(grid[codes[2] | (word >> 6 & 7) << 8], shift, grid[codes[3] | (word >> 9 & 7) << 8], shift, by, to[16..]);
            }
        }
    }

    /// <summary>32 low bytes of codes, 16 bytes with 3 high bits and a shift sign per code, 8 bytes: 16 scales of 3 bits, and d in the top bits.</summary>
    private static void Iq1M(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        ulong[] grid = GgufGrids.Iq1;
        for (int at = 0, v = 0; at < blocks.Length; at += 56, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 56), scales = b[48..];
            int bits = scales[1] >> 4 | scales[3] & 0xf0 | (scales[5] & 0xf0) << 4 | (scales[7] & 0xf0) << 8;
            float d = (float)BitConverter.UInt16BitsToHalf((ushort)bits);
            for (int s = 0; s < 16; s++)
            {
                int high = b[32 + s], scale = Lanes.U16(scales[(s >> 2 << 1)..]) >> (3 * (s & 3)) & 7;
                ulong first = grid[b[2 * s] | (high & 7) << 8], second = grid[b[2 * s + 1] | (high >> 4 & 7) << 8];
                Shifted(first, (high & 8) == 0 ? 1 : -1, second, (high & 0x80) == 0 ? 1 : -1, d * (2 * scale + 1), values.Slice(v + 16 * s, 16));
            }
        }
    }

    private static int Nibble(ReadOnlySpan<byte> packed, int i) => packed[i >> 1] >> (4 * (i & 1)) & 15;

    private static ulong Pair(uint first, uint second) => first | (ulong)second << 32;

    /// <summary>Seven sign bits and the eighth that makes their number even.</summary>
    private static uint Signs(uint bits) => (bits & 127) | ((uint)BitOperations.PopCount(bits & 127) & 1) << 7;

    private static void Points(ulong first, ulong second, uint signs, float by, Span<float> to) =>
        Lanes.Scale(Lanes.Negate(Vector128.Create(first, second).AsSByte(), Lanes.Mask(signs)), by, to);

    /// <summary>(point ± 1/8) × by. In eighths all is whole, and an eighth of the scale is exact.</summary>
    private static void Shifted(ulong first, int shift1, ulong second, int shift2, float by, Span<float> to)
    {
        Vector128<sbyte> shift = Vector128.Create(Vector64.Create((sbyte)shift1), Vector64.Create((sbyte)shift2));
        Lanes.Scale(Vector128.Create(first, second).AsSByte() + shift, by * 0.125f, to);
    }
}
