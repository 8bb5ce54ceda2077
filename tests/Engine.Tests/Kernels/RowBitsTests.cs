using CsCheck;

namespace FlashOrleans.Engine.Tests;

/// <summary>Every variant this machine has gives the bits of the scalar kernels and writes nothing else: float rows and attention.</summary>
public sealed unsafe class RowBitsTests
{
    public static TheoryData<string> Names => [.. Kernels.Available];

    private static readonly int[] s_headSizes = [16, 32, 64, 80, 96, 128, 20, 7];

    private delegate void Act(Kernels kernels, float* x, int n, int seed);

    /// <summary>In place on n floats, for every length to 200 and every kind of number, at every alignment by turns.</summary>
    private static void Compare(string name, Act act, int step = 1, int most = 200)
    {
        for (int n = 0; n <= most; n += step)
            foreach (Kind kind in Made.Kinds)
            {
                float[] values = Made.Floats(n, kind, n);
                using Native expected = Native.Of<float>(values, n * 7 % 64), actual = Native.Of<float>(values, n * 7 % 64);
                act(Kernels.Choose("scalar"), expected.Floats, n, n + 1);
                act(Kernels.Choose(name), actual.Floats, n, n + 1);
                Assert.True(expected.Same(actual), $"{name} length {n} {kind}");
            }
    }

    private static void With(int n, int seed, Action<Native> use)
    {
        using Native other = Native.Of<float>(Made.Floats(n, Kind.Ordinary, seed), seed % 64);
        use(other);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Add_is_the_bits_of_scalar(string name) => Compare(name, (k, x, n, seed) => With(n, seed, y => k.Add(x, y.Floats, n)));

    [Theory]
    [MemberData(nameof(Names))]
    public void Scale_is_the_bits_of_scalar(string name) => Compare(name, (k, x, n, seed) => k.Scale(x, 0.37f, n));

    [Theory]
    [MemberData(nameof(Names))]
    public void Silu_is_the_bits_of_scalar(string name) => Compare(name, (k, x, n, seed) => k.Silu(x, n));

    [Theory]
    [MemberData(nameof(Names))]
    public void RmsNorm_is_the_bits_of_scalar(string name) => Compare(name, (k, x, n, seed) => With(n, seed, w => k.RmsNorm(x, w.Floats, n, 1e-5f, x)));

    [Theory]
    [MemberData(nameof(Names))]
    public void LayerNorm_is_the_bits_of_scalar(string name) =>
        Compare(name, (k, x, n, seed) => With(n, seed, w => With(n, seed + 1, b => k.LayerNorm(x, w.Floats, b.Floats, n, 1e-5f, x))));

    [Theory]
    [MemberData(nameof(Names))]
    public void ExpSum_is_the_bits_of_scalar(string name) => Compare(name, (k, x, n, seed) =>
    {
        // The sum is put where the comparison sees it.
        float sum = k.ExpSum(x, n, out float max);
        if (n > 0) x[0] = sum;
        // Zero has two signs, and either is the largest: e^(x - max) is the same.
        if (n > 1) x[1] = max + 0f;
    });

    [Theory]
    [MemberData(nameof(Names))]
    public void Rope_is_the_bits_of_scalar(string name)
    {
        foreach (int headDim in new[] { 2, 6, 16, 32, 64, 80, 128 })
            Compare(name, (k, x, n, seed) => With(headDim / 2, seed, c => With(headDim / 2, seed + 1, s => k.Rope(x, n / headDim, headDim, c.Floats, s.Floats))), headDim, 5 * headDim);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void ToHalf_is_the_bits_of_scalar(string name) => Compare(name, (k, x, n, seed) =>
    {
        using Native half = new(n * 2, seed % 32 * 2);
        k.ToHalf(x, n, (ushort*)half.Pointer);
        new ReadOnlySpan<byte>(half.Pointer, half.Bytes).CopyTo(new Span<byte>(x, half.Bytes));
    });

    [Theory]
    [MemberData(nameof(Names))]
    public void Quantised_activations_are_the_bytes_of_scalar(string name)
    {
        foreach (int cols in Enumerable.Range(1, 18).Select(static b => b * 32).Append(4096))
            foreach (Kind kind in Made.Kinds)
            {
                float[] values = Made.Floats(cols, kind, cols);
                // Ties, clamps at subnormal scales, and numbers that are none, each in a block of its own.
                if (kind == Kind.Ordinary && cols >= 128)
                {
                    for (int i = 0; i < 32; i++) (values[i], values[32 + i]) = (i == 0 ? 127f : i - 15.5f, i == 0 ? 190e-45f : i * 3e-45f);
                    (values[40], values[64], values[96]) = (-190e-45f, float.NaN, float.NegativeInfinity);
                }
                using Native x = Native.Of<float>(values, cols / 32 % 64);
                using Native expected = new(Kernels.QuantizedBytes(cols), cols / 8 % 64), actual = new(Kernels.QuantizedBytes(cols), cols / 8 % 64);
                Kernels.Choose("scalar").QuantizeRow(x.Floats, cols, expected.Pointer);
                Kernels.Choose(name).QuantizeRow(x.Floats, cols, actual.Pointer);
                Assert.True(expected.Same(actual), $"{name} cols {cols} {kind}");
            }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Attention_is_the_bits_of_scalar(string name) =>
        Gen.Select(Gen.Int[0, 7].Select(static i => s_headSizes[i]), Gen.Int[0, 40], Gen.Bool, Gen.Int[0, 63], Made.AnyKind, Gen.Int[0, 1 << 20])
            .Sample((headDim, count, half, offset, kind, seed) =>
            {
                // As in a cache: several heads side by side, so the stride is longer than a head.
                int stride = headDim * 3 * (half ? 2 : 4);
                float[] cached = Made.Floats(count * headDim * 3, kind, seed);
                using Native cache = half ? Native.Of<ushort>([.. cached.Select(static v => FloatMath.ToHalf(Math.Clamp(v, -60000f, 60000f)))], offset) : Native.Of<float>(cached, offset);
                using Native q = Native.Of<float>(Made.Floats(headDim, Kind.Ordinary, seed + 1), 8), p = Native.Of<float>(Made.Floats(count, Kind.Ordinary, seed + 2), 4);
                float[] start = Made.Floats(headDim, Kind.Ordinary, seed + 3);
                using Native scores = new(count * 4, 12), sums = Native.Of<float>(start, offset), scores2 = new(count * 4, 12), sums2 = Native.Of<float>(start, offset);
                Kernels.Choose("scalar").Scores(q.Floats, cache.Pointer, stride, half, count, headDim, 0.125f, scores.Floats);
                Kernels.Choose("scalar").WeightedSum(p.Floats, cache.Pointer, stride, half, count, headDim, sums.Floats);
                Kernels.Choose(name).Scores(q.Floats, cache.Pointer, stride, half, count, headDim, 0.125f, scores2.Floats, cache.Pointer);
                Kernels.Choose(name).WeightedSum(p.Floats, cache.Pointer, stride, half, count, headDim, sums2.Floats, cache.Pointer);
                Assert.True(scores.Same(scores2), $"scores of {name} {headDim} {count} {half} {kind}");
                Assert.True(sums.Same(sums2), $"sums of {name} {headDim} {count} {half} {kind}");
            }, iter: 400);
}
