using System.Runtime.InteropServices;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Gguf;

/// <summary>Every weight type against vectors of the format's reference, bit by bit: zero, negative, minus zero and subnormal scales are among them.</summary>
public sealed class GgufDequantizerTests
{
    private static readonly GgufType[] Vectors =
    [
        GgufType.BF16, GgufType.Q4_0, GgufType.Q4_1, GgufType.Q5_0, GgufType.Q5_1, GgufType.Q8_0, GgufType.Q2_K, GgufType.Q3_K, GgufType.Q4_K, GgufType.Q5_K,
        GgufType.Q6_K, GgufType.Q8_K, GgufType.IQ4_NL, GgufType.IQ4_XS, GgufType.MXFP4, GgufType.NVFP4, GgufType.IQ1_S, GgufType.IQ1_M, GgufType.IQ2_XXS,
        GgufType.IQ2_XS, GgufType.IQ2_S, GgufType.IQ3_XXS, GgufType.IQ3_S, GgufType.TQ1_0, GgufType.TQ2_0,
    ];

    public static readonly TheoryData<string> Types = [.. Vectors.Select(static t => t.ToString())];

    [Theory, MemberData(nameof(Types))]
    public void Blocks_become_the_numbers_of_the_reference_bit_by_bit(string type) => Check(type, TestData.Repo("tests", "data", "gguf", $"dequant-{type}.safetensors"));

    [Theory, MemberData(nameof(Types))]
    public void All_blocks_of_the_larger_set_become_the_numbers_of_the_reference(string type) => Check(type, TestData.Shared("golden", "gguf", $"dequant-{type}.safetensors"));

    [Fact]
    public void Every_half_becomes_its_float()
    {
        ushort[] halves = [.. Enumerable.Range(0, 65536).Select(static i => (ushort)i)];
        float[] floats = new float[halves.Length];
        GgufDequantizer.Dequantize(GgufType.F16, MemoryMarshal.AsBytes(halves.AsSpan()), floats);
        for (int i = 0; i < floats.Length; i++)
        {
            float expected = (float)BitConverter.UInt16BitsToHalf((ushort)i);
            if (float.IsNaN(expected)) Assert.True(float.IsNaN(floats[i]), $"half {i:x4}");
            else Assert.True(BitConverter.SingleToUInt32Bits(expected) == BitConverter.SingleToUInt32Bits(floats[i]), $"half {i:x4}: {floats[i]}");
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(7)]
    [InlineData(8)]
    [InlineData(13)]
    public void Rows_of_16_bits_may_have_any_length(int length)
    {
        foreach (GgufType type in new[] { GgufType.F16, GgufType.BF16 })
        {
            ushort[] stored = [.. Enumerable.Range(0, length).Select(i => type == GgufType.F16 ? BitConverter.HalfToUInt16Bits((Half)(i - 3.5f)) : (ushort)(BitConverter.SingleToUInt32Bits(i - 3.5f) >> 16))];
            float[] floats = new float[length];
            GgufDequantizer.Dequantize(type, MemoryMarshal.AsBytes(stored.AsSpan()), floats);
            for (int i = 0; i < length; i++) Assert.Equal(i - 3.5f, floats[i]);
        }
    }

    [Fact]
    public void Every_weight_type_is_read_and_the_others_are_refused()
    {
        foreach (GgufType type in Enum.GetValues<GgufType>())
        {
            (int values, int bytes) = GgufTypes.Block(type);
            if (GgufTypes.IsWeight(type)) GgufDequantizer.Dequantize(type, new byte[2 * bytes], new float[2 * values]);
            else Assert.Throws<ArgumentException>(() => GgufDequantizer.Dequantize(type, new byte[2 * bytes], new float[2 * values]));
        }
    }

    [Theory]
    [InlineData(17, 32)]
    [InlineData(18, 31)]
    [InlineData(18, 64)]
    [InlineData(36, 32)]
    public void Sizes_that_do_not_fit_are_refused(int bytes, int values) =>
        Assert.Throws<ArgumentException>(() => GgufDequantizer.Dequantize(GgufType.Q4_0, new byte[bytes], new float[values]));

    private static void Check(string name, string path)
    {
        GgufType type = Enum.Parse<GgufType>(name);
        using var file = SafetensorsFile.Open(path);
        TensorInfo bytes = file.Tensors["bytes"], expected = file.Tensors["expected"];
        byte[] blocks = file.ReadBytes(bytes);
        Assert.Equal(GgufTypes.Block(type), ((int)expected.Shape[1], (int)bytes.Shape[1]));
        float[] want = new float[expected.Elements], got = new float[expected.Elements];
        file.ReadRows(expected, 0, (int)expected.Shape[0], want);
        GgufDequantizer.Dequantize(type, blocks, got);
        for (int i = 0; i < want.Length; i++)
            Assert.True(BitConverter.SingleToUInt32Bits(want[i]) == BitConverter.SingleToUInt32Bits(got[i]), $"{type} number {i}: {got[i]:R} is not {want[i]:R}");
    }
}
