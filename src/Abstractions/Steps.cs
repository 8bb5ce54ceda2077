namespace FlashOrleans.Abstractions;

/// <summary>What leaves the tail for one step of one session, on its way to the session grain.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.step-outcome")]
public sealed class StepOutcome
{
    [Id(0)] public required int Epoch { get; init; }
    [Id(1)] public required long Step { get; init; }
    /// <summary>Position after the step, drafts that were wrong left out.</summary>
    [Id(2)] public required int End { get; init; }
    /// <summary>The sampled token, or -1 when none was asked for.</summary>
    [Id(3)] public required int Token { get; init; }
    [Id(4)] public float LogProbability { get; init; }
    [Id(5)] public TokenLogit[]? Top { get; init; }
    [Id(6)] public float[]? Nll { get; init; }
    [Id(7)] public float Logit { get; init; }
    /// <summary>Tokens behind the first: one for each draft that was right. Null: none.</summary>
    [Id(8)] public SampledTokenOutcome[]? More { get; init; }
}

/// <summary>A token that was sampled behind a right draft.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.sampled-token")]
public readonly record struct SampledTokenOutcome([property: Id(0)] int Token, [property: Id(1)] float LogProbability, [property: Id(2)] float Logit, [property: Id(3)] TokenLogit[]? Top);

[GenerateSerializer, Alias("flashorleans.failure-kind")]
public enum FailureKind
{
    /// <summary>The layer's keys and values do not reach the step's position, or hold other tokens: replay.</summary>
    KvMiss = 0,
    /// <summary>Flash could not be read: ends the turn.</summary>
    Flash = 1,
    /// <summary>The layer is not there: submit again.</summary>
    Unavailable = 2,
    /// <summary>The step itself is wrong: ends the turn.</summary>
    Rejected = 3,
}

/// <summary>Why a step did not get through a layer.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.step-failure")]
public sealed class StepFailure
{
    [Id(0)] public required int Epoch { get; init; }
    [Id(1)] public required long Step { get; init; }
    [Id(2)] public required FailureKind Kind { get; init; }
    [Id(3)] public required string Message { get; init; }
    /// <summary>Positions the layer holds (KV miss).</summary>
    [Id(4)] public int Length { get; init; }
    /// <summary>Token hash at <see cref="Length"/> (KV miss).</summary>
    [Id(5)] public ulong Hash { get; init; }
}
