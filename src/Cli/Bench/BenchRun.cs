using System.Diagnostics;
using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Engine;

namespace FlashOrleans.Cli.Bench;

/// <summary>One measured run: so many sessions at once on one host, each one prompt and one answer of fixed length. Times as a reader of the stream sees them.</summary>
internal sealed record BenchRun
{
    public required string Path { get; init; }
    public required int Sessions { get; init; }
    public required TimeSpan Wall { get; init; }
    public required int Generated { get; init; }
    public required double[] TimesToFirst { get; init; }
    /// <summary>Per session: tokens after the first over the time they took.</summary>
    public required double[] SessionRates { get; init; }
    /// <summary>Milliseconds between tokens of a session, all sessions, ascending.</summary>
    public required double[] Between { get; init; }
    public required Snapshot Counters { get; init; }
    public required BenchMemory Memory { get; init; }

    public double AggregateRate => Generated / Wall.TotalSeconds;
    public double SessionRate => SessionRates.Length > 0 ? SessionRates.Average() : 0;
    public double TimeToFirst => TimesToFirst.Average();
    public double ComputeShare => Math.Min(1, Counters.ComputeNanos / 1e9 / Wall.TotalSeconds);
    public double FlashWaitShare => Math.Min(1 - ComputeShare, Counters.FlashWaitNanos / 1e9 / Wall.TotalSeconds);
    public double OtherShare => Math.Max(0, 1 - ComputeShare - FlashWaitShare);

    /// <summary>Nearest rank.</summary>
    public double Percentile(double p) => Between.Length == 0 ? 0 : Between[Math.Clamp((int)Math.Ceiling(p * Between.Length) - 1, 0, Between.Length - 1)];

    public static async Task<BenchRun> MeasureAsync(IModelHost host, BenchPrompt prompt, int sessions, int generate, SamplingOptions sampling, CancellationToken cancel)
    {
        var open = Enumerable.Range(0, sessions).Select(_ => host.OpenSession()).ToArray();
        try
        {
            var before = await host.MeasureAsync();
            long start = Stopwatch.GetTimestamp();
            var arrivals = await Task.WhenAll(open.Select((session, i) => ReadAsync(host, session, prompt.For(i), generate, sampling with { Seed = sampling.Seed + (ulong)i }, start, cancel)));
            var wall = Stopwatch.GetElapsedTime(start);
            double[] between = [.. arrivals.SelectMany(static a => a.Zip(a.Skip(1), static (x, y) => y - x)).Order()];
            return new BenchRun
            {
                Path = host.Path,
                Sessions = sessions,
                Wall = wall,
                Generated = arrivals.Sum(static a => a.Count),
                TimesToFirst = [.. arrivals.Select(static a => a[0])],
                SessionRates = [.. arrivals.Where(static a => a.Count > 1).Select(static a => (a.Count - 1) / (a[^1] - a[0]) * 1e3)],
                Between = between,
                Counters = await host.MeasureAsync() - before,
                Memory = BenchMemory.Now(),
            };
        }
        finally
        {
            foreach (var session in open) await session.DisposeAsync();
        }
    }

    /// <summary>Milliseconds from the common start to each token.</summary>
    private static async Task<List<double>> ReadAsync(IModelHost host, IModelSession session, int[] prompt, int generate, SamplingOptions sampling, long start, CancellationToken cancel)
    {
        var arrivals = new List<double>(generate);
        var turn = new TurnRequest { Model = host.Model, Tokens = prompt, MaxTokens = generate, Sampling = sampling, StopTokens = [] };
        await foreach (var chunk in Checked.SendAsync(session, turn, cancel))
            if (chunk.TokenId >= 0) arrivals.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        return arrivals.Count > 0 ? arrivals : throw new CliException("the model generated nothing");
    }
}

/// <summary>Memory of this process when a run ends; the most since the process began, or since its host was started where the system lets that be told.</summary>
internal sealed record BenchMemory(long ManagedBytes, long HeapBytes, long ProcessBytes, long MostProcessBytes)
{
    public static BenchMemory Now() => new(GC.GetTotalMemory(false), GC.GetGCMemoryInfo().TotalCommittedBytes, Environment.WorkingSet, HeapFence.Resident().Most);
}
