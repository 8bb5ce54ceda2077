namespace FlashOrleans.Models.Hub;

/// <summary>How far a pull is: what it is at, bytes that are here of all, and how fast they come. Reported by any thread, one at a time.</summary>
public readonly record struct PullProgress(string Step, long Done, long Total, double BytesPerSecond);

/// <summary>Counts bytes of all connections, and says so ten times a second at most. Any thread.</summary>
internal sealed class PullMeter(IProgress<PullProgress>? progress, TimeProvider time)
{
    public const string Downloading = "downloading";
    private static readonly TimeSpan s_pace = TimeSpan.FromMilliseconds(100), s_window = TimeSpan.FromSeconds(5);
    private readonly Lock _gate = new();
    /// <summary>When how many had arrived over the network: the rate is taken over the last seconds.</summary>
    private readonly Queue<(long When, long Arrived)> _samples = new();
    private long _done, _arrived, _said;

    public long Total { get; set; }

    public long Done
    {
        get { lock (_gate) return _done; }
    }

    /// <summary>Bytes over the network.</summary>
    public void Arrived(int bytes)
    {
        lock (_gate)
        {
            _done += bytes;
            _arrived += bytes;
            if (_done < Total && _samples.Count > 0 && time.GetElapsedTime(_said) < s_pace) return;
            Say(Downloading);
        }
    }

    /// <summary>Bytes that were here already, or (negative) that count no longer.</summary>
    public void Found(long bytes)
    {
        lock (_gate) _done += bytes;
    }

    public void Step(string step)
    {
        lock (_gate) Say(step);
    }

    private void Say(string step)
    {
        long now = time.GetTimestamp();
        _said = now;
        _samples.Enqueue((now, _arrived));
        while (_samples.Count > 2 && time.GetElapsedTime(_samples.Peek().When, now) > s_window) _samples.Dequeue();
        (long when, long arrived) = _samples.Peek();
        double seconds = time.GetElapsedTime(when, now).TotalSeconds;
        progress?.Report(new PullProgress(step, _done, Total, seconds > 0 ? (_arrived - arrived) / seconds : 0));
    }
}
