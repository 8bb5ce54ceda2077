namespace FlashOrleans.Engine;

/// <summary>What leaves the tail for one slot: a token and what was asked for beside it.</summary>
public readonly record struct StepResult
{
    public required Guid Session { get; init; }
    public required int Epoch { get; init; }
    public required long Step { get; init; }
    /// <summary>Position after the slot, drafts that were wrong left out: where the next token (with <see cref="More"/> the last of them) goes.</summary>
    public required int End { get; init; }
    /// <summary>The sampled token, or -1 when the slot did not ask for one.</summary>
    public required int Token { get; init; }
    /// <summary>log probability of <see cref="Token"/> before temperature and truncation.</summary>
    public float LogProbability { get; init; }
    /// <summary>The logit of <see cref="Token"/>: less its log probability it is what makes probabilities of those in <see cref="Top"/>.</summary>
    public float Logit { get; init; }
    public (int Id, float Logit)[]? Top { get; init; }
    /// <summary>Negative log-likelihood per position of the slot (Score); the last is NaN without a target.</summary>
    public float[]? Nll { get; init; }
    /// <summary>Tokens behind <see cref="Token"/>: one for each draft that was right. Null: none.</summary>
    public SampledToken[]? More { get; init; }

    /// <summary>Tokens that the step sampled, where it sampled at all.</summary>
    public int Sampled => 1 + (More?.Length ?? 0);

    /// <summary>One of the sampled tokens as the result of a step of its own.</summary>
    public StepResult At(int index)
    {
        if (More == null && index == 0) return this;
        var at = this with { End = End - More!.Length + index, More = null };
        if (index == 0) return at;
        var token = More[index - 1];
        return at with { Token = token.Token, LogProbability = token.LogProbability, Logit = token.Logit, Top = token.Top };
    }
}

/// <summary>A token that was sampled behind a right draft, and what was asked for beside it.</summary>
public readonly record struct SampledToken(int Token, float LogProbability, float Logit, (int Id, float Logit)[]? Top);

public enum FaultKind
{
    /// <summary>The layer's KV does not reach the slot's position or holds other tokens: replay from <see cref="SlotFault.Length"/> if the hashes agree, else from 0.</summary>
    KvMiss,
    /// <summary>Flash could not be read: ends the request.</summary>
    Flash,
    /// <summary>The layer is not here (deactivated, load failed, message lost): resubmit.</summary>
    Unavailable,
    /// <summary>The slot itself is wrong (beyond the context, unknown token id) or the step threw: ends the request.</summary>
    Rejected,
}

/// <summary>Why a slot did not get through a layer.</summary>
public readonly record struct SlotFault(Guid Session, int Epoch, long Step, FaultKind Kind, string Message, int Length = 0, ulong Hash = 0);
