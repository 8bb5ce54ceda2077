using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Hosts;

namespace FlashOrleans.Cli.Chat;

/// <summary>An answer and what it cost.</summary>
internal sealed record Answer
{
    public required string Text { get; init; }
    public required IReadOnlyList<int> Tokens { get; init; }
    public required FinishReason Finish { get; init; }
    public TurnUsage? Usage { get; init; }
    /// <summary>From sending to the first token's arrival.</summary>
    public TimeSpan? First { get; init; }
    /// <summary>From the first token to the last.</summary>
    public TimeSpan Decoding { get; init; }
    public required Snapshot Counters { get; init; }
    public required long ManagedBytes { get; init; }
    public required long ProcessBytes { get; init; }

    public double? TokensPerSecond => Tokens.Count > 1 ? (Tokens.Count - 1) / Decoding.TotalSeconds : null;

    /// <summary>Native memory and the managed heap.</summary>
    public long DramBytes => Counters.NativeBytes + ManagedBytes;

    public string Line => string.Join(" · ", (string[])[
        $"{Tokens.Count} tokens{(Finish == FinishReason.Cancelled ? " (stopped)" : Finish == FinishReason.Length ? " (limit)" : "")}",
        $"{Units.Number(TokensPerSecond)} tok/s",
        $"first token {(First is { } first ? Units.Seconds(first) : "-")}",
        $"flash {(Counters.FlashBytesPerToken is { } bytes ? Units.Bytes(bytes) : "-")}/token{(Counters.Access == "buffered" ? " (buffered)" : "")}",
        $"window hits {Units.Percent(Counters.HitRate)}",
        .. Counters.FalseNegativeRate is { } missed ? [$"missed neurons {Units.Percent(missed)}, chosen right {Units.Percent(Counters.ChosenRight)}"] : Array.Empty<string>(),
        .. Usage is { DraftedTokens: > 0 } u ? [$"drafts right {u.AcceptedTokens} of {u.DraftedTokens}"] : Array.Empty<string>(),
        $"DRAM {Units.Bytes(DramBytes)}"]);

    public object ToJson() => new
    {
        Text,
        Tokens,
        Finish = Finish.ToString().ToLowerInvariant(),
        PromptTokens = Usage?.PromptTokens,
        GeneratedTokens = Tokens.Count,
        DraftedTokens = Usage?.DraftedTokens,
        AcceptedTokens = Usage?.AcceptedTokens,
        TokS = TokensPerSecond,
        TtftMs = First?.TotalMilliseconds,
        Counters.FlashBytesPerToken,
        Counters.HitRate,
        Counters.ZeroNeurons,
        Counters.FalseNegativeRate,
        Counters.ChosenRight,
        DramBytes,
        NativeBytes = Counters.NativeBytes,
        ManagedBytes,
        ProcessBytes,
    };
}
