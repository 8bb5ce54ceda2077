using System.Runtime.Intrinsics;

namespace FlashOrleans.Models.Gguf;

/// <summary>The types of minus one, zero, one: TQ1_0 packs five to a byte as a fraction in base 3, TQ2_0 four to a byte, two bits each.</summary>
internal static partial class GgufDequantizer
{
    /// <summary>32 bytes of 160 numbers, 16 bytes of 80, 4 bytes of 16, d. The n-th number of a byte is the next digit of (byte × 3^n) / 256 in base 3.</summary>
    private static void Tq1(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        for (int at = 0, v = 0; at < blocks.Length; at += 54, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 54);
            Span<float> to = values.Slice(v, 256);
            float d = Lanes.Half(b[52..]);
            Digits(b[..32], 5, d, to);
            Digits(b[32..48], 5, d, to[160..]);
            Digits(b[48..52], 4, d, to[240..]);
        }
    }

    private static void Digits(ReadOnlySpan<byte> packed, int digits, float d, Span<float> to)
    {
        byte power = 1;
        for (int n = 0, o = 0; n < digits; n++, power *= 3)
            foreach (byte b in packed)
                to[o++] = d * (((byte)(b * power) * 3 >> 8) - 1);
    }

    /// <summary>64 bytes of codes: bits 2j of 32 bytes are the j-th 32 of 128 numbers; then d.</summary>
    private static void Tq2(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<byte> two = Vector128.Create((byte)3);
        Vector128<sbyte> middle = Vector128.Create((sbyte)1);
        for (int at = 0, v = 0; at < blocks.Length; at += 66, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 66);
            Span<float> to = values.Slice(v, 256);
            float d = Lanes.Half(b[64..]);
            for (int s = 0; s < 16; s++)
            {
                Vector128<byte> q = (Lanes.Load(b[(32 * (s >> 3) + 16 * (s & 1))..]) >>> (s & 6)) & two;
                Lanes.Scale(q.AsSByte() - middle, d, to[(16 * s)..]);
            }
        }
    }
}
