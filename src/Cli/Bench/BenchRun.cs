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
    /// <summary>From when every session had its first token: steps of decoding alone. Null when nothing was generated after it.</summary>
    public required BenchStretch? Decoding { get; init; }
    /// <summary>What each session said.</summary>
    public required int[][] Tokens { get; init; }
    /// <summary>What was guessed for it; null: nothing.</summary>
    public BenchDrafts? Drafts { get; init; }
    /// <summary>Guesses verified, and right.</summary>
    public required int Drafted { get; init; }
    public required int Accepted { get; init; }

    public double AggregateRate => Generated / Wall.TotalSeconds;
    public double SessionRate => SessionRates.Length > 0 ? SessionRates.Average() : 0;
    public double TimeToFirst => TimesToFirst.Average();
    public double ComputeShare => Math.Min(1, Counters.ComputeNanos / 1e9 / Wall.TotalSeconds);
    public double FlashWaitShare => Math.Min(1 - ComputeShare, Counters.FlashWaitNanos / 1e9 / Wall.TotalSeconds);
    public double OtherShare => Math.Max(0, 1 - ComputeShare - FlashWaitShare);

    /// <summary>Nearest rank.</summary>
    public double Percentile(double p) => Between.Length == 0 ? 0 : Between[Math.Clamp((int)Math.Ceiling(p * Between.Length) - 1, 0, Between.Length - 1)];

    public static async Task<BenchRun> MeasureAsync(IModelHost host, BenchPrompt prompt, int sessions, int generate, SamplingOptions sampling, CancellationToken cancel, BenchDrafts? drafts = null)
    {
        var open = Enumerable.Range(0, sessions).Select(_ => host.OpenSession()).ToArray();
        try
        {
            var before = await host.MeasureAsync();
            long start = Stopwatch.GetTimestamp();
            using var begun = new CountdownEvent(sessions);
            var decoding = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            void First()
            {
                if (begun.Signal()) decoding.SetResult();
            }
            async Task<(Snapshot, long)> MiddleAsync()
            {
                await decoding.Task;
                var now = await host.MeasureAsync();
                return (now, Stopwatch.GetTimestamp());
            }
            var middle = MiddleAsync();
            var arrivals = await Task.WhenAll(open.Select((session, i) => ReadAsync(host, session, prompt.For(i), generate, sampling with { Seed = sampling.Seed + (ulong)i }, drafts, i, start, First, cancel)));
            var wall = Stopwatch.GetElapsedTime(start);
            var after = await host.MeasureAsync();
            var (counters, since) = await middle;
            var stretch = new BenchStretch(wall - Stopwatch.GetElapsedTime(start, since), after - counters, prompt.Length + generate / 2.0);
            double[] between = [.. arrivals.SelectMany(static a => a.Times.Zip(a.Times.Skip(1), static (x, y) => y - x)).Order()];
            return new BenchRun
            {
                Path = host.Path,
                Sessions = sessions,
                Wall = wall,
                Generated = arrivals.Sum(static a => a.Times.Count),
                TimesToFirst = [.. arrivals.Select(static a => a.Times[0])],
                SessionRates = [.. arrivals.Where(static a => a.Times.Count > 1).Select(static a => (a.Times.Count - 1) / (a.Times[^1] - a.Times[0]) * 1e3)],
                Between = between,
                Counters = after - before,
                Decoding = stretch.Steps > 0 && stretch.Time > TimeSpan.Zero ? stretch : null,
                Memory = BenchMemory.Now(),
                Tokens = [.. arrivals.Select(static a => a.Tokens.ToArray())],
                Drafts = drafts,
                Drafted = arrivals.Sum(static a => a.Usage?.DraftedTokens ?? 0),
                Accepted = arrivals.Sum(static a => a.Usage?.AcceptedTokens ?? 0),
            };
        }
        finally
        {
            foreach (var session in open) await session.DisposeAsync();
        }
    }

    /// <param name="Times">Milliseconds from the common start to each token.</param>
    private sealed record Answer(List<double> Times, List<int> Tokens)
    {
        public TurnUsage? Usage { get; set; }
    }

    private static async Task<Answer> ReadAsync(IModelHost host, IModelSession session, int[] prompt, int generate, SamplingOptions sampling, BenchDrafts? drafts, int number, long start, Action first, CancellationToken cancel)
    {
        var answer = new Answer(new(generate), new(generate));
        var turn = new TurnRequest { Model = host.Model, Tokens = prompt, MaxTokens = generate, Sampling = sampling, StopTokens = [], Speculate = Speculation.Off };
        if (drafts != null) turn = drafts.Over(turn, number);
        await foreach (var chunk in Checked.SendAsync(session, turn, cancel))
        {
            answer.Usage = chunk.Usage;
            if (chunk.TokenId < 0) continue;
            answer.Times.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
            answer.Tokens.Add(chunk.TokenId);
            if (answer.Times.Count == 1) first();
        }
        return answer.Times.Count > 0 ? answer : throw new CliException("the model generated nothing");
    }
}

/// <summary>Memory of this process when a run ends; the most since the process began, or since its host was started where the system lets that be told.</summary>
internal sealed record BenchMemory(long ManagedBytes, long HeapBytes, long ProcessBytes, long MostProcessBytes)
{
    public static BenchMemory Now() => new(GC.GetTotalMemory(false), GC.GetGCMemoryInfo().TotalCommittedBytes, Environment.WorkingSet, HeapFence.Resident().Most);
}

/// <summary>A part of a run: how long it took, what was counted in it, and the positions that a token saw in the mean.</summary>
internal sealed record BenchStretch(TimeSpan Time, Snapshot Counters, double Context)
{
    /// <summary>Merged steps of the whole model.</summary>
    public double Steps => Counters.Layers.Length > 0 ? Counters.Layers[0].Waves : 0;
}
