using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

public sealed unsafe class KernelChoiceTests
{
    [Fact]
    public void Every_available_variant_answers_to_its_name()
    {
        Assert.Equal("scalar", Kernels.Available[0]);
        foreach (string name in Kernels.Available) Assert.Equal(name, Kernels.Choose(name).Name);
    }

    [Fact]
    public void Auto_is_the_variable_when_set_and_the_best_one_otherwise()
    {
        foreach (string? unset in new[] { null, "", "auto" }) Assert.Equal(Kernels.Available[^1], Kernels.Choose("auto", unset).Name);
        foreach (string name in Kernels.Available) Assert.Equal(name, Kernels.Choose("auto", name).Name);
        Assert.Equal("scalar", Kernels.Choose("scalar", Kernels.Available[^1]).Name);
        Assert.StartsWith("FLASH_KERNELS: 'avx9' is unknown", Assert.Throws<ArgumentException>(static () => Kernels.Choose("auto", "avx9")).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("sse9")]
    [InlineData("")]
    [InlineData("AVX2")]
    public void An_unknown_name_is_refused_with_the_list(string name) =>
        Assert.Contains("choose one of auto, scalar", Assert.Throws<ArgumentException>(() => Kernels.Choose(name)).Message, StringComparison.Ordinal);

    [Fact]
    public void No_kernel_allocates()
    {
        const int cols = 544, rows = 16, tokens = 5;
        foreach (string name in Kernels.Available)
        {
            Kernels kernels = Kernels.Choose(name);
            using Native floats = Native.Of<float>(Made.Floats(cols * tokens, Kind.Ordinary, 1), 0), w = Native.Of<float>(Made.Floats(cols, Kind.Ordinary, 2), 0);
            using Native y = new(cols * tokens * 4, 0), quantized = new(Kernels.QuantizedBytes(cols) * tokens, 0), half = new(cols * 2, 0);
            foreach (WeightFormat format in Enum.GetValues<WeightFormat>())
            {
                int width = cols / WeightLayout.Multiple(format) * WeightLayout.Multiple(format);
                using Native panel = Native.Of<byte>(Made.Panels(format, rows, width, Kind.Ordinary, 3), 0), row = Native.Of<byte>(Made.Row(format, width, Kind.Ordinary, 4), 0);
                bool integers = WeightLayout.IsQuantized(format);
                byte* x = integers ? quantized.Pointer : floats.Pointer, r = row.Pointer;
                nint stride = integers ? Kernels.QuantizedBytes(width) : cols * 4;
                Round();
                long before = GC.GetAllocatedBytesForCurrentThread();
                Round();
                Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());

                void Round()
                {
                    byte* x0 = x, r0 = r;
                    for (int t = 0; t < tokens; t++) kernels.QuantizeRow(floats.Floats + t * cols, width, quantized.Pointer + t * Kernels.QuantizedBytes(width));
                    kernels.Panels(format, panel.Pointer, 0, 1, rows, width, x, stride, tokens, y.Floats, cols);
                    kernels.PanelRow(format, panel.Pointer, 3, width, y.Floats);
                    kernels.Dots(format, &r0, &x0, 1, width, y.Floats);
                    kernels.Axpys(format, w.Floats, &r0, 1, width, y.Floats);
                    kernels.Scores(w.Floats, floats.Pointer, 80 * 4, false, 9, 80, 1, y.Floats);
                    kernels.WeightedSum(w.Floats, floats.Pointer, 80 * 4, true, 9, 80, y.Floats);
                    kernels.RmsNorm(floats.Floats, w.Floats, cols - 3, 1e-5f, y.Floats);
                    kernels.LayerNorm(floats.Floats, w.Floats, w.Floats, cols - 3, 1e-5f, y.Floats);
                    kernels.Add(y.Floats, w.Floats, cols);
                    kernels.Scale(y.Floats, 0.5f, cols);
                    kernels.Silu(y.Floats, cols);
                    kernels.Rope(y.Floats, 2, 80, w.Floats, w.Floats);
                    kernels.ToHalf(y.Floats, cols, (ushort*)half.Pointer);
                    kernels.ExpSum(y.Floats, cols - 3, out _);
                }
            }
        }
    }
}
