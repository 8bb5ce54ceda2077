using System.Globalization;
using System.Text;

namespace FlashOrleans.Engine;

/// <summary>What a span of the trace is about.</summary>
public enum TraceKind : byte { Hop, LookAhead, Attention, FeedForward, Flash, Head, Prefetch }

/// <summary>
/// When layers computed, waited and sent, for one look at where a token's time goes. The conductor thread alone records, into an array taken at the start; what comes when it is full is counted and
/// left out. Written as JSON in the trace event format, which chrome://tracing and Perfetto show.
/// </summary>
public sealed class StepTrace(int capacity)
{
    private readonly record struct Span(TraceKind Kind, int Layer, long Start, long End, int Amount);

    private readonly Span[] _spans = new Span[capacity];
    private int _count;
    private bool _on;

    /// <summary>Spans that found no room.</summary>
    public long Lost { get; private set; }

    /// <summary>From here on, what was recorded before is forgotten.</summary>
    public void Start()
    {
        Volatile.Write(ref _count, 0);
        Lost = 0;
        Volatile.Write(ref _on, true);
    }

    public void Stop() => Volatile.Write(ref _on, false);

    internal void Add(TraceKind kind, int layer, long start, long end, int amount = 0)
    {
        if (!Volatile.Read(ref _on)) return;
        if (_count == _spans.Length)
        {
            Lost++;
            return;
        }
        _spans[_count] = new Span(kind, layer, start, end, amount);
        Volatile.Write(ref _count, _count + 1);
    }

    /// <summary>A track per layer, and one for prefetch, whose events say how many units were asked for. Times are microseconds from the first span.</summary>
    public void Write(TextWriter to, TimeProvider time)
    {
        int count = Volatile.Read(ref _count);
        long zero = count == 0 ? 0 : _spans.AsSpan(0, count).ToArray().Min(static s => s.Start);
        var line = new StringBuilder();
        to.WriteLine("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
        for (int i = 0; i < count; i++)
        {
            var s = _spans[i];
            line.Clear().Append(CultureInfo.InvariantCulture, $"{{\"name\":\"{Name(s.Kind)}\",\"cat\":\"{(s.Kind is TraceKind.Flash or TraceKind.Prefetch ? "flash" : s.Kind == TraceKind.Hop ? "hop" : "compute")}\",\"ph\":\"X\",\"pid\":1,\"tid\":{s.Layer},");
            line.Append(CultureInfo.InvariantCulture, $"\"ts\":{time.GetElapsedTime(zero, s.Start).TotalMicroseconds:0.0},\"dur\":{time.GetElapsedTime(s.Start, s.End).TotalMicroseconds:0.0},\"args\":{{\"layer\":{s.Layer},\"amount\":{s.Amount}}}}}{(i + 1 < count ? "," : "")}");
            to.WriteLine(line);
        }
        to.WriteLine("]}");
    }

    private static string Name(TraceKind kind) => kind switch
    {
        TraceKind.Hop => "hop",
        TraceKind.LookAhead => "look-ahead",
        TraceKind.Attention => "attention",
        TraceKind.FeedForward => "feed-forward",
        TraceKind.Flash => "waits for flash",
        TraceKind.Head => "head",
        _ => "prefetch",
    };
}
