using CsCheck;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

public sealed unsafe class QuantizerTests
{
    private static Gen<float[]> Rows(WeightFormat format) => Gen.Select(Gen.Int[1, 12], Gen.Float[-3, 3], Gen.Int)
        .Select((blocks, magnitude, seed) => Numbers.Normal(blocks * Math.Max(32, WeightLayout.Multiple(format)), seed, MathF.Pow(10, magnitude)));

    [Theory]
    [InlineData(WeightFormat.F32, 0.0)]
    [InlineData(WeightFormat.BF16, 0.004)]
    [InlineData(WeightFormat.Q8, 0.0045)]
    [InlineData(WeightFormat.Q4, 0.3)]
    [InlineData(WeightFormat.Q4B, 0.25)]
    [InlineData(WeightFormat.Q4K, 0.25)]
    public void A_row_comes_back_within_the_steps_of_its_format(WeightFormat format, double tolerance) => Rows(format).Sample(row =>
    {
        float[] back = Numbers.Restore(format, Numbers.Store(format, row), row.Length);
        for (int block = 0; block < row.Length; block += 32)
        {
            double largest = row.Skip(block).Take(32).Max(MathF.Abs);
            for (int k = block; k < block + 32; k++) Assert.InRange(Math.Abs(row[k] - back[k]), 0, largest * tolerance);
        }
    }, iter: 200);

    [Theory]
    [InlineData(WeightFormat.F32, 24)]
    [InlineData(WeightFormat.BF16, 24)]
    [InlineData(WeightFormat.Q8, 96)]
    [InlineData(WeightFormat.Q4, 96)]
    [InlineData(WeightFormat.Q4B, 96)]
    [InlineData(WeightFormat.Q4K, 512)]
    public void A_panel_holds_the_numbers_of_its_rows(WeightFormat format, int cols)
    {
        for (int rows = 1; rows <= 16; rows++)
        {
            byte[] stored = [.. Enumerable.Range(0, rows).SelectMany(r => Numbers.Store(format, Numbers.Normal(cols, r, 1)))];
            byte[] panel = new byte[WeightLayout.PanelBytes(format, cols)];
            Panel.Pack(format, stored, rows, cols, panel);
            float[] unpacked = new float[cols];
            for (int r = 0; r < 16; r++)
            {
                fixed (byte* p = panel)
                fixed (float* y = unpacked)
                    Kernels.Choose("scalar").PanelRow(format, p, r, cols, y);
                int bytes = WeightLayout.RowBytes(format, cols);
                float[] expected = r < rows ? Numbers.Restore(format, stored[(r * bytes)..((r + 1) * bytes)], cols) : new float[cols];
                Assert.True(expected.AsSpan().SequenceEqual(unpacked), $"row {r} of {rows}");
            }
        }
    }

    [Fact]
    public void The_searched_q4_scale_beats_rounding_to_the_signed_maximum()
    {
        double searched = 0, plain = 0;
        for (int seed = 0; seed < 400; seed++)
        {
            float[] row = Numbers.Normal(32, seed, 0.02f);
            float[] back = Numbers.Restore(WeightFormat.Q4, Numbers.Store(WeightFormat.Q4, row), 32);
            float largest = row.MaxBy(MathF.Abs);
            float scale = (float)(Half)(largest / -8);
            double one = 0, other = 0;
            for (int k = 0; k < 32; k++)
            {
                one += Math.Pow(row[k] - back[k], 2);
                other += Math.Pow(row[k] - scale * Math.Clamp(MathF.Round(row[k] / scale), -8, 7), 2);
            }
            Assert.True(one <= other * 1.0001, $"block {seed}: {one} > {other}");
            (searched, plain) = (searched + one, plain + other);
        }
        Assert.True(searched < 0.9 * plain, $"searched {searched}, plain {plain}");
    }

    [Theory]
    [InlineData(WeightFormat.F32)]
    [InlineData(WeightFormat.BF16)]
    [InlineData(WeightFormat.Q8)]
    [InlineData(WeightFormat.Q4)]
    [InlineData(WeightFormat.Q4B)]
    [InlineData(WeightFormat.Q4K)]
    public void Weights_that_are_not_finite_are_refused_with_their_column(WeightFormat format)
    {
        foreach (float bad in new[] { float.NaN, float.PositiveInfinity, float.NegativeInfinity })
        {
            float[] row = new float[256];
            row[37] = bad;
            Assert.Contains("column 37", Assert.Throws<ArgumentException>(() => Numbers.Store(format, row)).Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(WeightFormat.Q8, 127, 0)]
    [InlineData(WeightFormat.Q4, 8, 0)]
    [InlineData(WeightFormat.Q4B, 1, 0.002)]
    [InlineData(WeightFormat.Q4K, 63, 0.002)]
    public void A_block_too_large_for_an_f16_scale_is_refused_and_the_largest_that_fits_is_kept(WeightFormat format, int steps, double tolerance)
    {
        float[] row = new float[256];
        row[40] = -65504f * steps;
        float[] back = Numbers.Restore(format, Numbers.Store(format, row), 256);
        Assert.InRange(Math.Abs(row[40] - back[40]), 0, tolerance * -row[40]);
        row[40] = -66000f * steps;
        Assert.Contains("column 40", Assert.Throws<ArgumentException>(() => Numbers.Store(format, row)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(WeightFormat.Q8)]
    [InlineData(WeightFormat.Q4)]
    [InlineData(WeightFormat.Q4B)]
    [InlineData(WeightFormat.Q4K)]
    public void A_block_too_small_for_an_f16_scale_becomes_zeros(WeightFormat format)
    {
        float[] row = new float[512];
        row.AsSpan(0, 256).Fill(1e-9f);
        row.AsSpan(256).Fill(-1f);
        float[] back = Numbers.Restore(format, Numbers.Store(format, row), 512);
        Assert.All(back[..256], v => Assert.Equal(0f, v));
        Assert.All(back[256..], v => Assert.InRange(v, -1.001f, -0.999f));
    }

    [Fact]
    public void Bf16_rounds_to_nearest_even()
    {
        float[] row = new float[32];
        for (int k = 0; k < 32; k++) row[k] = BitConverter.Int32BitsToSingle(0x3F800000 + k * 0x4000);
        float[] back = Numbers.Restore(WeightFormat.BF16, Numbers.Store(WeightFormat.BF16, row), 32);
        for (int k = 0; k < 32; k++)
        {
            // Steps of a quarter: .25 down, .5 to even, .75 up.
            int steps = k / 4 + (k % 4) switch { 0 or 1 => 0, 2 => k / 4 % 2, _ => 1 };
            Assert.Equal(BitConverter.Int32BitsToSingle(0x3F800000 + steps * 0x10000), back[k]);
        }
    }
}
