using FlashOrleans.Abstractions;

namespace FlashOrleans.Cli.Bench;

/// <summary>
/// What is guessed in a measured run: as in service (from the session's tokens, or by a draft model), or, where a model's text is noise, from what a run before it said, each token right with a probability. Such an
/// acceptance is a supposition, and every row of it says so.
/// </summary>
/// <param name="Speculate">As in service.</param>
/// <param name="Count">So many a step; 0: as many as pay.</param>
/// <param name="Acceptance">Share of guesses that are right; null: as in service.</param>
internal sealed record BenchDrafts(Speculation Speculate, int Count, double? Acceptance)
{
    /// <summary>What each session said in the run before.</summary>
    public int[][] Recorded { get; init; } = [];
    public int Vocabulary { get; init; }

    public TurnRequest Over(TurnRequest turn, int session)
    {
        turn = turn with { Speculate = Speculate, Drafts = Count };
        if (Acceptance is not { } right) return turn;
        var random = new Random(1000 + session);
        return turn with { Prediction = [.. Recorded[session].Select(t => random.NextDouble() < right ? t : (t + 1) % Vocabulary)] };
    }

    /// <summary>What a row of it is called.</summary>
    public override string ToString() =>
        (Count > 0 ? $"{Count} drafts" : $"drafts: {Speculate.ToString().ToLowerInvariant()}") + (Acceptance is { } right ? $", synthetic acceptance {Units.Number(right)}" : "");
}
