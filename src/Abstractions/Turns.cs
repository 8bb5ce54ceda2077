namespace FlashOrleans.Abstractions;

/// <summary>How tokens are chosen. Temperature 0 is greedy. Randomness is a function of (seed, position); a session draws and keeps a seed when none is given.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.sampling")]
public sealed record SamplingOptions
{
    [Id(0)] public float Temperature { get; init; }
    /// <summary>Keep the smallest set of tokens whose probability reaches this; 1 keeps all.</summary>
    [Id(1)] public float TopP { get; init; } = 1;
    /// <summary>Keep tokens with at least this share of the best one's probability; 0 keeps all.</summary>
    [Id(2)] public float MinP { get; init; }
    /// <summary>Keep the k best; 0 keeps all.</summary>
    [Id(3)] public int TopK { get; init; }
    [Id(4)] public ulong? Seed { get; init; }
}

/// <summary>One message of a conversation.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.message")]
public sealed record ChatTurn([property: Id(0)] string Role, [property: Id(1)] string Content);

/// <summary>What the input of a turn does to the session's history.</summary>
[GenerateSerializer, Alias("flashorleans.input-mode")]
public enum InputMode
{
    /// <summary>Continues after what the session holds.</summary>
    Append = 0,
    /// <summary>The input is the whole history; computed keys and values are kept as far as the tokens agree.</summary>
    Replace = 1,
}

/// <summary>Who guesses what follows.</summary>
[GenerateSerializer, Alias("flashorleans.speculation")]
public enum Speculation
{
    /// <summary>As the silo does.</summary>
    Default = 0,
    Off = 1,
    /// <summary>The session's own tokens, where it pays.</summary>
    Lookup = 2,
    /// <summary>They, and a draft model if the silo has one, where it pays.</summary>
    Auto = 3,
}

/// <summary>One request for an answer. Exactly one of <see cref="Text"/>, <see cref="Messages"/> and <see cref="Tokens"/>.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.turn")]
public sealed record TurnRequest
{
    /// <summary>Made by the client; sending it again attaches to the same turn.</summary>
    [Id(0)] public Guid TurnId { get; init; } = Guid.NewGuid();
    /// <summary>Model name, or a path to a package.</summary>
    [Id(1)] public required string Model { get; init; }
    /// <summary>Raw text to continue, without a chat template.</summary>
    [Id(2)] public string? Text { get; init; }
    /// <summary>Messages to render with the model's chat template.</summary>
    [Id(3)] public ChatTurn[]? Messages { get; init; }
    [Id(4)] public int[]? Tokens { get; init; }
    [Id(5)] public InputMode Input { get; init; }
    /// <summary>Tokens to generate at most; 0 only reads the input (with <see cref="Score"/> or <see cref="TopLogits"/>).</summary>
    [Id(6)] public int MaxTokens { get; init; } = 512;
    [Id(7)] public SamplingOptions Sampling { get; init; } = new();
    /// <summary>Ids that end the answer; null takes the model's, an empty array none.</summary>
    [Id(8)] public int[]? StopTokens { get; init; }
    /// <summary>How many best (id, logit) pairs each chunk carries.</summary>
    [Id(9)] public int TopLogits { get; init; }
    /// <summary>Also returns the negative log-likelihood of the input's tokens (perplexity), in the last chunk.</summary>
    [Id(10)] public bool Score { get; init; }
    /// <summary>A reader that leaves before the end cancels the turn, unless another one reads. False: the turn stays for a lease, so that a reader can come back.</summary>
    [Id(11)] public bool CancelOnDisconnect { get; init; } = true;
    /// <summary>Input tokens per step; 0 takes the silo's (64).</summary>
    [Id(12)] public int PrefillChunk { get; init; }
    /// <summary>Texts that end the answer, which stops short of the first of them: at most <see cref="MaxStopStrings"/> of at most <see cref="MaxStopLength"/> characters.
    /// Text that may yet become one is held back until it is known not to.</summary>
    [Id(13)] public string[]? StopStrings { get; init; }
    /// <summary>False, in a session that is not kept yet: nothing of it is stored, and it ends with its silo. For a session of one turn that is closed afterwards.</summary>
    [Id(14)] public bool Keep { get; init; } = true;

    /// <summary>Whose it is: sessions of one scope share what they begin with in common. Null: the session's own, or as it was.</summary>
    [Id(16)] public string? Scope { get; init; }
    /// <summary>Whether what may follow is guessed and verified, several tokens in one step. The tokens are the same either way.</summary>
    [Id(20)] public Speculation Speculate { get; init; }
    /// <summary>What the answer will probably be, token by token: guesses are taken from it, at the index that the answer has reached.</summary>
    [Id(21)] public int[]? Prediction { get; init; }
    /// <summary>What the answer will probably be, as text: where the answer goes another way, guesses go on from where the two meet again.</summary>
    [Id(23)] public string? PredictionText { get; init; }
    /// <summary>Where the history leaves no room for an answer its oldest tokens are dropped, half a context at a time, and the answer is that of a session which begins with what is kept. False: such a turn is refused.</summary>
    [Id(24)] public bool Shift { get; init; }
    /// <summary>So many guesses a step, where there are so many (at most 8): for measurements. 0: as many as pay.</summary>
    [Id(22)] public int Drafts { get; init; }

