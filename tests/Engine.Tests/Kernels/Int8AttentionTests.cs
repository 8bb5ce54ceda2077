using CsCheck;

namespace FlashOrleans.Engine.Tests;

/// <summary>Keys and values of 8 bits: rounded once, and the bits of scalar in every variant.</summary>
public sealed unsafe class Int8AttentionTests
{
    public static TheoryData<string> Names() => [.. Kernels.Available];

    [Theory, MemberData(nameof(Names))]
    public void Attention_over_int8_is_the_bits_of_scalar(string name) =>
        Gen.Select(Gen.Int[1, 20].Select(static n => n * 4), Gen.Int[0, 64], Gen.Int[0, 1 << 20]).Sample((headDim, count, seed) =>
        {
            var random = new Random(seed);
            nint stride = headDim;
            sbyte[] cache = new sbyte[Math.Max(1, count) * headDim];
            for (int i = 0; i < cache.Length; i++) cache[i] = (sbyte)random.Next(-127, 128);
            float[] q = Floats(random, headDim), p = Floats(random, Math.Max(1, count)), scales = Floats(random, Math.Max(1, count)), start = Floats(random, headDim);
            float[][] scores = [new float[count + 1], new float[count + 1]], sums = [[.. start], [.. start]];
            for (int variant = 0; variant < 2; variant++)
            {
                var kernels = Kernels.Choose(variant == 0 ? "scalar" : name);
                fixed (sbyte* c = cache)
                fixed (float* pq = q, pp = p, ps = scales, to = scores[variant], acc = sums[variant])
                {
                    kernels.ScoresInt8(pq, (byte*)c, ps, stride, count, headDim, 0.125f, to, (byte*)c);
                    kernels.WeightedSumInt8(pp, (byte*)c, ps, stride, count, headDim, acc, (byte*)c);
                }
            }
            Assert.Equal(scores[0].Select(BitConverter.SingleToInt32Bits), scores[1].Select(BitConverter.SingleToInt32Bits));
            Assert.Equal(sums[0].Select(BitConverter.SingleToInt32Bits), sums[1].Select(BitConverter.SingleToInt32Bits));
        }, iter: 300);

    [Fact]
    public void Rounding_to_int8_is_within_half_a_step_of_the_largest_over_127() => Gen.Select(Gen.Int[1, 128], Gen.Int[0, 1 << 20]).Sample((n, seed) =>
    {
        float[] x = Floats(new Random(seed), n);
        sbyte[] y = new sbyte[n];
        float scale;
        fixed (float* px = x)
        fixed (sbyte* py = y) scale = Kernels.ToInt8(px, n, py);
        Assert.Equal(x.Max(MathF.Abs) / 127, scale);
        for (int i = 0; i < n; i++) Assert.InRange(Math.Abs((double)y[i] * scale - x[i]), 0, 0.5001 * scale);
    });

    [Fact]
    public void A_row_of_zeros_stays_zeros()
    {
        float* x = stackalloc float[4];
        sbyte* y = stackalloc sbyte[4] { 1, 2, 3, 4 };
        for (int i = 0; i < 4; i++) x[i] = 0;
        Assert.Equal(0, Kernels.ToInt8(x, 4, y));
        for (int i = 0; i < 4; i++) Assert.Equal(0, y[i]);
    }

    private static float[] Floats(Random random, int n) => [.. Enumerable.Range(0, n).Select(_ => (float)(random.NextDouble() * 4 - 2) + 0.001f)];
}
