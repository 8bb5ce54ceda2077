using System.Collections.Concurrent;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Threading.Channels;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Grains;
using FlashOrleans.Models.Text;
using Microsoft.Extensions.Logging;

namespace FlashOrleans.Silo.Http;

/// <summary>One request on its way: what was asked for, and from the first piece on what model and tokenizer that means.</summary>
internal sealed class Job(Plan plan)
{
    public Plan Plan => plan;
    public ModelInfo Model { get; set; } = null!;
    /// <summary>Only where log-probabilities want the names of tokens.</summary>
    public TextCodec? Text { get; set; }
    public Admission.Ticket? Ticket { get; set; }

    /// <summary>What a stream says while there is nothing else to say: where in the queue it is, once it is known for how long.</summary>
    public string Comment() => Ticket?.Place switch
    {
        { Wait: { } wait } place => string.Create(CultureInfo.InvariantCulture, $"ping: queued behind {place.Ahead}, about {Math.Ceiling(wait.TotalSeconds)} s"),
        { } place => string.Create(CultureInfo.InvariantCulture, $"ping: queued behind {place.Ahead}"),
        null => "ping",
    };
}

/// <summary>A chunk of one of a request's answers.</summary>
internal readonly record struct Piece(int Choice, TokenChunk Chunk);

/// <summary>
/// Plans to answers: waits to be let in, has one session for each choice make its turn, and gives the chunks as they come. Ending the enumeration early, or
/// cancelling it, cancels the turns. A session made for one request is closed when that ends, and its id used again: an activation that was closed is as good as new; what it computed
/// stays cached for whoever sends the same beginning. Any thread.
/// </summary>
internal sealed class Generator(FlashClient client, LayerHost host, Admission admission, HttpInstruments instruments, ILogger logger, TimeProvider time)
{
    private readonly ConcurrentBag<Guid> _spare = [];

