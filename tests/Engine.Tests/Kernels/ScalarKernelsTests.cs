using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>The scalar kernels against plain double arithmetic: what they compute, not only that all variants agree.</summary>
public sealed unsafe class ScalarKernelsTests
{
    private static readonly Kernels s_scalar = Kernels.Choose("scalar");

    public static TheoryData<WeightFormat> Formats => [.. Enum.GetValues<WeightFormat>()];

    /// <summary>The numbers an activation row stands for.</summary>
    private static double[] Meaning(WeightFormat format, byte* x, int cols) =>
        [.. Enumerable.Range(0, cols).Select(k => WeightLayout.IsQuantized(format) ? ((sbyte*)x)[k] * (double)((float*)(x + cols))[k / 32] : ((float*)x)[k])];

    private static void AssertProduct(float[] w, double[] x, float actual, string where)
    {
        double exact = 0, size = 0;
        for (int k = 0; k < w.Length; k++) (exact, size) = (exact + w[k] * x[k], size + Math.Abs(w[k] * x[k]));
        Assert.True(Math.Abs(exact - actual) <= size * 2e-6 + 1e-30, $"{where}: {actual} instead of {exact}");
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Panels_and_dots_multiply_rows_by_activations(WeightFormat format)
    {
        const int rows = 21, tokens = 3;
        int cols = format == WeightFormat.Q4K ? 512 : 352;
        using Native panels = Native.Of<byte>(Made.Panels(format, rows, cols, Kind.Ordinary, 1), 0);
        using Native y = new(rows * tokens * 4, 0);
        byte[][] activations = [.. Enumerable.Range(0, tokens).Select(t => Made.Activation(format, cols, Kind.Ordinary, 50 + t))];
        using Native x = Native.Of<byte>(activations.SelectMany(static a => a).ToArray(), 0);
        nint stride = activations[0].Length;
        s_scalar.Panels(format, panels.Pointer, 0, 2, rows, cols, x.Pointer, stride, tokens, y.Floats, rows);
        for (int r = 0; r < rows; r++)
        {
            byte[] stored = Made.Row(format, cols, Kind.Ordinary, 1 + r * 7);
            float[] w = Numbers.Restore(format, stored, cols);
            for (int t = 0; t < tokens; t++)
            {
                byte* xt = x.Pointer + t * stride;
                AssertProduct(w, Meaning(format, xt, cols), y.Floats[t * rows + r], $"row {r} token {t}");
                fixed (byte* row = stored)
                {
                    byte* one = row;
                    float dot;
                    s_scalar.Dots(format, &one, &xt, 1, cols, &dot);
                    Assert.Equal(BitConverter.SingleToInt32Bits(y.Floats[t * rows + r]), BitConverter.SingleToInt32Bits(dot));
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Axpys_add_scaled_rows(WeightFormat format)
    {
        const int n = 5;
        int cols = format == WeightFormat.Q4K ? 256 : 96;
        float[] a = Made.Floats(n, Kind.Ordinary, 2), start = Made.Floats(cols, Kind.Ordinary, 3);
        Native[] rows = [.. Enumerable.Range(0, n).Select(i => Native.Of<byte>(Made.Row(format, cols, Kind.Ordinary, 20 + i), 0))];
        byte** r = stackalloc byte*[n];
        for (int i = 0; i < n; i++) r[i] = rows[i].Pointer;
        using Native acc = Native.Of<float>(start, 0);
        fixed (float* pa = a) s_scalar.Axpys(format, pa, r, n, cols, acc.Floats);
        for (int k = 0; k < cols; k++)
        {
            double exact = start[k] + Enumerable.Range(0, n).Sum(i => a[i] * (double)Numbers.Restore(format, Made.Row(format, cols, Kind.Ordinary, 20 + i), cols)[k]);
            Assert.Equal(exact, acc.Floats[k], 1e-4);
        }
        foreach (Native native in rows) native.Dispose();
    }

    [Fact]
    public void Quantised_activations_are_half_a_step_away_and_carry_their_sums()
    {
        const int cols = 640;
        float[] x = Made.Floats(cols, Kind.Ordinary, 4);
        x.AsSpan(64, 32).Clear();
        byte[] q = new byte[Kernels.QuantizedBytes(cols)];
        fixed (float* px = x)
        fixed (byte* pq = q)
        {
            s_scalar.QuantizeRow(px, cols, pq);
            for (int block = 0; block < cols / 32; block++)
            {
                float scale = ((float*)(pq + cols))[block];
                int sum = 0;
                for (int k = block * 32; k < block * 32 + 32; k++)
                {
                    Assert.InRange(Math.Abs(x[k] - ((sbyte*)pq)[k] * (double)scale), 0, scale * 0.50001);
                    sum += ((sbyte*)pq)[k];
                }
                Assert.Equal(sum, ((int*)(pq + cols))[cols / 32 + block]);
                Assert.Equal(x.AsSpan(block * 32, 32).ToArray().Max(MathF.Abs) / 127f, scale);
            }
        }
    }

    [Fact]
    public void Activations_that_are_not_numbers_are_not_hidden()
    {
        foreach (float bad in new[] { float.NaN, float.PositiveInfinity, float.NegativeInfinity })
        {
            float[] x = new float[64];
            (x[3], x[40]) = (1, bad);
            byte[] q = new byte[Kernels.QuantizedBytes(64)], row = Made.Row(WeightFormat.Q8, 64, Kind.Ordinary, 1);
            fixed (float* px = x)
            fixed (byte* pq = q, pr = row)
            {
                s_scalar.QuantizeRow(px, 64, pq);
                byte* one = pr, activation = pq;
                float dot;
                s_scalar.Dots(WeightFormat.Q8, &one, &activation, 1, 64, &dot);
                Assert.True(float.IsNaN(dot));
            }
        }
    }

    [Fact]
    public void Norms_normalise()
    {
        const int cols = 77;
        float[] x = Made.Floats(cols, Kind.Ordinary, 5), w = Made.Floats(cols, Kind.Ordinary, 6), b = Made.Floats(cols, Kind.Ordinary, 7), y = new float[cols], z = new float[cols];
        fixed (float* px = x, pw = w, pb = b, py = y, pz = z)
        {
            s_scalar.RmsNorm(px, pw, cols, 1e-5f, py);
            s_scalar.LayerNorm(px, pw, pb, cols, 1e-5f, pz);
        }
        double mean = x.Average(static v => (double)v), rms = Math.Sqrt(x.Average(static v => (double)v * v) + 1e-5);
        double deviation = Math.Sqrt(x.Average(v => (v - mean) * (v - mean)) + 1e-5);
        for (int k = 0; k < cols; k++)
        {
            Assert.Equal(x[k] / rms * w[k], y[k], 1e-5);
            Assert.Equal((x[k] - mean) / deviation * w[k] + b[k], z[k], 1e-5);
        }
    }

    [Fact]
    public void Attention_scores_softmax_and_weighs()
    {
        const int headDim = 20, count = 9;
        float[] q = Made.Floats(headDim, Kind.Ordinary, 8), cache = Made.Floats(headDim * count, Kind.Ordinary, 9), scores = new float[count], acc = new float[headDim];
        float sum;
        fixed (float* pq = q, pc = cache, ps = scores, pa = acc)
        {
            s_scalar.Scores(pq, (byte*)pc, headDim * 4, false, count, headDim, 0.3f, ps);
            for (int i = 0; i < count; i++) Assert.Equal(Enumerable.Range(0, headDim).Sum(k => (double)q[k] * cache[i * headDim + k]) * 0.3, scores[i], 1e-5);
            double[] before = [.. scores.Select(static s => (double)s)];
            sum = s_scalar.ExpSum(ps, count, out _);
            Assert.Equal(before.Sum(s => Math.Exp(s - before.Max())), sum, 1e-5);
            for (int i = 0; i < count; i++) Assert.Equal(Math.Exp(before[i] - before.Max()), scores[i], 1e-6);
            s_scalar.WeightedSum(ps, (byte*)pc, headDim * 4, false, count, headDim, pa);
        }
        for (int k = 0; k < headDim; k++) Assert.Equal(Enumerable.Range(0, count).Sum(i => (double)scores[i] * cache[i * headDim + k]), acc[k], 1e-5);
    }

    [Fact]
    public void Rope_turns_halves_and_silu_gates()
    {
        float[] x = [1, 2, 3, 4], cos = [0.5f, -1], sin = [2, 0.25f], gate = [-20, -1, 0, 3];
        fixed (float* px = x, pc = cos, ps = sin, pg = gate)
        {
            s_scalar.Rope(px, 1, 4, pc, ps);
            s_scalar.Silu(pg, 4);
        }
        // (1, 3) by (0.5, 2): 0.5 - 6, 1.5 + 2; (2, 4) by (-1, 0.25): -2 - 1, -4 + 0.5.
        Assert.Equal([-5.5f, -3f, 3.5f, -3.5f], x);
        Assert.Equal(-20 / (1 + Math.Exp(20)), gate[0], 1e-12);
        Assert.Equal(-1 / (1 + Math.E), gate[1], 1e-7);
        Assert.Equal(0f, gate[2]);
        Assert.Equal(3 / (1 + Math.Exp(-3)), gate[3], 1e-6);
    }

    [Fact]
    public void The_order_of_a_float_sum_is_the_documented_tree()
    {
        // Lane 0 holds 2^24, lanes 1, 8 and 9 one each: l+8 first gives 2^24 + 1 = 2^24 and 2; a left-to-right sum would lose every one of them.
        float[] w = new float[16], x = new float[16];
        x.AsSpan().Fill(1);
        (w[0], w[1], w[8], w[9]) = (16777216f, 1, 1, 1);
        fixed (float* pw = w, px = x)
        {
            byte* row = (byte*)pw, activation = (byte*)px;
            float dot;
            s_scalar.Dots(WeightFormat.F32, &row, &activation, 1, 16, &dot);
            Assert.Equal(16777218f, dot);
        }
    }
}
