using System.IO.Hashing;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>The forms of q4 with a minimum: what their search gains, and what it must never lose.</summary>
public sealed class MinimumQuantizerTests
{
    private static double Error(float[] row, float[] back) => row.Zip(back, static (a, b) => Math.Pow((double)a - b, 2)).Sum();

    private static double StoredError(WeightFormat format, float[] row) => Error(row, Numbers.Restore(format, Numbers.Store(format, row), row.Length));

    /// <summary>Rows of 256 that differ in kind: normal, skewed, one-sided, blocks of unlike size, few values, outliers.</summary>
    private static float[] Row(int seed)
    {
        float[] row = Numbers.Normal(256, seed, 0.02f);
        for (int k = 0; k < 256; k++)
            row[k] = (seed % 6) switch
            {
                1 => row[k] * row[k] * 20 - 0.005f,
                2 => MathF.Abs(row[k]) + 0.01f,
                3 => row[k] * MathF.Pow(2, k / 32 - 4),
                4 => MathF.Round(row[k] * 100) / 100,
                5 => k % 37 == 0 ? row[k] * 10 : row[k],
                _ => row[k],
            };
        return row;
    }

    [Fact]
    public void A_searched_q4b_block_never_loses_to_rounding_between_its_least_and_largest_weight()
    {
        double searched = 0, plain = 0;
        for (int seed = 0; seed < 120; seed++)
        {
            float[] row = Row(seed);
            for (int b = 0; b < 8; b++)
            {
                float[] w = row[(b * 32)..(b * 32 + 32)];
                float low = (float)(Half)w.Min(), scale = (float)(Half)((w.Max() - w.Min()) / 15);
                double one = StoredError(WeightFormat.Q4B, w), other = Error(w, [.. w.Select(v => scale * Math.Clamp(MathF.Round((v - low) / scale), 0, 15) + low)]);
                Assert.True(one <= other * 1.0001 + 1e-12, $"row {seed} block {b}: {one} > {other}");
                (searched, plain) = (searched + one, plain + other);
            }
        }
        Assert.True(searched < 0.85 * plain, $"searched {searched}, plain {plain}");
    }

    [Fact]
    public void A_searched_q4k_super_block_never_loses_to_rounding_every_number_to_the_nearest()
    {
        double searched = 0, plain = 0;
        for (int seed = 0; seed < 240; seed++)
        {
            float[] row = Row(seed);
            double one = StoredError(WeightFormat.Q4K, row), other = Error(row, NearestK(row));
            Assert.True(one <= other * 1.0001 + 1e-12, $"row {seed}: {one} > {other}");
            (searched, plain) = (searched + one, plain + other);
        }
        Assert.True(searched < 0.85 * plain, $"searched {searched}, plain {plain}");
    }

    private static float[] NearestK(float[] row)
    {
        float[] scales = new float[8], depths = new float[8];
        for (int b = 0; b < 8; b++)
        {
            float[] w = row[(b * 32)..(b * 32 + 32)];
            depths[b] = -MathF.Min(0, w.Min());
            scales[b] = (w.Max() + depths[b]) / 15;
        }
        float d = (float)(Half)(scales.Max() / 63), least = (float)(Half)(depths.Max() / 63);
        return [.. row.Select((v, k) =>
        {
            float scale = d * MathF.Round(scales[k / 32] / d), depth = least == 0 ? 0 : least * MathF.Round(depths[k / 32] / least);
            return (scale == 0 ? 0 : scale * Math.Clamp(MathF.Round((v + depth) / scale), 0, 15)) - depth;
        })];
    }

    [Fact]
    public void On_normal_weights_form_B_is_best_form_K_within_a_hundredth_of_it_and_both_beat_form_A()
    {
        float[] row = Numbers.Normal(64 * 256, 5, 0.02f);
        double energy = row.Sum(static v => (double)v * v);
        double a = Math.Sqrt(StoredError(WeightFormat.Q4, row) / energy), b = Math.Sqrt(StoredError(WeightFormat.Q4B, row) / energy), k = Math.Sqrt(StoredError(WeightFormat.Q4K, row) / energy);
        Assert.InRange(b, 0.060, 0.070);
        Assert.InRange(k, b, b * 1.01);
        Assert.InRange(a, 1.15 * b, 0.085);
    }

    [Theory]
    [InlineData(WeightFormat.Q4B)]
    [InlineData(WeightFormat.Q4K)]
    public void Weights_of_one_sign_or_one_value_are_kept(WeightFormat format)
    {
        foreach (float value in new[] { 0f, 0.5f, -0.5f, 3f, -3f })
        {
            float[] row = new float[256];
            row.AsSpan().Fill(value);
            Assert.All(Numbers.Restore(format, Numbers.Store(format, row), 256), v => Assert.InRange(v, value - MathF.Abs(value) / 1000, value + MathF.Abs(value) / 1000));
            for (int k = 0; k < 256; k++) row[k] = value + k % 16 / 16f * MathF.Sign(value);
            float[] back = Numbers.Restore(format, Numbers.Store(format, row), 256);
            for (int k = 0; k < 256; k++) Assert.InRange(Math.Abs(row[k] - back[k]), 0, format == WeightFormat.Q4B ? 0.004 : MathF.Abs(value) < 1 ? 0.06 : 0.14);
        }
    }

    [Theory]
    [InlineData(WeightFormat.Q4B, "59c9bd0310e74eb1561bc01628f3ccb1")]
    [InlineData(WeightFormat.Q4K, "951f93d4ca120f7ea0da13ecc07028d7")]
    public void The_same_weights_give_the_same_bytes_on_every_machine(WeightFormat format, string hash)
    {
        // Sums of integers: no function of the platform's library takes part.
        Random random = new(11);
        byte[] stored = [.. Enumerable.Range(0, 60).SelectMany(r => Numbers.Store(format, [.. Enumerable.Range(0, 256).Select(_ =>
            (random.Next(-900, 1000) + random.Next(-900, 1000) + random.Next(-900, 1000)) / 8192f / (1 + r % 5))]))];
        Assert.Equal(hash, Convert.ToHexStringLower(XxHash128.Hash(stored)));
    }

    [Fact]
    public void Rows_that_are_no_whole_super_blocks_are_refused()
    {
        Assert.Contains("blocks of 256; 288 columns do not divide", Assert.Throws<ArgumentException>(() => Numbers.Store(WeightFormat.Q4K, new float[288])).Message, StringComparison.Ordinal);
        Assert.Contains("blocks of 32; 48 columns do not divide", Assert.Throws<ArgumentException>(() => Numbers.Store(WeightFormat.Q4B, new float[48])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Six_bit_numbers_come_back_from_every_place()
    {
        Random random = new(1);
        for (int round = 0; round < 500; round++)
        {
            ulong scales = 0, minima = 0;
            for (int b = 0; b < 8; b++) (scales, minima) = (scales | (ulong)random.Next(64) << 8 * b, minima | (ulong)random.Next(64) << 8 * b);
            (uint s, uint m, uint l) = SixBits.Pack(scales, minima);
            Assert.Equal((scales, minima), (SixBits.Scales(s, l), SixBits.Minima(m, l)));
            for (int b = 0; b < 8; b++)
            {
                Assert.Equal((int)(byte)(scales >> 8 * b), SixBits.Scale(s, l, b));
                Assert.Equal((int)(byte)(minima >> 8 * b), SixBits.Minimum(m, l, b));
            }
        }
    }
}
