using System.Diagnostics;
using System.Globalization;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Bench;

/// <summary>A stopwatch around each kernel, over weights that fit the second cache (512 rows) and over weights that fit none.</summary>
internal static class Quick
{
    private static readonly string[] s_kernels = ["panels", "rows", "slabs", "columns", "dots", "axpys"];

    /// <summary>Words narrow the table: formats, variants, kernels.</summary>
    public static void Run(string[] words)
    {
        foreach (WeightFormat format in new[] { WeightFormat.Q4, WeightFormat.Q4B, WeightFormat.Q4K, WeightFormat.Q8, WeightFormat.BF16 })
        {
            if (!Wanted(words, Enum.GetNames<WeightFormat>(), format.ToString())) continue;
            int rows = format switch { WeightFormat.BF16 => 8192, WeightFormat.Q8 => 16384, _ => 32768 };
            using (Workload memory = new("scalar", format, rows, 1))
            {
                double read = Fastest(() => memory.ReadAll());
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{format}: {memory.PanelBytes / 1e6:F0} MB, plain read {memory.PanelBytes / read / 1e9:F1} GB/s"));
            }
            foreach (string variant in Kernels.Available)
            {
                if (variant == "scalar" || !Wanted(words, Kernels.Available, variant)) continue;
                foreach (string kernel in s_kernels)
                    if (Wanted(words, s_kernels, kernel))
                        foreach (int size in new[] { 512, rows })
                            foreach (int tokens in Tokens(kernel)) Measure(kernel, variant, format, size, tokens);
            }
        }
    }

    /// <summary>Panels: attention and head. Rows and columns: a dense feed-forward. Dots and axpys: a sparse one, neurons needed by one of four tokens each, scattered.</summary>
    private static int[] Tokens(string kernel) => kernel switch { "panels" => [1, 2, 4, 8, 64], "rows" => [1, 4, 8, 64], "slabs" => [1, 2, 4, 8, 64], "columns" => [4, 8, 64], _ => [1] };

    private static bool Wanted(string[] words, IEnumerable<string> kind, string name) =>
        words.Contains(name, StringComparer.OrdinalIgnoreCase) || !words.Any(w => kind.Contains(w, StringComparer.OrdinalIgnoreCase));

    private static void Measure(string kernel, string variant, WeightFormat format, int size, int tokens)
    {
        using Workload work = new(variant, format, size, kernel is "dots" or "axpys" ? 4 : tokens);
        Action action = kernel switch { "panels" => work.Panels, "rows" => work.Products, "slabs" => work.Slabs, "columns" => work.Columns, "dots" => work.Dots, _ => work.Axpys };
        Report(variant, format, $"{kernel} {size} T={tokens}", (double)size * Workload.Cols * tokens, work.PanelBytes, Fastest(action));
    }

    private static void Report(string kernels, WeightFormat format, string what, double products, long bytes, double seconds) => Console.WriteLine(string.Create(
        CultureInfo.InvariantCulture, $"  {kernels,-7} {format,-4} {what,-19} {products / seconds / 1e9,7:F1} G multiply-adds/s  {bytes / seconds / 1e9,6:F1} GB/s  {seconds * 1e3,8:F3} ms"));

    private static double Fastest(Action work)
    {
        // Processor time, not wall time, and many passes: on a shared machine a pass is interrupted, and only the fastest one had the caches to itself.
        work();
        int repeats = 1 + (int)(1e-3 / Math.Max(Timed(work, 1), 1e-6));
        double best = double.MaxValue;
        long end = Stopwatch.GetTimestamp() + Stopwatch.Frequency / 2;
        for (int pass = 0; pass < 5 || Stopwatch.GetTimestamp() < end; pass++) best = Math.Min(best, Timed(work, repeats));
        return best;
    }

    private static double Timed(Action work, int repeats)
    {
        TimeSpan start = Environment.CpuUsage.TotalTime;
        for (int i = 0; i < repeats; i++) work();
        return (Environment.CpuUsage.TotalTime - start).TotalSeconds / repeats;
    }
}
