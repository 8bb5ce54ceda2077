using System.Diagnostics;
using System.Globalization;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Bench;

/// <summary>A stopwatch around each kernel, over weights that fit the second cache (512 rows) and over weights that fit none.</summary>
internal static class Quick
{
    public static void Run(string[] args)
    {
        foreach (WeightFormat format in new[] { WeightFormat.Q4, WeightFormat.Q4B, WeightFormat.Q4K, WeightFormat.Q8, WeightFormat.BF16 })
        {
            // Names of formats and variants narrow the table.
            if (args.Any(static a => Enum.TryParse<WeightFormat>(a, true, out _)) && !args.Contains(format.ToString(), StringComparer.OrdinalIgnoreCase)) continue;
            int rows = format switch { WeightFormat.BF16 => 8192, WeightFormat.Q8 => 16384, _ => 32768 };
            using Workload memory = new("scalar", format, rows, 1);
            double read = Fastest(() => memory.ReadAll());
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{format}: {memory.PanelBytes / 1e6:F0} MB, plain read {memory.PanelBytes / read / 1e9:F1} GB/s"));
            foreach (string kernels in Kernels.Available)
            {
                if (kernels == "scalar" || args.Any(Kernels.Available.Contains) && !args.Contains(kernels)) continue;
                foreach (int size in new[] { 512, rows })
                    foreach (int tokens in new[] { 1, 2, 4, 8, 64 })
                    {
                        using Workload work = new(kernels, format, size, tokens);
                        Report(kernels, format, $"panels {size} T={tokens}", (double)size * Workload.Cols * tokens, work.PanelBytes, Fastest(work.Panels));
                    }
                // A dense feed-forward: rows where they lie, for one token and for a prompt.
                foreach (int size in new[] { 512, rows })
                    foreach (int tokens in new[] { 1, 4, 8, 64 })
                    {
                        using Workload work = new(kernels, format, size, tokens);
                        Report(kernels, format, $"rows {size} T={tokens}", (double)size * Workload.Cols * tokens, work.PanelBytes, Fastest(work.Products));
                        if (tokens > 1) Report(kernels, format, $"columns {size} T={tokens}", (double)size * Workload.Cols * tokens, work.PanelBytes, Fastest(work.Columns));
                    }
                // A sparse layer: 512 neurons of a window, each needed by one of four tokens, scattered, in cache after the first pass.
                using Workload neurons = new(kernels, format, 512, 4);
                Report(kernels, format, "dots 512", 512.0 * Workload.Cols, neurons.PanelBytes, Fastest(neurons.Dots));
                Report(kernels, format, "axpys 512", 512.0 * Workload.Cols, neurons.PanelBytes, Fastest(neurons.Axpys));
                using Workload cold = new(kernels, format, rows, 4);
                Report(kernels, format, $"dots {rows}", (double)rows * Workload.Cols, cold.PanelBytes, Fastest(cold.Dots));
                Report(kernels, format, $"axpys {rows}", (double)rows * Workload.Cols, cold.PanelBytes, Fastest(cold.Axpys));
            }
        }
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
