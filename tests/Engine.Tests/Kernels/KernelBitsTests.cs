using CsCheck;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Every variant this machine has gives the bits of the scalar kernels and writes nothing else: matrices and rows of stored weights.</summary>
public sealed unsafe class KernelBitsTests
{
    public static TheoryData<string, WeightFormat> Cases()
    {
        TheoryData<string, WeightFormat> cases = [];
        foreach (string name in Kernels.Available)
            foreach (WeightFormat format in Enum.GetValues<WeightFormat>()) cases.Add(name, format);
        return cases;
    }

    private static IEnumerable<int> Lengths(WeightFormat format) => WeightLayout.Multiple(format) switch
    {
        1 => [.. Enumerable.Range(1, 80), 127, 128, 129, 200, 4096],
        WeightLayout.Block => [.. Enumerable.Range(1, 18).Select(static b => b * 32), 1056, 1088, 4096],
        int multiple => [.. Enumerable.Range(1, 9).Select(b => b * multiple), 4096],
    };

    /// <summary>Columns that the format takes, from a number of blocks (f32, bf16: of <paramref name="odd"/> columns).</summary>
    private static int Columns(WeightFormat format, int blocks, int odd) =>
        WeightLayout.Multiple(format) switch { 1 => blocks * odd, WeightLayout.Block => blocks * 32, int multiple => (blocks + 3) / 4 * multiple };

    private static readonly Gen<(Kind Kind, int Offset, int Seed)> s_variety = Gen.Select(Made.AnyKind, Gen.Int[0, 63], Gen.Int[0, 1 << 20]);

