using System.Buffers.Binary;
using System.Runtime.Intrinsics;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// The types with one scale for a block: a half d (and for _1 a half m), then 32 codes. Four bits: the low halves of 16 bytes are the first 16
/// codes, the high halves the other 16; a fifth bit comes from 32 bits between scale and codes. _0: (q - middle) × d; _1: q × d + m.
/// </summary>
internal static partial class GgufDequantizer
{
    private static void Q4_0(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<sbyte> middle = Vector128.Create((sbyte)8);
        for (int at = 0, v = 0; at < blocks.Length; at += 18, v += 32)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 18);
            Span<float> to = values.Slice(v, 32);
            float d = Lanes.Half(b);
            Vector128<byte> q = Lanes.Load(b[2..]);
            Lanes.Scale(Lanes.Low(q).AsSByte() - middle, d, to);
            Lanes.Scale(Lanes.High(q).AsSByte() - middle, d, to[16..]);
        }
    }

    private static void Q4_1(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        for (int at = 0, v = 0; at < blocks.Length; at += 20, v += 32)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 20);
            Span<float> to = values.Slice(v, 32);
            float d = Lanes.Half(b), m = Lanes.Half(b[2..]);
            Vector128<byte> q = Lanes.Load(b[4..]);
            Lanes.Scale(Lanes.Low(q), d, m, to);
            Lanes.Scale(Lanes.High(q), d, m, to[16..]);
        }
    }

    private static void Q5_0(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<byte> fifth = Vector128.Create((byte)16);
        Vector128<sbyte> middle = Vector128.Create((sbyte)16);
        for (int at = 0, v = 0; at < blocks.Length; at += 22, v += 32)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 22);
            Span<float> to = values.Slice(v, 32);
            float d = Lanes.Half(b);
            uint high = Lanes.U32(b[2..]);
            Vector128<byte> q = Lanes.Load(b[6..]);
            Lanes.Scale((Lanes.Low(q) | (Lanes.Mask(high) & fifth)).AsSByte() - middle, d, to);
            Lanes.Scale((Lanes.High(q) | (Lanes.Mask(high >> 16) & fifth)).AsSByte() - middle, d, to[16..]);
        }
    }

    private static void Q5_1(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        Vector128<byte> fifth = Vector128.Create((byte)16);
        for (int at = 0, v = 0; at < blocks.Length; at += 24, v += 32)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 24);
            Span<float> to = values.Slice(v, 32);
            float d = Lanes.Half(b), m = Lanes.Half(b[2..]);
            uint high = Lanes.U32(b[4..]);
            Vector128<byte> q = Lanes.Load(b[8..]);
            Lanes.Scale(Lanes.Low(q) | (Lanes.Mask(high) & fifth), d, m, to);
            Lanes.Scale(Lanes.High(q) | (Lanes.Mask(high >> 16) & fifth), d, m, to[16..]);
        }
    }

    private static void Q8_0(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        for (int at = 0, v = 0; at < blocks.Length; at += 34, v += 32)
        {
            ReadOnlySpan<byte> b = blocks.Slice(at, 34);
            Span<float> to = values.Slice(v, 32);
            float d = Lanes.Half(b);
            Lanes.Scale(Lanes.Load(b[2..]).AsSByte(), d, to);
            Lanes.Scale(Lanes.Load(b[18..]).AsSByte(), d, to[16..]);
        }
    }

    /// <summary>A float32 scale, 256 codes, and sums of 16 codes each, which only products need.</summary>
    private static void Q8K(ReadOnlySpan<byte> blocks, Span<float> values)
    {
        for (int at = 0, v = 0; at < blocks.Length; at += 292, v += 256)
        {
            float d = BinaryPrimitives.ReadSingleLittleEndian(blocks[at..]);
            ReadOnlySpan<byte> codes = blocks.Slice(at + 4, 256);
            Span<float> to = values.Slice(v, 256);
            for (int i = 0; i < 256; i += 16) Lanes.Scale(Lanes.Load(codes[i..]).AsSByte(), d, to[i..]);
        }
    }
}
