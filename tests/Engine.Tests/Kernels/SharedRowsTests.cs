using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Kernels that take stored rows once for several tokens give the bits of those that take them token by token, in every variant, and write nothing else.</summary>
public sealed unsafe class SharedRowsTests
{
    public static TheoryData<string, WeightFormat> Cases() => KernelBitsTests.Cases();

    private static readonly int[] s_tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 64];

    private static IEnumerable<int> Lengths(WeightFormat format) => WeightLayout.Multiple(format) switch
    {
        1 => [1, 15, 16, 17, 31, 32, 33, 100, 257, 320],
        WeightLayout.Block => [32, 64, 96, 160, 256, 288, 512, 544, 1056],
        int multiple => [multiple, 2 * multiple, 5 * multiple],
    };

    private static Native[] Rows(WeightFormat format, int n, int cols, Kind kind, int seed, byte** pointers)
    {
        Native[] rows = [.. Enumerable.Range(0, n).Select(i => Native.Of<byte>(Made.Row(format, cols, kind, seed + i), (seed + 16 * i) % 64))];
        for (int i = 0; i < n; i++) pointers[i] = rows[i].Pointer;
        return rows;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Woven_rows_are_the_panel_that_an_import_writes(string name, WeightFormat format)
    {
        byte** pointers = stackalloc byte*[16];
        foreach (int cols in Lengths(format))
            foreach (int n in new[] { 1, 5, 16 })
            {
                Native[] rows = Rows(format, n, cols, Kind.Ordinary, cols, pointers);
                byte[] all = [.. Enumerable.Range(0, 16).SelectMany(r => new ReadOnlySpan<byte>(pointers[Math.Min(r, n - 1)], WeightLayout.RowBytes(format, cols)).ToArray())];
                using Native expected = new(WeightLayout.PanelBytes(format, cols), 0), actual = new(WeightLayout.PanelBytes(format, cols), 0);
                Panel.Pack(format, all, 16, cols, new Span<byte>(expected.Pointer, expected.Bytes));
                Kernels.Choose(name).Weave(format, pointers, n, cols, actual.Pointer);
                // Rows of floats that are missing are not filled in: nobody reads them.
                if (!WeightLayout.IsQuantized(format) && n < 16) new Span<byte>(expected.Pointer, expected.Bytes)[(n * WeightLayout.RowBytes(format, cols))..].CopyTo(new Span<byte>(actual.Pointer, actual.Bytes)[(n * WeightLayout.RowBytes(format, cols))..]);
                foreach (Native row in rows) row.Dispose();
                Assert.True(expected.Same(actual), $"{name} {format} rows {n} cols {cols}");
            }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Products_of_rows_are_the_bits_of_scalar_dots(string name, WeightFormat format)
    {
        int turn = 0;
        foreach (int cols in Lengths(format))
            foreach (int n in new[] { 1, 16, 37 }) CompareProducts(name, format, n, cols, s_tokens[turn % s_tokens.Length], Made.Kinds[turn++ % Made.Kinds.Length]);
    }

    private static void CompareProducts(string name, WeightFormat format, int n, int cols, int tokens, Kind kind)
    {
        byte** pointers = stackalloc byte*[n], xs = stackalloc byte*[n];
        Native[] rows = Rows(format, n, cols, kind, cols + n, pointers);
        byte[][] activations = [.. Enumerable.Range(0, tokens).Select(t => Made.Activation(format, cols, kind, 1000 + t))];
        int stride = activations[0].Length;
        using Native x = Native.Of<byte>(activations.SelectMany(static a => a).ToArray(), 0), panel = new(WeightLayout.PanelBytes(format, cols), 0);
        using Native expected = new(tokens * (n + 3) * 4, 4), actual = new(tokens * (n + 3) * 4, 4);
        for (int t = 0; t < tokens; t++)
        {
            for (int i = 0; i < n; i++) xs[i] = x.Pointer + t * stride;
            Kernels.Choose("scalar").Dots(format, pointers, xs, n, cols, expected.Floats + t * (n + 3));
        }
        Kernels.Choose(name).Products(format, pointers, n, cols, x.Pointer, stride, tokens, actual.Floats, n + 3, panel.Pointer);
        foreach (Native row in rows) row.Dispose();
        Assert.True(expected.Same(actual), $"{name} {format} rows {n} cols {cols} tokens {tokens} {kind}");
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Columns_are_the_bits_of_scalar_axpys_token_by_token(string name, WeightFormat format)
    {
        foreach (int tokens in s_tokens)
            foreach (int n in new[] { 1, 7, Kernels.ColumnRows })
            {
                int cols = Lengths(format).ElementAt((tokens + n) % Lengths(format).Count());
                CompareColumns(name, format, n, cols, 0, cols, tokens, false, Made.Kinds[tokens % Made.Kinds.Length]);
                CompareColumns(name, format, n, cols, 0, cols, tokens, true, Made.Kinds[(tokens + n) % Made.Kinds.Length]);
            }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_range_of_columns_writes_its_columns_only(string name, WeightFormat format)
    {
        int cols = Lengths(format).Last();
        CompareColumns(name, format, 19, cols, 32, 96, 9, true, Kind.Ordinary);
        CompareColumns(name, format, 19, cols, 192, cols, 9, true, Kind.Ordinary);
        CompareColumns(name, format, 19, cols, 192, cols, 12, false, Kind.Ordinary);
    }

    private static void CompareColumns(string name, WeightFormat format, int n, int cols, int from, int to, int tokens, bool whole, Kind kind)
    {
        byte** pointers = stackalloc byte*[n];
        Native[] rows = Rows(format, n, cols, kind, cols + n, pointers);
        int groups = (tokens + 7) / 8, aStride = 8 * n + 8, yStride = cols + 5;
        float[] coefficients = Made.Floats(n * tokens, kind, 77), a = new float[groups * aStride], start = Made.Floats(tokens * yStride, kind, 78), sum = new float[cols];
        for (int t = 0; t < tokens; t++)
            for (int i = 0; i < n; i++) a[t / 8 * aStride + 8 * i + t % 8] = coefficients[t * n + i];
        using Native packed = Native.Of<float>(a, 4), expected = Native.Of<float>(start, 8), actual = Native.Of<float>(start, 8);
        fixed (float* c = coefficients, s = sum)
            for (int t = 0; t < tokens; t++)
            {
                float* y = expected.Floats + t * yStride;
                for (int k = 0; k < cols; k++) sum[k] = whole ? 0f : y[k];
                Kernels.Choose("scalar").Axpys(format, c + t * n, pointers, n, cols, s);
                for (int k = from; k < to; k++) y[k] = whole ? y[k] + sum[k] : sum[k];
            }
        Kernels.Choose(name).Columns(format, pointers, n, cols, from, to, packed.Floats, aStride, tokens, actual.Floats, yStride, whole);
        foreach (Native row in rows) row.Dispose();
        Assert.True(expected.Same(actual), $"{name} {format} rows {n} cols {cols} [{from}, {to}) tokens {tokens} whole {whole} {kind}");
    }
}