    [Theory]
    [MemberData(nameof(Cases))]
    public void Panels_are_the_bits_of_scalar_for_every_length(string name, WeightFormat format)
    {
        foreach (int cols in Lengths(format)) ComparePanels(name, format, 21, cols, 1 + cols / 16 % 9, Made.Kinds[cols / 32 % 5], cols % 64, cols);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Panels_are_the_bits_of_scalar_for_any_rows_tokens_alignment_and_numbers(string name, WeightFormat format) =>
        Gen.Select(s_variety, Gen.Int[1, 50], Gen.Int[1, 9], Gen.Int[1, 9]).Sample((v, rows, tokens, blocks) =>
            ComparePanels(name, format, rows, Columns(format, blocks, 19), tokens, v.Kind, v.Offset, v.Seed), iter: 150);

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_range_of_panels_writes_its_rows_only(string name, WeightFormat format)
    {
        const int rows = 70, tokens = 5;
        int cols = Columns(format, 3, 32);
        using Native panels = Native.Of<byte>(Made.Panels(format, rows, cols, Kind.Ordinary, 3), 0), x = Activations(format, cols, tokens, Kind.Ordinary, 4, 0, out nint stride);
        using Native whole = new(rows * tokens * 4, 0), parts = new(rows * tokens * 4, 0);
        Kernels.Choose("scalar").Panels(format, panels.Pointer, 0, 5, rows, cols, x.Pointer, stride, tokens, whole.Floats, rows);
        foreach ((int from, int to) in new[] { (3, 5), (0, 1), (1, 3) })
            Kernels.Choose(name).Panels(format, panels.Pointer, from, to, rows, cols, x.Pointer, stride, tokens, parts.Floats, rows);
        Assert.True(whole.Same(parts));
    }

    private static Native Activations(WeightFormat format, int cols, int tokens, Kind kind, int seed, int offset, out nint stride)
    {
        byte[][] rows = [.. Enumerable.Range(0, tokens).Select(t => Made.Activation(format, cols, kind, seed + t * 31))];
        stride = rows[0].Length;
        return Native.Of<byte>(rows.SelectMany(static r => r).ToArray(), offset);
    }

    private static void ComparePanels(string name, WeightFormat format, int rows, int cols, int tokens, Kind kind, int offset, int seed)
    {
        using Native panels = Native.Of<byte>(Made.Panels(format, rows, cols, kind, seed), offset);
        using Native x = Activations(format, cols, tokens, kind, seed + 5, (offset * 5 + 3) % 64, out nint stride);
        using Native expected = new((rows + 3) * tokens * 4, 4 * (offset % 16)), actual = new((rows + 3) * tokens * 4, 4 * (offset % 16));
        int count = WeightLayout.Panels(rows);
        Kernels.Choose("scalar").Panels(format, panels.Pointer, 0, count, rows, cols, x.Pointer, stride, tokens, expected.Floats, rows + 3);
        Kernels.Choose(name).Panels(format, panels.Pointer, 0, count, rows, cols, x.Pointer, stride, tokens, actual.Floats, rows + 3);
        Assert.True(expected.Same(actual), $"{name} {format} rows {rows} cols {cols} tokens {tokens} {kind} offset {offset} seed {seed}");
        // What is there already, and the product: what adding the two makes.
        float[] start = Made.Floats((rows + 3) * tokens, kind, seed + 11);
        using Native sum = Native.Of<float>(start, 4 * (offset % 16)), added = Native.Of<float>(start, 4 * (offset % 16));
        for (int t = 0; t < tokens; t++)
            for (int r = 0; r < rows; r++) sum.Floats[t * (rows + 3) + r] += expected.Floats[t * (rows + 3) + r];
        Kernels.Choose(name).Panels(format, panels.Pointer, 0, count, rows, cols, x.Pointer, stride, tokens, added.Floats, rows + 3, panels.Pointer, add: true);
        Assert.True(sum.Same(added), $"{name} {format} added, rows {rows} cols {cols} tokens {tokens} {kind} offset {offset} seed {seed}");
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Dots_are_the_bits_of_scalar_for_every_length(string name, WeightFormat format)
    {
        foreach (int cols in Lengths(format)) CompareDots(name, format, 1 + cols / 16 % 11, cols, Made.Kinds[cols / 32 % 5], cols % 64, cols);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Dots_are_the_bits_of_scalar_for_any_count_alignment_and_numbers(string name, WeightFormat format) =>
        Gen.Select(s_variety, Gen.Int[0, 19], Gen.Int[1, 40]).Sample((v, n, blocks) =>
            CompareDots(name, format, n, Columns(format, blocks, 7), v.Kind, v.Offset, v.Seed), iter: 200);

    private static void CompareDots(string name, WeightFormat format, int n, int cols, Kind kind, int offset, int seed)
    {
        Native[] rows = [.. Enumerable.Range(0, n).Select(i => Native.Of<byte>(Made.Row(format, cols, kind, seed + i), (offset + i) % 64))];
        Native[] xs = [.. Enumerable.Range(0, n).Select(i => Native.Of<byte>(Made.Activation(format, cols, kind, seed + 1000 + i / 3), (offset + 3 * i) % 64))];
        byte** r = stackalloc byte*[n + 1], x = stackalloc byte*[n + 1];
        for (int i = 0; i < n; i++)
        {
            r[i] = rows[i].Pointer;
            x[i] = xs[i].Pointer;
        }
        using Native expected = new(n * 4, 4), actual = new(n * 4, 4);
        Kernels.Choose("scalar").Dots(format, r, x, n, cols, expected.Floats);
        Kernels.Choose(name).Dots(format, r, x, n, cols, actual.Floats);
        foreach (Native native in rows.Concat(xs)) native.Dispose();
        Assert.True(expected.Same(actual), $"{name} {format} n {n} cols {cols} {kind} offset {offset} seed {seed}");
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Axpys_are_the_bits_of_scalar_for_every_length(string name, WeightFormat format)
    {
        foreach (int cols in Lengths(format)) CompareAxpys(name, format, cols / 16 % 21, cols, Made.Kinds[cols / 32 % 5], cols % 64, cols);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Axpys_are_the_bits_of_scalar_for_any_count_alignment_and_numbers(string name, WeightFormat format) =>
        Gen.Select(s_variety, Gen.Int[0, 40], Gen.Int[1, 40]).Sample((v, n, blocks) =>
            CompareAxpys(name, format, n, Columns(format, blocks, 7), v.Kind, v.Offset, v.Seed), iter: 200);

    private static void CompareAxpys(string name, WeightFormat format, int n, int cols, Kind kind, int offset, int seed)
    {
        Native[] rows = [.. Enumerable.Range(0, n).Select(i => Native.Of<byte>(Made.Row(format, cols, kind, seed + i), (offset + i) % 64))];
        byte** r = stackalloc byte*[n + 1];
        for (int i = 0; i < n; i++) r[i] = rows[i].Pointer;
        float[] start = Made.Floats(cols, kind, seed + 9);
        using Native a = Native.Of<float>(Made.Floats(n, kind, seed + 8), 4), expected = Native.Of<float>(start, offset), actual = Native.Of<float>(start, offset);
        Kernels.Choose("scalar").Axpys(format, a.Floats, r, n, cols, expected.Floats);
        Kernels.Choose(name).Axpys(format, a.Floats, r, n, cols, actual.Floats);
        foreach (Native native in rows) native.Dispose();
        Assert.True(expected.Same(actual), $"{name} {format} n {n} cols {cols} {kind} offset {offset} seed {seed}");
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Skipping_zeros_is_bit_neutral(string name, WeightFormat format) => Gen.Select(s_variety, Gen.Int[1, 40], Gen.Int[1, 12]).Sample((v, n, blocks) =>
    {
        int cols = Columns(format, blocks, 32);
        float[] a = Made.Floats(n, Kind.Ordinary, v.Seed);
        for (int i = 0; i < n; i++)
            if ((v.Seed >> i % 16 & 3) != 0) a[i] = i % 5 == 0 ? -0f : 0f;
        Native[] rows = [.. Enumerable.Range(0, n).Select(i => Native.Of<byte>(Made.Row(format, cols, v.Kind, v.Seed + i), 0))];
        byte** all = stackalloc byte*[n], some = stackalloc byte*[n];
        float* kept = stackalloc float[n];
        int count = 0;
        for (int i = 0; i < n; i++)
        {
            all[i] = rows[i].Pointer;
            if (a[i] != 0)
            {
                some[count] = all[i];
                kept[count++] = a[i];
            }
        }
        using Native dense = Native.Of<float>(new float[cols], 0), sparse = Native.Of<float>(new float[cols], 0);
        fixed (float* coefficients = a) Kernels.Choose(name).Axpys(format, coefficients, all, n, cols, dense.Floats);
        Kernels.Choose(name).Axpys(format, kept, some, count, cols, sparse.Floats);
        for (int k = 0; k < cols; k++) (dense.Floats[k], sparse.Floats[k]) = (dense.Floats[k] + 0f, sparse.Floats[k] + 0f);
        foreach (Native native in rows) native.Dispose();
        Assert.True(dense.Same(sparse), $"{name} {format} n {n} cols {cols} {v}");
    }, iter: 100);

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_panel_row_is_the_row_that_was_packed(string name, WeightFormat format)
    {
        int cols = Columns(format, 7, 32);
        byte[] panel = Made.Panels(format, 16, cols, Kind.Ordinary, 11);
        float[] y = new float[cols];
        for (int r = 0; r < 16; r++)
        {
            fixed (byte* p = panel)
            fixed (float* py = y)
                Kernels.Choose(name).PanelRow(format, p, r, cols, py);
            Assert.True(Numbers.SameBits(Numbers.Restore(format, Made.Row(format, cols, Kind.Ordinary, 11 + r * 7), cols), y));
        }
    }
}
