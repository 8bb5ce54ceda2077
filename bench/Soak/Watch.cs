using System.Diagnostics;
using System.Globalization;

namespace FlashOrleans.Bench;

/// <summary>What a process takes at a moment; <paramref name="Group"/>: what its control group counts that is not file pages.</summary>
internal readonly record struct Sample(long Resident, long Group, int Descriptors, int Threads);

/// <summary>Looks at a server from outside: /proc, its control group, /metrics. One thread at a time.</summary>
internal sealed class Watch(int pid, string? group, HttpClient http)
{
    // What is zero when nobody asks for anything.
    private static readonly string[] s_gauges = ["num_requests_running", "num_requests_waiting", "num_turns", "num_steps", "num_waves", "layer_kv_sessions", "layer_kv_held_bytes"];
    private readonly List<Sample> _samples = [];

    public Sample Most { get; private set; }
    /// <summary>When the process was stopped by somebody: times of requests tell nothing then.</summary>
    private readonly List<(long From, long To)> _stops = [];

    public double StoppedSeconds => _stops.Sum(static s => Stopwatch.GetElapsedTime(s.From, s.To).TotalSeconds);

    public bool StoppedWithin(long from, long to) => _stops.Any(s => s.From < to && s.To > from);

    /// <summary>Notes stops; a second more on both sides, since it looks now and then.</summary>
    public async Task NoteStopsAsync(CancellationToken cancellationToken)
    {
        long? since = null;
        long looked = Stopwatch.GetTimestamp();
        while (!cancellationToken.IsCancellationRequested)
        {
            string stat = await File.ReadAllTextAsync($"/proc/{pid}/stat", CancellationToken.None);
            bool stopped = stat[(stat.LastIndexOf(')') + 2)..].StartsWith('T');
            long now = Stopwatch.GetTimestamp();
            // Who looks may have been stopped, too.
            if (now - looked > 2 * Stopwatch.Frequency) since ??= looked;
            looked = now;
            if (stopped) since ??= now - Stopwatch.Frequency;
            else if (since is { } from)
            {
                _stops.Add((from, now + Stopwatch.Frequency));
                since = null;
            }
            await Task.Delay(250, cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    public async Task RunAsync(TimeSpan every, CancellationToken cancellationToken)
    {
        while (!cancellationToken.IsCancellationRequested)
        {
            Sample now = Look();
            _samples.Add(now);
            Most = new Sample(Math.Max(Most.Resident, now.Resident), Math.Max(Most.Group, now.Group), Math.Max(Most.Descriptors, now.Descriptors), Math.Max(Most.Threads, now.Threads));
            await Task.Delay(every, cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    public Sample Look()
    {
        string[] status = File.ReadAllLines($"/proc/{pid}/status");
        // Pages of files belong to the page cache and to the group that touched them first; the group's limit has those that are this one's.
        return new Sample((Number(status, "RssAnon:") + Number(status, "RssShmem:")) * 1024, group is null ? 0 : Number(File.ReadAllLines(Path.Combine(group, "memory.stat")), "rss"),
            Directory.GetFileSystemEntries($"/proc/{pid}/fd").Length, (int)Number(status, "Threads:"));
    }

    /// <summary>Medians of the first and the last sixth of the time.</summary>
    public (Sample First, Sample Last) Sixths()
    {
        int part = Math.Max(1, _samples.Count / 6);
        return (Median(_samples.Take(part)), Median(_samples.TakeLast(part)));
    }

    public int Kills() => group is null ? 0 : (int)Number(File.ReadAllLines(Path.Combine(group, "memory.oom_control")), "oom_kill");

    public async Task<Dictionary<string, double>> GaugesAsync()
    {
        var sums = s_gauges.ToDictionary(static g => g, static _ => 0.0);
        foreach (string line in (await http.GetStringAsync("/metrics")).Split('\n'))
        {
            int name = line.IndexOf('{');
            if (name < 0 || !line.StartsWith("flashorleans_", StringComparison.Ordinal)) continue;
            string gauge = line["flashorleans_".Length..name];
            if (sums.ContainsKey(gauge)) sums[gauge] += double.Parse(line[(line.IndexOf('}') + 1)..].Split(' ', StringSplitOptions.RemoveEmptyEntries)[0], CultureInfo.InvariantCulture);
        }
        return sums;
    }

    /// <summary>Waits until every gauge is zero; those that are not when the patience is over.</summary>
    public async Task<string[]> IdleAsync(TimeSpan patience)
    {
        for (int tries = 0; ; tries++)
        {
            string[] busy = [.. (await GaugesAsync()).Where(static g => g.Value != 0).Select(static g => $"{g.Key} is {g.Value}")];
            if (busy.Length == 0 || tries >= patience.TotalSeconds) return busy;
            await Task.Delay(1000);
        }
    }

    private static Sample Median(IEnumerable<Sample> samples)
    {
        Sample[] all = [.. samples];
        if (all.Length == 0) return default;
        T Middle<T>(Func<Sample, T> of) => all.Select(of).Order().ElementAt(all.Length / 2);
        return new Sample(Middle(static s => s.Resident), Middle(static s => s.Group), Middle(static s => s.Descriptors), Middle(static s => s.Threads));
    }

    private static long Number(string[] lines, string name)
    {
        string? line = lines.FirstOrDefault(l => l.Split([' ', '\t'])[0] == name);
        return line is null ? 0 : long.Parse(line[name.Length..].Split([' ', '\t'], StringSplitOptions.RemoveEmptyEntries)[0], CultureInfo.InvariantCulture);
    }
}
