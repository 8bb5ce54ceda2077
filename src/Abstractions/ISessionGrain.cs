using Orleans.Concurrency;

namespace FlashOrleans.Abstractions;

/// <summary>
/// One conversation: its token history, epoch, sampling options, the turn that runs and the readers of its answer. Keyed by a 128-bit id that
/// the client chooses. One turn at a time; the data plane (<see cref="Deliver"/>, <see cref="Fault"/>) and <see cref="Cancel"/> interleave.
/// </summary>
[Alias("flashorleans.session")]
public interface ISessionGrain : IGrainWithGuidKey
{
    /// <summary>Starts a turn. The same <see cref="TurnRequest.TurnId"/> again attaches and never runs twice; a different one while a turn runs
    /// throws <see cref="SessionBusyException"/>; a request that cannot be served throws <see cref="TurnRejectedException"/>.</summary>
    [Alias("start"), ResponseTimeout("00:00:30")]
    Task<TurnAccepted> StartTurn(TurnRequest request);

    /// <summary>The chunks of a turn from an index on, as they come. Generation pauses while 16 chunks wait unread. A turn that is over is replayed from
    /// memory. The last chunk has <see cref="TokenChunk.Finish"/> set; a stream that ends without it (after two silent seconds, or because the grain moved)
    /// is asked for again from the next index.</summary>
    [Alias("read")]
    IAsyncEnumerable<TokenChunk> Read(Guid turnId, int fromIndex, CancellationToken cancellationToken = default);

    /// <summary>Ends a turn as <see cref="FinishReason.Cancelled"/>: no further step is submitted and the one in flight is dropped wherever it waits. Tokens so far are kept.</summary>
    [Alias("cancel"), AlwaysInterleave, ResponseTimeout("00:00:10")]
    Task Cancel(Guid turnId);

    /// <summary>A client is done with a turn that may not be over: cancels it if it is of the kind that ends with its readers
    /// (<see cref="TurnRequest.CancelOnDisconnect"/>) and nobody reads it now.</summary>
    [Alias("leave"), AlwaysInterleave, ResponseTimeout("00:00:10")]
    Task Leave(Guid turnId);

    /// <summary>Cancels what runs, frees the session's keys and values in every layer, forgets the history.</summary>
    [Alias("close"), ResponseTimeout("00:00:10")]
    Task Close();

    /// <summary><see cref="Close"/>, but what the layers computed stays, while there is room, for a session of the same scope that begins the same way.</summary>
    [Alias("retire"), ResponseTimeout("00:00:10")]
    Task Retire();
    /// <summary>Closes the session unless a turn runs or it was used at that time (Unix milliseconds) or later. True when it is gone.</summary>
    [Alias("expire"), ResponseTimeout("00:00:30")]
    Task<bool> Expire(long unusedSince);

    /// <summary>The token history: prompts and answers.</summary>
    [Alias("tokens"), AlwaysInterleave, ResponseTimeout("00:00:10")]
    Task<int[]> Tokens();

    [Alias("report"), AlwaysInterleave, ResponseTimeout("00:00:10")]
    Task<SessionReport> Report();

    /// <summary>From the last layer's grain: what a step produced. Acknowledged, and held by its sender until then: an outcome on its way is in somebody's hands.</summary>
    [Alias("deliver"), AlwaysInterleave]
    ValueTask Deliver(StepOutcome outcome);

    /// <summary>From any layer's grain: why a step did not get through. Acknowledged like <see cref="Deliver"/>.</summary>
    [Alias("fault"), AlwaysInterleave]
    ValueTask Fault(StepFailure failure);
}
