using FlashOrleans.Abstractions;

namespace FlashOrleans.Grains;

/// <summary>What sessions and layer grains of one silo run with.</summary>
public sealed record GrainOptions
{
    /// <summary>Input tokens per step.</summary>
    public int PrefillChunk { get; init; } = 64;
    /// <summary>Sessions share what they begin with in common whoever they belong to. What one user sent before can then be told from another's time to the first token.</summary>
    public bool SharePrefixes { get; init; }
    /// <summary>Chunks that may wait unread before a session stops generating.</summary>
    public int MaxUnread { get; init; } = 16;
    /// <summary>How long a turn waits for a reader to come back before it ends as abandoned.</summary>
    public TimeSpan ReaderLease { get; init; } = TimeSpan.FromSeconds(30);
    /// <summary>A step is not doubted before this age, nor before eight times the usual step.</summary>
    public TimeSpan WatchdogMinDelay { get; init; } = TimeSpan.FromMilliseconds(500);
    /// <summary>Attempts per step while a layer is unavailable.</summary>
    public int MaxAttempts { get; init; } = 20;
    /// <summary>Wait before the second attempt; doubles up to a second.</summary>
    public TimeSpan RetryDelay { get; init; } = TimeSpan.FromMilliseconds(20);
    /// <summary>Whether sessions guess what follows, where a request does not say.</summary>
    public Speculation Speculate { get; init; } = Speculation.Auto;
}
