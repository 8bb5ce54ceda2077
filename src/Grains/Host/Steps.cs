using FlashOrleans.Abstractions;
using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

/// <summary>The engine's values and their twins on the wire, and the identity of steps.</summary>
internal static class Steps
{
    public static bool Contains(ReadOnlySpan<Slot> slots, Guid session, int epoch, long step)
    {
        foreach (ref readonly Slot slot in slots)
        {
            if (slot.Session == session && slot.Epoch == epoch && slot.Step == step) return true;
        }
        return false;
    }

    public static StepOutcome ToWire(in StepResult result) => new()
    {
        Epoch = result.Epoch,
        Step = result.Step,
        End = result.End,
        Token = result.Token,
        LogProbability = result.LogProbability,
        Logit = result.Logit,
        Top = Top(result.Top),
        Nll = result.Nll,
        More = result.More is null ? null : Array.ConvertAll(result.More, static t => new SampledTokenOutcome(t.Token, t.LogProbability, t.Logit, Top(t.Top))),
    };

    /// <summary>One token of a step's outcome as a step's of its own.</summary>
    public static StepOutcome At(StepOutcome outcome, int index)
    {
        if (index == 0) return outcome;
        SampledTokenOutcome token = outcome.More![index - 1];
        return new StepOutcome
        {
            Epoch = outcome.Epoch,
            Step = outcome.Step,
            End = outcome.End - outcome.More.Length + index,
            Token = token.Token,
            LogProbability = token.LogProbability,
            Logit = token.Logit,
            Top = token.Top,
        };
    }

    public static StepResult FromWire(Guid session, StepOutcome outcome) => new()
    {
        Session = session,
        Epoch = outcome.Epoch,
        Step = outcome.Step,
        End = outcome.End,
        Token = outcome.Token,
        LogProbability = outcome.LogProbability,
        Logit = outcome.Logit,
        Nll = outcome.Nll,
        More = outcome.More is null ? null : Array.ConvertAll(outcome.More, static t => new SampledToken(t.Token, t.LogProbability, t.Logit, null)),
    };

    private static TokenLogit[]? Top((int Id, float Logit)[]? top) => top is null ? null : Array.ConvertAll(top, static t => new TokenLogit(t.Id, t.Logit));

    public static StepFailure ToWire(in SlotFault fault) => new()
    {
        Epoch = fault.Epoch,
        Step = fault.Step,
        Kind = fault.Kind switch
        {
            FaultKind.KvMiss => FailureKind.KvMiss,
            FaultKind.Flash => FailureKind.Flash,
            FaultKind.Unavailable => FailureKind.Unavailable,
            _ => FailureKind.Rejected,
        },
        Message = fault.Message,
        Length = fault.Length,
        Hash = fault.Hash,
    };

    public static SlotFault FromWire(Guid session, StepFailure failure) => new(session, failure.Epoch, failure.Step, failure.Kind switch
    {
        FailureKind.KvMiss => FaultKind.KvMiss,
        FailureKind.Flash => FaultKind.Flash,
        FailureKind.Unavailable => FaultKind.Unavailable,
        _ => FaultKind.Rejected,
    }, failure.Message, failure.Length, failure.Hash);

    public static LayerCounters ToWire(LayerStats s) => new()
    {
        Waves = s.Waves,
        Rows = s.Rows,
        Slots = s.Slots,
        NeuronsActive = s.NeuronsActive,
        NeuronsComputed = s.NeuronsComputed,
        NeuronsDense = s.NeuronsDense,
        UnitsNeeded = s.UnitsNeeded,
        UnitsHit = s.UnitsHit,
        UnitsLate = s.UnitsLate,
        DemandBytes = s.DemandBytes,
        PrefetchBytes = s.PrefetchBytes,
        PrefetchIssued = s.PrefetchIssued,
        PrefetchUseful = s.PrefetchUseful,
        PredictedUnits = s.PredictedUnits,
        PredictedHit = s.PredictedHit,
        PredictedFor = s.PredictedFor,
        AuditActive = s.AuditActive,
        AuditMissed = s.AuditMissed,
        ComputeNanos = s.ComputeNanos,
        PredictNanos = s.PredictNanos,
        FlashWaitNanos = s.FlashWaitNanos,
        WindowSlots = s.WindowSlots,
        WindowBytes = s.WindowBytes,
        KvBytes = s.KvBytes,
        ResidentBytes = s.ResidentBytes,
    };
}
