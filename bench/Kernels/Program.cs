using BenchmarkDotNet.Running;
using FlashOrleans.Bench;

// `--quick` prints G multiply-adds/s in a minute; anything else goes to BenchmarkDotNet (for example `--filter *Panels*`).
if (args.Contains("--quick"))
    Quick.Run(args);
else
    BenchmarkSwitcher.FromAssembly(typeof(KernelBenchmarks).Assembly).Run(args);
