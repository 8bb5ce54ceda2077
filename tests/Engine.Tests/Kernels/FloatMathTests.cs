using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashOrleans.Engine.Tests;

public sealed class FloatMathTests
{
    /// <summary>Floats of every exponent and both signs, a few million bits apart, with the special ones.</summary>
    private static IEnumerable<float> Everywhere(int stride)
    {
        for (long bits = 0; bits <= uint.MaxValue; bits += stride) yield return BitConverter.UInt32BitsToSingle((uint)bits);
        foreach (float special in new[] { 0f, -0f, float.Epsilon, -float.Epsilon, float.MaxValue, float.MinValue, float.PositiveInfinity, float.NegativeInfinity, float.NaN, 1f, -1f }) yield return special;
    }

    /// <summary>The arguments where exp is neither 0 nor infinite, densely.</summary>
    private static IEnumerable<float> ExpArguments()
    {
        for (int i = 0; i <= 1_500_000; i++) yield return -105f + 195f * i / 1_500_000;
        for (float near = 88.7f; near < 88.9f; near = MathF.BitIncrement(near)) yield return near;
        for (float near = -103.9f; near > -104.1f; near = MathF.BitDecrement(near)) yield return near;
    }

    [Fact]
    public void Exp_is_within_two_ulp_everywhere()
    {
        double worst = 0;
        foreach (float x in ExpArguments().Concat(Everywhere(10_007)))
        {
            float actual = FloatMath.Exp(x);
            double exact = Math.Exp(x);
            if (float.IsNaN(x))
            {
                Assert.True(float.IsNaN(actual));
                continue;
            }
            if (exact > float.MaxValue)
            {
                // At the rounding boundary the largest finite number is as good as infinity.
                Assert.True(actual >= MathF.BitDecrement(float.MaxValue), $"exp({x}) = {actual}");
                continue;
            }
            double spacing = Math.Max(Math.ScaleB(1, Math.ILogB(Math.Max(exact, double.Epsilon)) - 23), float.Epsilon);
            double error = Math.Abs(actual - exact) / spacing;
            Assert.True(error < 2, $"exp({x:R}) = {actual:R}, {error} ulp from {exact:R}");
            worst = Math.Max(worst, error);
        }
        Assert.InRange(worst, 0.4, 1.2);
    }

    [Fact]
    public void Exp_of_minus_infinity_and_of_very_negative_numbers_is_plus_zero()
    {
        foreach (float x in new[] { float.NegativeInfinity, float.MinValue, -1e30f, -1000f, -104.5f })
            Assert.Equal(0, BitConverter.SingleToInt32Bits(FloatMath.Exp(x)));
        Assert.Equal(1f, FloatMath.Exp(0f));
        Assert.Equal(1f, FloatMath.Exp(-0f));
        Assert.Equal(float.PositiveInfinity, FloatMath.Exp(float.PositiveInfinity));
    }

    [Fact]
    public void Vectors_of_exp_are_the_bits_of_the_scalar()
    {
        Assert.SkipUnless(Avx2.IsSupported && Fma.IsSupported, "no AVX2 here");
        foreach (float[] x in ExpArguments().Concat(Everywhere(10_007)).Chunk(16))
        {
            float[] padded = [.. x, .. new float[16 - x.Length]], expected = [.. padded.Select(FloatMath.Exp)];
            float[] narrow = new float[16];
            FloatMath.Exp(Vector256.Create(padded, 0)).CopyTo(narrow, 0);
            FloatMath.Exp(Vector256.Create(padded, 8)).CopyTo(narrow, 8);
            AssertSame(expected, narrow, padded);
            if (!Avx512F.IsSupported) continue;
            FloatMath.Exp(Vector512.Create(padded)).CopyTo(narrow);
            AssertSame(expected, narrow, padded);
        }
    }

    [Fact]
    public void All_f16_values_widen_exactly_in_every_width()
    {
        for (int first = 0; first < 65536; first += 16)
        {
            int[] bits = [.. Enumerable.Range(first, 16)];
            float[] expected = [.. bits.Select(static b => (float)BitConverter.UInt16BitsToHalf((ushort)b))];
            float[] actual = [.. bits.Select(static b => FloatMath.FromHalf((ushort)b))];
            AssertSame(expected, actual, expected);
            FloatMath.FromHalf(Vector256.Create(bits, 0)).CopyTo(actual, 0);
            FloatMath.FromHalf(Vector256.Create(bits, 8)).CopyTo(actual, 8);
            AssertSame(expected, actual, expected);
            FloatMath.FromHalf(Vector512.Create(bits)).CopyTo(actual);
            AssertSame(expected, actual, expected);
        }
    }

    [Fact]
    public void Rounding_to_f16_is_nearest_even_for_every_tie_and_its_neighbours_in_every_width()
    {
        List<float> values = [.. Everywhere(65_537)];
        for (int h = 0; h < 0x7C00; h++)
        {
            float low = (float)BitConverter.UInt16BitsToHalf((ushort)h), high = h == 0x7BFF ? 65536f : (float)BitConverter.UInt16BitsToHalf((ushort)(h + 1));
            float tie = (float)(((double)low + high) / 2);
            values.AddRange([low, tie, MathF.BitIncrement(tie), MathF.BitDecrement(tie), -tie]);
        }
        int[] actual = new int[16];
        foreach (float[] chunk in values.Chunk(16))
        {
            float[] x = [.. chunk, .. new float[16 - chunk.Length]];
            int[] expected = [.. x.Select(static v => float.IsNaN(v) ? (BitConverter.SingleToInt32Bits(v) >> 16 & 0x8000) | 0x7E00 : BitConverter.HalfToUInt16Bits((Half)v))];
            Assert.Equal(expected, x.Select(static v => (int)FloatMath.ToHalf(v)));
            FloatMath.ToHalf(Vector256.Create(x, 0)).CopyTo(actual, 0);
            FloatMath.ToHalf(Vector256.Create(x, 8)).CopyTo(actual, 8);
            Assert.True(expected.AsSpan().SequenceEqual(actual), $"near {x[0]:R}");
            FloatMath.ToHalf(Vector512.Create(x)).CopyTo(actual);
            Assert.True(expected.AsSpan().SequenceEqual(actual), $"near {x[0]:R}");
        }
    }

    private static void AssertSame(float[] expected, float[] actual, float[] x)
    {
        for (int i = 0; i < expected.Length; i++)
            if (BitConverter.SingleToInt32Bits(expected[i]) != BitConverter.SingleToInt32Bits(actual[i]) && !(float.IsNaN(expected[i]) && float.IsNaN(actual[i])))
                Assert.Fail($"{x[i]:R}: {actual[i]:R} instead of {expected[i]:R}");
    }
}
