using FlashOrleans.Abstractions;

namespace FlashOrleans.Grains;

/// <summary>What a session keeps when its grain leaves memory. Keys and values are no part of it: they can be computed again from the tokens.</summary>
[GenerateSerializer, Alias("flashorleans.session-state")]
internal sealed class SessionState
{
    [Id(0)] public int Epoch { get; set; }
    /// <summary>The history as of the last write: at the start and the end of a turn.</summary>
    [Id(1)] public int[] Tokens { get; set; } = [];
    /// <summary>Package hash that the tokens belong to.</summary>
    [Id(2)] public string Package { get; set; } = "";
    [Id(3)] public TurnRecord? Turn { get; set; }
    /// <summary>The sequence length each token was computed for, where the model rotates positions by it; else empty.</summary>
    [Id(4)] public int[] Lengths { get; set; } = [];
    /// <summary>Start of its token chain, by its scope; 0: not known.</summary>
    [Id(5)] public ulong Start { get; set; }
}

/// <summary>The last turn: enough to continue it, or to show it again. Its generated tokens are the history from <see cref="PromptTokens"/> on.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.turn-record")]
internal sealed record TurnRecord
{
    [Id(0)] public required TurnRequest Request { get; init; }
    /// <summary>Given or drawn: the same tokens come out however often the turn is continued.</summary>
    [Id(1)] public required ulong Seed { get; init; }
    [Id(2)] public required int PromptTokens { get; init; }
    [Id(3)] public int CachedTokens { get; init; }
    [Id(4)] public FinishReason Finish { get; init; }
    [Id(5)] public string? Error { get; init; }
}
