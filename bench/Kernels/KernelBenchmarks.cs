using BenchmarkDotNet.Attributes;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Bench;

/// <summary>The kernels by format, variant and number of tokens, on a 4096 x 4096 matrix; in this process, as no project here is named after its assembly.</summary>
[InProcess]
public class KernelBenchmarks
{
    private Workload _work = null!;

    [Params(WeightFormat.Q4, WeightFormat.Q4B, WeightFormat.Q4K, WeightFormat.Q8, WeightFormat.BF16)]
    public WeightFormat Format { get; set; }

    [ParamsSource(nameof(Available))]
    public string Variant { get; set; } = "auto";

    [Params(1, 8)]
    public int Tokens { get; set; }

    public static IEnumerable<string> Available => Kernels.Available.Where(static k => k != "scalar");

    [GlobalSetup]
    public void Setup() => _work = new Workload(Variant, Format, 4096, Tokens);

    [GlobalCleanup]
    public void Cleanup() => _work.Dispose();

    [Benchmark]
    public void Panels() => _work.Panels();

    [Benchmark]
    public void Dots() => _work.Dots();

    [Benchmark]
    public void Axpys() => _work.Axpys();
}
