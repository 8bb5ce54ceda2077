using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// Stored blocks of every GGUF weight type → float32, with the bits that the format's reference gives. Stateless, any thread. The families are in
/// files of their own: <c>Simple</c> (one scale per 32), <c>K</c> (super-blocks of 256 with scales of scales), <c>Codebook</c> (4-bit codes into a
/// table of 16), <c>Grid</c> (codes into tables of points), <c>Ternary</c>. The types of whole numbers and float64 are no weights.
/// </summary>
internal static partial class GgufDequantizer
{
    /// <summary><paramref name="blocks"/> is a whole number of blocks, <paramref name="values"/> has room for exactly their numbers.</summary>
    public static void Dequantize(GgufType type, ReadOnlySpan<byte> blocks, Span<float> values)
    {
        (int perBlock, int bytes) = GgufTypes.Block(type);
        if (bytes == 0 || blocks.Length % bytes != 0 || values.Length / perBlock != blocks.Length / bytes || values.Length % perBlock != 0)
            throw new ArgumentException($"{blocks.Length} bytes of {type} into {values.Length} numbers", nameof(values));
        switch (type)
        {
            case GgufType.F32: blocks.CopyTo(MemoryMarshal.AsBytes(values)); break;
            case GgufType.F16: F16(MemoryMarshal.Cast<byte, ushort>(blocks), values); break;
            case GgufType.BF16: Bf16(MemoryMarshal.Cast<byte, ushort>(blocks), values); break;
            case GgufType.Q4_0: Q4_0(blocks, values); break;
            case GgufType.Q4_1: Q4_1(blocks, values); break;
            case GgufType.Q5_0: Q5_0(blocks, values); break;
            case GgufType.Q5_1: Q5_1(blocks, values); break;
            case GgufType.Q8_0: Q8_0(blocks, values); break;
            case GgufType.Q8_K: Q8K(blocks, values); break;
            case GgufType.Q2_K: Q2K(blocks, values); break;
            case GgufType.Q3_K: Q3K(blocks, values); break;
            case GgufType.Q4_K: Q4K(blocks, values); break;
            case GgufType.Q5_K: Q5K(blocks, values); break;
            case GgufType.Q6_K: Q6K(blocks, values); break;
            case GgufType.IQ4_NL: Iq4Nl(blocks, values); break;
            case GgufType.IQ4_XS: Iq4Xs(blocks, values); break;
            case GgufType.MXFP4: MxFp4(blocks, values); break;
            case GgufType.NVFP4: NvFp4(blocks, values); break;
            case GgufType.IQ1_S: Iq1S(blocks, values); break;
            case GgufType.IQ1_M: Iq1M(blocks, values); break;
            case GgufType.IQ2_XXS: Iq2Xxs(blocks, values); break;
            case GgufType.IQ2_XS: Iq2Xs(blocks, values); break;
            case GgufType.IQ2_S: Iq2S(blocks, values); break;
            case GgufType.IQ3_XXS: Iq3Xxs(blocks, values); break;
            case GgufType.IQ3_S: Iq3S(blocks, values); break;
            case GgufType.TQ1_0: Tq1(blocks, values); break;
            case GgufType.TQ2_0: Tq2(blocks, values); break;
            default: throw new ArgumentException($"{type} holds no weights", nameof(type));
        }
    }

    private static void F16(ReadOnlySpan<ushort> halves, Span<float> values)
    {
        int i = 0;
        for (; i <= halves.Length - 8; i += 8)
        {
            (Vector128<uint> lo, Vector128<uint> hi) = Vector128.Widen(Vector128.Create(halves[i..]));
            Widen(lo).CopyTo(values[i..]);
            Widen(hi).CopyTo(values[(i + 4)..]);
        }
        for (; i < halves.Length; i++) values[i] = (float)BitConverter.UInt16BitsToHalf(halves[i]);
    }

    /// <summary>
    /// Four halves: exponent and fraction move into place and the exponent is rebased; infinities and NaNs get the highest exponent. A subnormal
    /// gets an exponent that makes its fraction count from 2^-14, which is then taken away again: exact, and no slow subnormal float appears.
    /// </summary>
    private static Vector128<float> Widen(Vector128<uint> half)
    {
        const uint exponent = 0x7c00u << 13;
        Vector128<uint> sign = (half & Vector128.Create(0x8000u)) << 16;
        Vector128<uint> bits = (half & Vector128.Create(0x7fffu)) << 13;
        Vector128<uint> e = bits & Vector128.Create(exponent);
        Vector128<uint> normal = bits + Vector128.Create((127u - 15) << 23);
        Vector128<uint> special = normal + Vector128.Create((128u - 16) << 23);
        Vector128<uint> small = ((normal + Vector128.Create(1u << 23)).AsSingle() - Vector128.Create(113u << 23).AsSingle()).AsUInt32();
        Vector128<uint> result = Vector128.ConditionalSelect(Vector128.Equals(e, Vector128.Create(exponent)), special, normal);
        result = Vector128.ConditionalSelect(Vector128.Equals(e, Vector128<uint>.Zero), small, result);
        return (result | sign).AsSingle();
    }

    private static void Bf16(ReadOnlySpan<ushort> from, Span<float> values)
    {
        int i = 0;
        for (; i <= from.Length - 8; i += 8)
        {
            (Vector128<uint> lo, Vector128<uint> hi) = Vector128.Widen(Vector128.Create(from[i..]));
            (lo << 16).AsSingle().CopyTo(values[i..]);
            (hi << 16).AsSingle().CopyTo(values[(i + 4)..]);
        }
        for (; i < from.Length; i++) values[i] = BitConverter.UInt32BitsToSingle((uint)from[i] << 16);
    }
}