    /// <summary>Who asks, for a fair share of what prompts take. Null: the session is a user of its own.</summary>
    [Id(15)] public string? User { get; init; }

    public const int MaxStopStrings = 16, MaxStopLength = 256;
}

/// <summary>A turn was started, or found running or finished.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.turn-accepted")]
public sealed record TurnAccepted
{
    [Id(0)] public required Guid TurnId { get; init; }
    /// <summary>The turn was already known.</summary>
    [Id(1)] public bool Attached { get; init; }
    /// <summary>Tokens of the whole history including the input.</summary>
    [Id(2)] public int PromptTokens { get; init; }
    /// <summary>Of those, how many were already computed for this session.</summary>
    [Id(3)] public int CachedTokens { get; init; }
    [Id(4)] public ulong Seed { get; init; }
    [Id(5)] public required string Package { get; init; }
}

[GenerateSerializer, Alias("flashorleans.finish")]
public enum FinishReason
{
    /// <summary>Not over.</summary>
    None = 0,
    /// <summary>A stop token or a stop string.</summary>
    Stop = 1,
    /// <summary>As many tokens as were asked for, or the end of the model's context.</summary>
    Length = 2,
    Cancelled = 3,
    /// <summary>No reader came back within the lease.</summary>
    Abandoned = 4,
    /// <summary>See <see cref="TokenChunk.Error"/>.</summary>
    Failed = 5,
}

/// <summary>One token of an answer, or (TokenId -1) the end of one that ended without a token.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.chunk")]
public sealed record TokenChunk
{
    /// <summary>Numbered from 0 within the turn: where to resume reading.</summary>
    [Id(0)] public required int Index { get; init; }
    [Id(1)] public required int TokenId { get; init; }
    /// <summary>What this token adds to the text: whole characters only, and nothing that may be the beginning of a stop string, so it may be empty.</summary>
    [Id(2)] public string Text { get; init; } = "";
    /// <summary>Since the turn was accepted.</summary>
    [Id(3)] public TimeSpan Elapsed { get; init; }
    [Id(4)] public float LogProbability { get; init; }
    [Id(5)] public TokenLogit[]? Top { get; init; }
    /// <summary>On the last chunk.</summary>
    [Id(6)] public FinishReason Finish { get; init; }
    /// <summary>On the last chunk.</summary>
    [Id(7)] public TurnUsage? Usage { get; init; }
    /// <summary>On the last chunk of a failed turn: one line, what and what to do.</summary>
    [Id(8)] public string? Error { get; init; }
    /// <summary>On the last chunk of a turn with <see cref="TurnRequest.Score"/>: per input position the negative log-likelihood of the next token; the last is NaN.</summary>
    [Id(9)] public float[]? InputNll { get; init; }
    /// <summary>The token's logit. Less <see cref="LogProbability"/> it is what turns the logits of <see cref="Top"/> into log-probabilities.</summary>
    [Id(10)] public float Logit { get; init; }
    /// <summary>On the last chunk: which of <see cref="TurnRequest.StopStrings"/> ended the answer.</summary>
    [Id(11)] public string? StopString { get; init; }
}

[GenerateSerializer, Immutable, Alias("flashorleans.logit")]
public readonly record struct TokenLogit([property: Id(0)] int Id, [property: Id(1)] float Logit);

[GenerateSerializer, Immutable, Alias("flashorleans.usage")]
public sealed record TurnUsage
{
    [Id(0)] public int PromptTokens { get; init; }
    [Id(1)] public int CachedTokens { get; init; }
    [Id(2)] public int GeneratedTokens { get; init; }
    [Id(3)] public TimeSpan TimeToFirstToken { get; init; }
    [Id(4)] public TimeSpan Total { get; init; }
    /// <summary>Guesses that were verified, and those of them that became part of the answer.</summary>
    [Id(10)] public int DraftedTokens { get; init; }
    [Id(11)] public int AcceptedTokens { get; init; }
}

/// <summary>Counters of a session since it was activated, and where it stands.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.session-report")]
public sealed record SessionReport
{
    [Id(0)] public int Epoch { get; init; }
    [Id(1)] public int Length { get; init; }
    [Id(2)] public int Computed { get; init; }
    [Id(3)] public Guid TurnId { get; init; }
    [Id(4)] public bool Running { get; init; }
    [Id(5)] public FinishReason Finish { get; init; }
    /// <summary>Chunks nobody has read yet.</summary>
    [Id(6)] public int Unread { get; init; }
    [Id(7)] public int Readers { get; init; }
    /// <summary>Steps submitted, replays and resubmissions included.</summary>
    [Id(8)] public long Steps { get; init; }
    /// <summary>KV misses answered by going back.</summary>
    [Id(9)] public long Replays { get; init; }
    /// <summary>Steps given up as lost and submitted again under a new epoch.</summary>
    [Id(10)] public long Resubmits { get; init; }
    /// <summary>Results and faults that belonged to no step in flight.</summary>
    [Id(11)] public long Stale { get; init; }
    /// <summary>Times the watchdog asked and some host still held the step.</summary>
    [Id(12)] public long StillHeld { get; init; }
    [Id(13)] public int Generated { get; init; }
    /// <summary>Guesses that were verified, and those of them that became part of answers.</summary>
    [Id(20)] public long Drafted { get; init; }
    [Id(21)] public long Accepted { get; init; }
}
