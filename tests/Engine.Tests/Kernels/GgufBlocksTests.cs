using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

/// <summary>GGUF's blocks against the values that its reference implementation gives them, bit by bit: in rows, and in panels through the kernels.</summary>
public sealed unsafe class GgufBlocksTests
{
    public static TheoryData<string, WeightFormat> Types => new()
    {
        { "Q8_0", WeightFormat.Q8 },
        { "Q4_0", WeightFormat.Q4 },
        { "Q4_1", WeightFormat.Q4B },
        { "Q4_K", WeightFormat.Q4K },
    };

    private static void Convert(WeightFormat format, byte[] blocks, int cols, byte[] row)
    {
        switch (format)
        {
            case WeightFormat.Q8: GgufBlocks.Q8Row(blocks, cols, row); break;
            case WeightFormat.Q4: GgufBlocks.Q4Row(blocks, cols, row); break;
            case WeightFormat.Q4B: GgufBlocks.Q4BRow(blocks, cols, row); break;
            default: GgufBlocks.Q4KRow(blocks, cols, row); break;
        }
    }

    /// <summary>All blocks of the golden file as one row, and the values it stands for.</summary>
    private static (byte[] Blocks, float[] Expected) Golden(string type)
    {
        using SafetensorsFile file = SafetensorsFile.Open(Path.Combine(TestData.Repo("tests", "data", "golden", "gguf"), $"dequant-{type}.safetensors"));
        TensorInfo values = file.Tensors["expected"];
        float[] expected = new float[values.Elements];
        file.ReadRows(values, 0, (int)values.Shape[0], expected);
        return (file.ReadBytes(file.Tensors["bytes"]), expected);
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void A_row_of_blocks_stands_for_the_same_floats(string type, WeightFormat format)
    {
        (byte[] blocks, float[] expected) = Golden(type);
        byte[] row = new byte[WeightLayout.RowBytes(format, expected.Length)];
        row.AsSpan().Fill(0xEE);
        Convert(format, blocks, expected.Length, row);
        AssertSame(expected, Numbers.Restore(format, row, expected.Length));
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void Every_kernel_variant_unpacks_a_panel_of_blocks_to_the_same_floats(string type, WeightFormat format)
    {
        (byte[] blocks, float[] expected) = Golden(type);
        int cols = expected.Length / 4 / WeightLayout.Multiple(format) * WeightLayout.Multiple(format), blockBytes = blocks.Length / 4, rowBytes = WeightLayout.RowBytes(format, cols);
        Assert.Equal(expected.Length, 4 * cols);
        byte[] rows = new byte[4 * rowBytes], row = new byte[rowBytes], panel = new byte[WeightLayout.PanelBytes(format, cols)];
        for (int r = 0; r < 4; r++)
        {
            Convert(format, blocks[(r * blockBytes)..((r + 1) * blockBytes)], cols, row);
            row.CopyTo(rows, r * rowBytes);
        }
        Panel.Pack(format, rows, 4, cols, panel);
        float[] y = new float[cols], acc = new float[cols];
        foreach (string name in Kernels.Available)
        {
            for (int r = 0; r < 4; r++)
            {
                Array.Clear(acc);
                fixed (byte* p = panel, stored = rows)
                fixed (float* py = y, pacc = acc)
                {
                    Kernels.Choose(name).PanelRow(format, p, r, cols, py);
                    float one = 1;
                    byte* at = stored + r * rowBytes;
                    Kernels.Choose(name).Axpys(format, &one, &at, 1, cols, pacc);
                }
                AssertSame(expected.AsSpan(r * cols, cols), y);
                for (int k = 0; k < cols; k++) Assert.Equal(expected[r * cols + k], acc[k]);
            }
        }
    }

    private static void AssertSame(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual)
    {
        for (int k = 0; k < expected.Length; k++)
            Assert.True(BitConverter.SingleToInt32Bits(expected[k]) == BitConverter.SingleToInt32Bits(actual[k]), $"column {k}: {actual[k]:R} instead of {expected[k]:R}");
    }

    [Fact]
    public void The_least_int8_is_kept_and_every_kernel_variant_multiplies_by_it()
    {
        byte[] block = new byte[34], row = new byte[WeightLayout.RowBytes(WeightFormat.Q8, 32)];
        (block[0], block[1]) = (0x00, 0x3C);
        block.AsSpan(2).Fill(0x80);
        GgufBlocks.Q8Row(block, 32, row);
        Assert.All(Numbers.Restore(WeightFormat.Q8, row, 32), static v => Assert.Equal(-128f, v));
        float[] x = new float[32];
        x.AsSpan().Fill(-127);
        byte[] quantized = new byte[Kernels.QuantizedBytes(32)];
        foreach (string name in Kernels.Available)
        {
            float dot;
            fixed (float* px = x)
            fixed (byte* pq = quantized, pr = row)
            {
                Kernels.Choose(name).QuantizeRow(px, 32, pq);
                byte* r = pr, q = pq;
                Kernels.Choose(name).Dots(WeightFormat.Q8, &r, &q, 1, 32, &dot);
            }
            Assert.Equal(128f * 127 * 32, dot);
        }
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void A_scale_that_is_not_finite_and_a_wrong_length_are_refused(string type, WeightFormat format)
    {
        (byte[] blocks, float[] expected) = Golden(type);
        int cols = expected.Length, size = blocks.Length / (cols / Math.Max(32, WeightLayout.Multiple(format)));
        byte[] row = new byte[WeightLayout.RowBytes(format, cols)];
        Assert.Contains($"blocks of {size} bytes", Assert.Throws<ArgumentException>(() => Convert(format, blocks[1..], cols, row)).Message, StringComparison.Ordinal);
        foreach (int half in WeightLayout.HasMinimum(format) ? new[] { 0, 2 } : [0])
            foreach (byte high in new byte[] { 0x7C, 0xFC, 0x7E })
            {
                byte[] bad = [.. blocks];
                (bad[2 * size + half], bad[2 * size + half + 1]) = (0, high);
                Assert.Contains("block 2: the " + (half == 0 ? "scale" : "minimum"), Assert.Throws<ArgumentException>(() => Convert(format, bad, cols, row)).Message, StringComparison.Ordinal);
            }
    }
}
