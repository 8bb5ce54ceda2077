using System.Runtime.Intrinsics;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// The K types: super-blocks of 256 with one half scale d, and small whole scales (and minima) for sub-blocks of 16 or 32. Codes of two bits lie
/// four to a byte: bits 2j and 2j+1 of 32 bytes are the j-th 32 of 128 numbers.
/// </summary>
internal static partial class GgufDequantizer
{
    /// <summary>16 bytes of scale (low half) and minimum (high half), 64 bytes of 2-bit codes, d, dmin: q × (d × scale) - dmin × minimum.</summary>
    private static void Q2K(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<byte> two = Vector128.Create((byte)3);
        for (int at = 0, v = 0; at < blocks.Length; at += 84, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 84);
            Span<float> to = values.Slice(v, 256);
            float d = Lanes.Half(b[80..]), dmin = Lanes.Half(b[82..]);
            for (int s = 0; s < 16; s++)
            {
                // Sub-block s is 16 numbers: half s/8 of the codes, bits 2j, first or second 16 bytes.
                Vector128<byte> q = Lanes.Load(b[(16 + 32 * (s >> 3) + 16 * (s & 1))..]) >>> (s & 6);
                Lanes.Scale(q & two, d * (b[s] & 15), -(dmin * (b[s] >> 4)), to[(16 * s)..]);
            }
        }
    }

    /// <summary>32 bytes of third bits (clear: minus 4), 64 bytes of 2-bit codes, 16 scales of 6 bits in 12 bytes, d.</summary>
    private static void Q3K(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<byte> two = Vector128.Create((byte)3), third = Vector128.Create((byte)4);
        for (int at = 0, v = 0; at < blocks.Length; at += 110, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 110), scales = b.Slice(96, 12);
            Span<float> to = values.Slice(v, 256);
            float d = Lanes.Half(b[108..]);
            for (int s = 0; s < 16; s++)
            {
                int half = 16 * (s & 1);
                int scale = ((scales[s & 7] >> (s >> 3 << 2)) & 15) | (((scales[8 + (s & 3)] >> (s >> 2 << 1)) & 3) << 4);
                Vector128<byte> q = (Lanes.Load(b[(32 + 32 * (s >> 3) + half)..]) >>> (s & 6)) & two;
                // Bit s/2 of 32 bytes belongs to the s/2-th 32 numbers.
                Vector128<byte> high = ((Lanes.Load(b[half..]) >>> (s >> 1)) << 2) & third;
                Lanes.Scale((q | high).AsSByte() - Vector128.Create((sbyte)4), d * (scale - 32), to[(16 * s)..]);
            }
        }
    }

    /// <summary>The 6-bit scale and minimum of sub-block <paramref name="s"/>, of eight, from the 12 bytes of Q4_K and Q5_K.</summary>
    private static (int Scale, int Min) ScaleAndMin(ReadOnlySpan<byte> packed, int s) => s < 4
        ? (packed[s] & 63, packed[s + 4] & 63)
        : ((packed[s + 4] & 15) | (packed[s - 4] >> 6 << 4), (packed[s + 4] >> 4) | (packed[s] >> 6 << 4));

    /// <summary>d, dmin, 12 bytes of scales and minima, 128 bytes of 4-bit codes: 32 bytes are 32 numbers (low halves), then 32 more (high).</summary>
    private static void Q4K(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        for (int at = 0, v = 0; at < blocks.Length; at += 144, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 144), scales = b.Slice(4, 12);
            float d = Lanes.Half(b), dmin = Lanes.Half(b[2..]);
            for (int s = 0; s < 8; s += 2)
            {
                Span<float> to = values.Slice(v + 32 * s, 64);
                Vector128<byte> first = Lanes.Load(b[(16 + 16 * s)..]), second = Lanes.Load(b[(32 + 16 * s)..]);
                (int scale, int min) = ScaleAndMin(scales, s);
                float by = d * scale, minus = -(dmin * min);
                Lanes.Scale(Lanes.Low(first), by, minus, to);
                Lanes.Scale(Lanes.Low(second), by, minus, to[16..]);
                (scale, min) = ScaleAndMin(scales, s + 1);
                by = d * scale;
                minus = -(dmin * min);
                Lanes.Scale(Lanes.High(first), by, minus, to[32..]);
                Lanes.Scale(Lanes.High(second), by, minus, to[48..]);
            }
        }
    }

    /// <summary>As Q4_K, with 32 bytes of fifth bits before the codes: bit s of them belongs to sub-block s.</summary>
    private static void Q5K(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<byte> fifth = Vector128.Create((byte)16), one = Vector128.Create((byte)1);
        for (int at = 0, v = 0; at < blocks.Length; at += 176, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 176), scales = b.Slice(4, 12);
            float d = Lanes.Half(b), dmin = Lanes.Half(b[2..]);
            Vector128<byte> high0 = Lanes.Load(b[16..]), high1 = Lanes.Load(b[32..]);
            for (int s = 0; s < 8; s++)
            {
                Span<float> to = values.Slice(v + 32 * s, 32);
                Vector128<byte> first = Lanes.Load(b[(48 + 16 * (s & 6))..]), second = Lanes.Load(b[(64 + 16 * (s & 6))..]);
                (first, second) = (s & 1) == 0 ? (Lanes.Low(first), Lanes.Low(second)) : (Lanes.High(first), Lanes.High(second));
                (int scale, int min) = ScaleAndMin(scales, s);
                float by = d * scale, minus = -(dmin * min);
                Vector128<byte> bit = one << s;
                Lanes.Scale(first | (Vector128.Equals(high0 & bit, bit) & fifth), by, minus, to);
                Lanes.Scale(second | (Vector128.Equals(high1 & bit, bit) & fifth), by, minus, to[16..]);
            }
        }
    }

    /// <summary>128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales, d. 64 low bytes and 32 high bytes are 128 numbers.</summary>
    private static void Q6K(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<byte> two = Vector128.Create((byte)0x30);
        Vector128<sbyte> middle = Vector128.Create((sbyte)32);
        for (int at = 0, v = 0; at < blocks.Length; at += 210, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 210);
            Span<float> to = values.Slice(v, 256);
            float d = Lanes.Half(b[208..]);
            for (int part = 0; part < 4; part++)
            {
                // 16 columns of a half: the four 32s of that half have their numbers at the same place.
                int half = part >> 1, column = 16 * (part & 1), s = 8 * half + (part & 1), o = 128 * half + column;
                Vector128<byte> low0 = Lanes.Load(b[(64 * half + column)..]), low1 = Lanes.Load(b[(64 * half + 32 + column)..]);
                Vector128<byte> high = Lanes.Load(b[(128 + 32 * half + column)..]);
                Lanes.Scale((Lanes.Low(low0) | ((high << 4) & two)).AsSByte() - middle, d * (sbyte)b[192 + s], to[o..]);
                Lanes.Scale((Lanes.Low(low1) | ((high << 2) & two)).AsSByte() - middle, d * (sbyte)b[194 + s], to[(o + 32)..]);
                Lanes.Scale((Lanes.High(low0) | (high & two)).AsSByte() - middle, d * (sbyte)b[196 + s], to[(o + 64)..]);
                Lanes.Scale((Lanes.High(low1) | ((high >>> 2) & two)).AsSByte() - middle, d * (sbyte)b[198 + s], to[(o + 96)..]);
            }
        }
    }
}
