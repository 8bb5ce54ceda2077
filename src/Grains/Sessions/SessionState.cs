using FlashOrleans.Abstractions;
using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

/// <summary>What of a session is stored, as its activation knows it. Keys and values are no part of it: they can be computed again from the tokens.</summary>
internal sealed class SessionState
{
    /// <summary>Package hash that the tokens belong to.</summary>
    public string Package { get; set; } = "";
    public TurnRecord? Turn { get; set; }
    /// <summary>The sequence length each token was computed for, where the model rotates positions by it; else empty. As it was read.</summary>
    public int[] Lengths { get; set; } = [];
    /// <summary>When a turn began or ended last, in Unix milliseconds.</summary>
    public long Used { get; set; }
    /// <summary>There is a row of it.</summary>
    public bool Stored { get; set; }
    /// <summary>How many tokens of the history the store holds, and the length that the first was computed for.</summary>
    public int Written { get; set; }
    public int FirstLength { get; set; }
    /// <summary>Start of its token chain, by its scope.</summary>
    public ulong Start { get; set; } = TokenChain.Start;
}

/// <summary>The last turn: enough to continue it, or to show it again. Its generated tokens are the history from <see cref="PromptTokens"/> on.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.turn-record")]
internal sealed record TurnRecord
{
    /// <summary>Without its input: that is the history.</summary>
    [Id(0)] public required TurnRequest Request { get; init; }
    /// <summary>Given or drawn: the same tokens come out however often the turn is continued.</summary>
    [Id(1)] public required ulong Seed { get; init; }
    [Id(2)] public required int PromptTokens { get; init; }
    [Id(3)] public int CachedTokens { get; init; }
    [Id(4)] public FinishReason Finish { get; init; }
    [Id(5)] public string? Error { get; init; }
    /// <summary>Start of the session's token chain, by its scope.</summary>
    [Id(6)] public ulong Start { get; init; }
}
