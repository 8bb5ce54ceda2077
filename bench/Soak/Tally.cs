namespace FlashOrleans.Bench;

/// <summary>What became of all requests. Any thread.</summary>
internal sealed class Tally
{
    private const int MostLines = 40;
    private readonly Lock _gate = new();
    private readonly SortedDictionary<string, long> _counts = [], _kinds = [];
    private readonly List<Gap> _gaps = [], _first = [];
    private readonly List<string> _why = [];

    public long Requests { get; private set; }
    public long Failures { get; private set; }
    public long Tokens { get; private set; }
    public long Prompt { get; private set; }
    public long Cached { get; private set; }
    public string[] Why { get { lock (_gate) return [.. _why]; } }
    public IReadOnlyDictionary<string, long> Kinds { get { lock (_gate) return new SortedDictionary<string, long>(_kinds); } }

    public long Count(string outcome)
    {
        lock (_gate) return _counts.GetValueOrDefault(outcome);
    }

    public void Asked(string kind)
    {
        lock (_gate)
        {
            Requests++;
            _kinds[kind] = _kinds.GetValueOrDefault(kind) + 1;
        }
    }

    public void Ended(string outcome)
    {
        lock (_gate) _counts[outcome] = _counts.GetValueOrDefault(outcome) + 1;
    }

    public void Served(int tokens, int prompt, int cached)
    {
        lock (_gate)
        {
            Tokens += tokens;
            Prompt += prompt;
            Cached += cached;
        }
    }

    public void Times(Answer answer)
    {
        lock (_gate)
        {
            if (answer.First != 0) _first.Add(new Gap(answer.First, answer.Milliseconds(answer.First)));
            _gaps.AddRange(answer.Gaps);
        }
    }

    /// <summary>Sorted: between tokens, or to the first one, but for those while the server was stopped.</summary>
    public double[] Milliseconds(bool first, Watch watch)
    {
        lock (_gate) return [.. (first ? _first : _gaps).Where(g => !watch.StoppedWithin(g.At - (long)(g.Milliseconds / 1000 * System.Diagnostics.Stopwatch.Frequency), g.At)).Select(static g => g.Milliseconds).Order()];
    }

    public void Wrong(string what, string why)
    {
        lock (_gate)
        {
            Failures++;
            if (_why.Count < MostLines) _why.Add($"{TimeProvider.System.GetUtcNow():HH:mm:ss} {what}: {why}");
        }
    }

    public static double? At(double[] sorted, double share) => sorted.Length == 0 ? null : Math.Round(sorted[Math.Min(sorted.Length - 1, (int)(share * sorted.Length))], 2);
}
