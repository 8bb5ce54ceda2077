using System.Runtime.Intrinsics;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// The types whose 4-bit codes choose from a table of 16 numbers: IQ4 (numbers spread like weights) and the 4-bit floats (E2M1, here doubled to be
/// whole, the half taken into the scale).
/// </summary>
internal static partial class GgufDequantizer
{
    private static readonly Vector128<sbyte> Iq4Values = Vector128.Create((sbyte)-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    private static readonly Vector128<sbyte> Fp4Values = Vector128.Create((sbyte)0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

    private static void Iq4Nl(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<sbyte> table = Iq4Values;
        for (int at = 0, v = 0; at < blocks.Length; at += 18, v += 32)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 18);
            Coded(Lanes.Load(b[2..]), table, Lanes.Half(b), values.Slice(v, 32));
        }
    }

    /// <summary>d, 16 bits of high scale bits (2 for each 32 numbers), 4 bytes of low scale bits, 128 bytes of codes.</summary>
    private static void Iq4Xs(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<sbyte> table = Iq4Values;
        for (int at = 0, v = 0; at < blocks.Length; at += 136, v += 256)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 136);
            float d = Lanes.Half(b);
            uint high = Lanes.U16(b[2..]);
            for (int s = 0; s < 8; s++)
            {
                int scale = ((b[4 + (s >> 1)] >> (4 * (s & 1))) & 15) | (int)((high >> (2 * s) & 3) << 4);
                Coded(Lanes.Load(b[(8 + 16 * s)..]), table, d * (scale - 32), values.Slice(v + 32 * s, 32));
            }
        }
    }

    /// <summary>A scale of 8 exponent bits (2^(e - 127)), then the codes.</summary>
    private static void MxFp4(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<sbyte> table = Fp4Values;
        for (int at = 0, v = 0; at < blocks.Length; at += 17, v += 32)
        {
            // Half of 2^(e - 127); for 0 and 1 that is a subnormal float.
            uint e = blocks[at];
            float d = BitConverter.UInt32BitsToSingle(e < 2 ? 0x0020_0000u << (int)e : (e - 1) << 23);
            Coded(Lanes.Load(blocks.Slice(at + 1, 16)), table, d, values.Slice(v, 32));
        }
    }

    /// <summary>Four scales of 8 bits (E4M3, sign ignored), then 4 × 8 bytes of codes: each 8 bytes are 8 numbers (low halves), then 8 more (high).</summary>
    private static void NvFp4(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<sbyte> table = Fp4Values;
        for (int at = 0, v = 0; at < blocks.Length; at += 36, v += 64)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 36);
            for (int s = 0; s < 4; s++)
            {
                Vector128<byte> packed = Vector128.Create(Vector64.Create(b.Slice(4 + 8 * s, 8)), Vector64<byte>.Zero);
                Vector128<byte> codes = Vector128.Create(Lanes.Low(packed).GetLower(), Lanes.High(packed).GetLower());
                Lanes.Scale(Vector128.Shuffle(table, codes.AsSByte()), HalfOfE4M3(b[s]), values.Slice(v + 16 * s, 16));
            }
        }
    }

    private static float HalfOfE4M3(byte x)
    {
        if (x == 0x7f) return 0;
        int exponent = (x >> 3) & 15, fraction = x & 7;
        // (8 + fraction) / 8 × 2^(exponent - 7), or fraction / 8 × 2^-6 without the leading one; and half of that.
        return exponent == 0 ? fraction * (1f / 1024) : (8 + fraction) * BitConverter.UInt32BitsToSingle((uint)(exponent - 11 + 127) << 23);
    }

    private static void Coded(Vector128<byte> packed, Vector128<sbyte> table, float scale, Span<float> to)
    {
        Lanes.Scale(Vector128.Shuffle(table, Lanes.Low(packed).AsSByte()), scale, to);
        Lanes.Scale(Vector128.Shuffle(table, Lanes.High(packed).AsSByte()), scale, to[16..]);
    }
}