    /// <summary>Throws what an <see cref="ApiError"/> says: a turn that fails before or after its first chunk, too.</summary>
    public async IAsyncEnumerable<Piece> RunAsync(Job job, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        long arrived = time.GetTimestamp();
        Plan plan = job.Plan;
        // Before the queue: nobody should wait to hear that there is no such model.
        ModelInfo model = job.Model = await client.GetModelAsync(plan.Model, cancellationToken);
        if (!model.HasTokenizer && (plan.Tokens is null || plan.Stops.Length > 0 || plan.Logs))
            throw new ApiException(ApiError.Wrong("model", $"the model '{plan.Model}' has no tokenizer: send token ids as a prompt of /v1/completions, without stop and logprobs"));
        if (plan.Logs) job.Text = await host.TextAsync(model.Package).WaitAsync(cancellationToken);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, admission.Cut);
        using Admission.Ticket ticket = job.Ticket = await HasBegunAsync(plan) ? admission.Join(plan.User) : admission.Enter(plan.User, plan.Choices);
        await ticket.Admitted.WaitAsync(cancellationToken);
        var pieces = plan.Choices == 1 ? ChoiceAsync(plan, model, 0, arrived, either.Token) : MergeAsync(plan, model, arrived, either.Token);
        await using var reader = pieces.GetAsyncEnumerator(either.Token);
        while (true)
        {
            try
            {
                if (!await reader.MoveNextAsync()) break;
            }
            catch (OperationCanceledException) when (admission.Cut.IsCancellationRequested)
            {
                throw new ApiException(ApiError.Stopping);
            }
            yield return reader.Current;
        }
        instruments.Finished(plan.Model, time.GetElapsedTime(arrived));
    }

    /// <summary>The client comes back to a turn that is there: it goes on with or without readers, and who stood in the queue meanwhile would be taken for gone.</summary>
    private async Task<bool> HasBegunAsync(Plan plan) =>
        plan is { Session: { } session, TurnId: { } turn } && (await client.OpenSession(session).GetReportAsync()).TurnId == turn;

    /// <summary>Several answers to one question, as their chunks come.</summary>
    private async IAsyncEnumerable<Piece> MergeAsync(Plan plan, ModelInfo model, long arrived, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        // Small: who reads slowly slows the turns down.
        var pieces = Channel.CreateBounded<Piece>(plan.Choices);
        using var end = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        // The first answer computes the prompt, the others take it up.
        var read = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Task all = PumpAllAsync();
        try
        {
            await foreach (Piece piece in pieces.Reader.ReadAllAsync(cancellationToken)) yield return piece;
        }
        finally
        {
            await end.CancelAsync();
            await all.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }

        async Task PumpAllAsync()
        {
            try
            {
                await Task.WhenAll(Enumerable.Range(0, plan.Choices).Select(PumpAsync));
                pieces.Writer.Complete();
            }
            catch (Exception e)
            {
                pieces.Writer.Complete(e);
            }
        }

        async Task PumpAsync(int choice)
        {
            try
            {
                if (choice > 0) await read.Task.WaitAsync(end.Token);
                await foreach (Piece piece in ChoiceAsync(plan, model, choice, arrived, end.Token))
                {
                    read.TrySetResult();
                    await pieces.Writer.WriteAsync(piece, end.Token);
                }
                read.TrySetResult();
            }
            catch (Exception e)
            {
                // One that fails ends the others; why is what the reader hears first.
                pieces.Writer.TryComplete(e);
                await end.CancelAsync();
                throw;
            }
        }
    }

    private async IAsyncEnumerable<Piece> ChoiceAsync(Plan plan, ModelInfo model, int choice, long arrived, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        TurnRequest turn = plan.Turn(model, choice);
        FlashSession? session = choice == 0 && plan.Session is { } id ? await StartAsync(id, turn, plan.AnySession, cancellationToken) : null;
        FlashSession? own = null;
        if (session is null)
        {
            session = own = client.OpenSession(_spare.TryTake(out Guid spare) ? spare : null);
            turn = turn with { Keep = false };
        }
        try
        {
            long last = arrived;
            // The last chunk that the client has comes again, unsaid: it may be the last of all.
            await foreach (TokenChunk chunk in session.ResumeAsync(turn, Math.Max(0, plan.From - 1), cancellationToken))
            {
                if (chunk.TokenId >= 0)
                {
                    instruments.Token(plan.Model, chunk.Index == 0, time.GetElapsedTime(last));
                    last = time.GetTimestamp();
                }
                if (chunk.Finish is FinishReason.Failed) throw new ApiException(new ApiError(500, chunk.Error ?? "the answer failed", ApiError.Server, Code: "generation_failed"));
                if (chunk.Finish is FinishReason.Cancelled or FinishReason.Abandoned)
                    throw new ApiException(new ApiError(500, "the answer was cancelled before its end", ApiError.Server, Code: "cancelled"));
                if (chunk is { Finish: not FinishReason.None, Usage: { } usage }) instruments.Ended(plan.Model, chunk.Finish, usage, first: choice == 0);
                yield return new Piece(choice, chunk);
            }
        }
        finally
        {
            if (own is not null) await CloseAsync(own);
        }
    }

    /// <summary>The session with its turn under way; null when it is busy and any other will do.</summary>
    private async Task<FlashSession?> StartAsync(Guid id, TurnRequest turn, bool any, CancellationToken cancellationToken)
    {
        FlashSession session = client.OpenSession(id);
        try
        {
            await session.StartAsync(turn, cancellationToken);
            return session;
        }
        catch (SessionBusyException) when (any)
        {
            return null;
        }
        catch (OperationCanceledException)
        {
            // It may have started all the same.
            if (turn.CancelOnDisconnect) await QuietlyAsync(session.CancelAsync(turn.TurnId));
            throw;
        }
    }

    private async Task CloseAsync(FlashSession session)
    {
        if (await QuietlyAsync(session.RetireAsync())) _spare.Add(session.Id);
    }

    private async Task<bool> QuietlyAsync(Task task)
    {
        try
        {
            await task;
            return true;
        }
        catch (Exception e)
        {
            logger.LogWarning(e, "a session could not be closed");
            return false;
        }
    }
}
