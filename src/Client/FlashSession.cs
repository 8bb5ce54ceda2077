using System.Runtime.CompilerServices;
using FlashOrleans.Abstractions;

namespace FlashOrleans.Client;

/// <summary>One conversation. Its history lives in the cluster; this is a handle that any process may open again by id.</summary>
public sealed class FlashSession
{
    private readonly ISessionGrain _grain;
    private readonly Resilience _resilience;

    internal FlashSession(Guid id, ISessionGrain grain, Resilience resilience)
    {
        Id = id;
        _grain = grain;
        _resilience = resilience;
    }

    public Guid Id { get; }

    /// <summary>
    /// Sends a turn and streams its answer. Sending a turn again (same <see cref="TurnRequest.TurnId"/>) attaches to it. Cancelling, or leaving
    /// the loop early, cancels the turn when <see cref="TurnRequest.CancelOnDisconnect"/> is set (the default) and nobody else reads it. When the connection is lost the
    /// stream resumes at the last index it had. The last chunk has <see cref="TokenChunk.Finish"/> set; failures are chunks too, exceptions mean
    /// that the turn could not be started (<see cref="TurnRejectedException"/>, <see cref="SessionBusyException"/>, <see cref="ModelNotFoundException"/>)
    /// or the cluster could not be reached.
    /// </summary>
    public IAsyncEnumerable<TokenChunk> SendAsync(TurnRequest turn, CancellationToken cancellationToken = default) => ResumeAsync(turn, 0, cancellationToken);

    /// <summary>
    /// As <see cref="SendAsync"/>, from a chunk on: what a client does that has the chunks before it, perhaps from another process, or before the cluster was started anew. The turn should be one
    /// that outlives its readers (<see cref="TurnRequest.CancelOnDisconnect"/> false): without a reader it waits for <c>GrainOptions.ReaderLease</c>, and over a restart for as long as its session is kept.
    /// </summary>
    public async IAsyncEnumerable<TokenChunk> ResumeAsync(TurnRequest turn, int fromIndex, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(turn);
        bool over = false;
        try
        {
            await StartAsync(turn, cancellationToken);
            await foreach (TokenChunk chunk in ReadAsync(turn.TurnId, fromIndex, cancellationToken))
            {
                over = chunk.Finish != FinishReason.None;
                yield return chunk;
            }
            over = true;
        }
        finally
        {
            // Said outright, so that the cluster need not conclude it from a stream that is gone or was never opened. It decides: somebody else may be reading.
            if (!over && turn.CancelOnDisconnect) await QuietlyAsync(_grain.Leave(turn.TurnId));
        }
    }

    /// <summary>Starts a turn without reading it.</summary>
    public async Task<TurnAccepted> StartAsync(TurnRequest turn, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(turn);
        return await _resilience.OpenAsync(async token => await _grain.StartTurn(turn).WaitAsync(token), cancellationToken);
    }

    /// <summary>Streams a turn that was started, from an index on; resumes by itself when the connection is lost.</summary>
    public async IAsyncEnumerable<TokenChunk> ReadAsync(Guid turnId, int fromIndex = 0, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        int next = fromIndex, failures = 0;
        while (true)
        {
            // A stream that ends without a last chunk goes on elsewhere, or later: it is asked for again. One that fails is, after the grain answered.
            bool lost = false;
            IAsyncEnumerator<TokenChunk> reader = _grain.Read(turnId, next, cancellationToken).GetAsyncEnumerator(cancellationToken);
            try
            {
                while (true)
                {
                    try
                    {
                        if (!await reader.MoveNextAsync()) break;
                    }
                    catch (Exception e) when (IsLoss(e, cancellationToken) && ++failures <= Resilience.MaxAttempts)
                    {
                        lost = true;
                        break;
                    }
                    TokenChunk chunk = reader.Current;
                    next = chunk.Index + 1;
                    failures = 0;
                    yield return chunk;
                    if (chunk.Finish != FinishReason.None) yield break;
                }
            }
            finally
            {
                // A lost stream is not worth waiting for: its other end may be gone.
                Task leaving = QuietlyAsync(reader.DisposeAsync().AsTask());
                if (!lost) await leaving;
            }
            if (lost) await _resilience.OpenAsync(async token => await _grain.Report().WaitAsync(token), cancellationToken);
        }
    }

    /// <summary>Stops a turn; the tokens it has are kept.</summary>
    public Task CancelAsync(Guid turnId) => _grain.Cancel(turnId);

    /// <summary>Forgets the history and frees the session's keys and values.</summary>
    public Task CloseAsync() => _grain.Close();

    /// <summary>Forgets the history; what was computed stays, while there is room, for a session of the same scope that begins the same way.</summary>
    public Task RetireAsync() => _grain.Retire();

    public Task<int[]> GetTokensAsync() => _grain.Tokens();

    public Task<SessionReport> GetReportAsync() => _grain.Report();

    // A grain that leaves memory cancels its streams, which nobody here asked for.
    private static bool IsLoss(Exception error, CancellationToken cancellationToken) =>
        (Resilience.IsTransient(error) || error is OperationCanceledException) && !cancellationToken.IsCancellationRequested;

    private static async Task QuietlyAsync(Task task)
    {
        try
        {
            await task;
        }
        catch (Exception)
        {
            // The other side notices by itself.
        }
    }
}
