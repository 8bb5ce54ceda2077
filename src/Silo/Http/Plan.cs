using FlashOrleans.Abstractions;

namespace FlashOrleans.Silo.Http;

/// <summary>What a request asks for, checked as far as that goes without its model.</summary>
internal sealed record Plan
{
    public required string Model { get; init; }
    /// <summary>Exactly one of these three.</summary>
    public ChatTurn[]? Messages { get; init; }
    public string? Text { get; init; }
    public int[]? Tokens { get; init; }
    /// <summary>Null: to the end of the context.</summary>
    public int? MaxTokens { get; init; }
    /// <summary>Null: what the model's makers recommend.</summary>
    public float? Temperature { get; init; }
    public float? TopP { get; init; }
    public int? TopK { get; init; }
    public float? MinP { get; init; }
    public long? Seed { get; init; }
    public Speculation Speculate { get; init; }
    /// <summary>What the answer will probably be.</summary>
    public string? Prediction { get; init; }
    /// <summary>A conversation that is too long loses its oldest part instead of being refused.</summary>
    public bool Shift { get; init; }
    public int Choices { get; init; } = 1;
    public string[] Stops { get; init; } = [];
    /// <summary>Ids that end an answer beside the model's own, which <see cref="IgnoreEos"/> leaves out.</summary>
    public int[] StopTokens { get; init; } = [];
    public bool IgnoreEos { get; init; }
    public bool Logs { get; init; }
    public int TopLogs { get; init; }
    public bool Stream { get; init; }
    public bool IncludeUsage { get; init; }
    /// <summary>Who asks, for a fair share: the request's user, else its session, else nobody else.</summary>
    public required string User { get; init; }
    /// <summary>The session that answers; null: one for this request alone.</summary>
    public Guid? Session { get; init; }
    /// <summary>The session is only there to save computing: when it is busy another will do.</summary>
    public bool AnySession { get; init; }

    /// <summary>Whose it is: what it begins with may have been computed for others of the same scope.</summary>
    public required string Scope { get; init; }
    /// <summary>Made by the client: the same one again attaches to its turn, which outlives the connection.</summary>
    public Guid? TurnId { get; init; }
    /// <summary>Chunks before this one the client has.</summary>
    public int From { get; init; }

    /// <summary>The turn of one of the choices.</summary>
    public TurnRequest Turn(ModelInfo model, int choice) => new()
    {
        TurnId = TurnId ?? Guid.NewGuid(),
        CancelOnDisconnect = TurnId is null,
        Model = Model,
        Messages = Messages,
        Text = Text,
        Tokens = Tokens,
        User = User,
        Input = InputMode.Replace,
        MaxTokens = MaxTokens ?? int.MaxValue,
        Sampling = new SamplingOptions
        {
            Temperature = Temperature ?? model.Sampling.Temperature,
            TopP = TopP ?? model.Sampling.TopP,
            TopK = TopK ?? model.Sampling.TopK,
            MinP = MinP ?? model.Sampling.MinP,
            Seed = Seed is { } seed ? unchecked((ulong)seed + (ulong)choice) : null,
        },
        StopTokens = StopTokens.Length == 0 && !IgnoreEos ? null : IgnoreEos ? StopTokens : [.. model.EosTokens, .. StopTokens],
        StopStrings = Stops.Length == 0 ? null : Stops,
        TopLogits = Logs ? TopLogs : 0,
        Speculate = Speculate,
        PredictionText = Prediction,
        Shift = Shift,
        Scope = Scope,
    };
}
