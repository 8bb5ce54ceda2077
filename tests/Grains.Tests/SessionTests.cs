using FlashOrleans.Abstractions;
using FlashOrleans.Client;

namespace FlashOrleans.Grains.Tests;

/// <summary>Turns: one at a time, attached to rather than repeated, cancelled, resumed, refused.</summary>
public sealed class SessionTests : IAsyncLifetime
{
    private readonly TestModel _model = new();
    private GrainCluster _cluster = null!;

    public async ValueTask InitializeAsync() => _cluster = await GrainCluster.StartAsync(_model.Folder);

    public async ValueTask DisposeAsync()
    {
        await _cluster.DisposeAsync();
        _model.Dispose();
    }

    private FlashClient Client => _cluster.Client;

    [Fact]
    public async Task The_same_turn_sent_again_attaches_and_is_not_run_twice()
    {
        FlashSession session = Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 40, new SamplingFacts(1, 5));
        List<TokenChunk>[] both = await Task.WhenAll(session.SendAsync(turn).AllAsync(), session.SendAsync(turn).AllAsync());
        List<TokenChunk> again = await session.SendAsync(turn).AllAsync();
        int[] alone = _model.TokensAlone(_model.Prompt(1), 40, new SamplingFacts(1, 5));
        Assert.Equal(alone, both[0].Tokens());
        Assert.Equal(alone, both[1].Tokens());
        Assert.Equal(alone, again.Tokens());
        Assert.Equal(40, (await session.GetReportAsync()).Steps);
        int[] history = await session.GetTokensAsync();
        Assert.Equal([.. _model.Prompt(1), .. alone], history);
    }

    [Fact]
    public async Task A_second_turn_while_one_runs_is_refused_and_says_which_one_runs()
    {
        FlashSession session = Client.OpenSession();
        TurnRequest first = Turns.Of(_model.Prompt(1), 500);
        await session.StartAsync(first);
        var busy = await Assert.ThrowsAsync<SessionBusyException>(() => session.StartAsync(Turns.Of([5], 1)));
        Assert.Equal(first.TurnId, busy.TurnId);
        await session.CancelAsync(first.TurnId);
        await session.StartAsync(Turns.Of([5], 1));
    }

    [Fact]
    public async Task A_second_turn_continues_the_history_and_computes_only_what_is_new()
    {
        FlashSession session = Client.OpenSession();
        List<TokenChunk> first = await session.SendAsync(Turns.Of(_model.Prompt(1, 20), 10)).AllAsync();
        List<TokenChunk> second = await session.SendAsync(Turns.Of(_model.Prompt(2, 7), 10)).AllAsync();
        int[] history = [.. _model.Prompt(1, 20), .. first.Tokens(), .. _model.Prompt(2, 7)];
        Assert.Equal(_model.TokensAlone(history, 10), second.Tokens());
        // The last token of the first answer had not been computed.
        Assert.Equal(29, second[^1].Usage!.CachedTokens);
        Assert.Equal(37, second[^1].Usage!.PromptTokens);
    }

    [Fact]
    public async Task Replacing_the_history_keeps_what_agrees()
    {
        FlashSession session = Client.OpenSession();
        await session.SendAsync(Turns.Of(_model.Prompt(1, 30), 5)).AllAsync();
        int[] edited = [.. _model.Prompt(1, 30)[..17], 9, 9, 9];
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of(edited, 12) with { Input = InputMode.Replace }).AllAsync();
        Assert.Equal(_model.TokensAlone(edited, 12), chunks.Tokens());
        Assert.Equal(17, chunks[^1].Usage!.CachedTokens);
        // And the same again, of which everything but the last token is there.
        List<TokenChunk> same = await session.SendAsync(Turns.Of(edited, 12) with { Input = InputMode.Replace }).AllAsync();
        Assert.Equal(chunks.Tokens(), same.Tokens());
        Assert.Equal(19, same[^1].Usage!.CachedTokens);
    }

    [Fact]
    public async Task Cancelling_stops_within_one_token_and_keeps_what_was_said()
    {
        FlashSession session = Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 900);
        await session.StartAsync(turn);
        List<TokenChunk> chunks = [];
        long stepsAtCancel = 0;
        await foreach (TokenChunk chunk in session.ReadAsync(turn.TurnId))
        {
            chunks.Add(chunk);
            if (chunks.Count != 10) continue;
            await session.CancelAsync(turn.TurnId);
            stepsAtCancel = (await session.GetReportAsync()).Steps;
        }
        Assert.Equal(FinishReason.Cancelled, chunks[^1].Finish);
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), chunks.Tokens().Length), chunks.Tokens());
        // Another session's whole turn goes by: nothing of the cancelled one moved.
        await Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(2), 10)).AllAsync();
        SessionReport after = await session.GetReportAsync();
        Assert.Equal(stepsAtCancel, after.Steps);
        Assert.Equal(stepsAtCancel, after.Generated + (after.Generated == stepsAtCancel ? 0 : 1));
        Assert.Equal(0, _cluster.Host.Report().WavesHeld);
        int[] history = await session.GetTokensAsync();
        Assert.Equal([.. _model.Prompt(1), .. chunks.Tokens()], history);
        // And it goes on from there.
        List<TokenChunk> next = await session.SendAsync(Turns.Of([7], 5)).AllAsync();
        Assert.Equal(_model.TokensAlone([.. _model.Prompt(1), .. chunks.Tokens(), 7], 5), next.Tokens());
    }

    [Fact]
    public async Task A_reader_that_leaves_cancels_the_turn_unless_it_asked_to_keep_it()
    {
        foreach (bool keep in new[] { false, true })
        {
            FlashSession session = Client.OpenSession();
            TurnRequest turn = Turns.Of(_model.Prompt(1), 60) with { CancelOnDisconnect = !keep };
            await foreach (TokenChunk chunk in session.SendAsync(turn))
            {
                if (chunk.Index == 3) break;
            }
            SessionReport report = await Turns.UntilAsync(session.GetReportAsync, r => keep ? r.Readers == 0 : !r.Running, "the reader's leave");
            Assert.Equal(keep ? FinishReason.None : FinishReason.Cancelled, report.Finish);
            if (!keep) continue;
            List<TokenChunk> rest = await session.ReadAsync(turn.TurnId, fromIndex: 4).AllAsync();
            Assert.Equal(_model.TokensAlone(_model.Prompt(1), 60)[4..], rest.Tokens());
        }
    }

    [Fact]
    public async Task A_cancelled_token_of_the_reader_stops_the_turn()
    {
        FlashSession session = Client.OpenSession();
        using var cancel = new CancellationTokenSource();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            await foreach (TokenChunk chunk in session.SendAsync(Turns.Of(_model.Prompt(1), 900) with { CancelOnDisconnect = true }, cancel.Token))
            {
                if (chunk.Index == 5) await cancel.CancelAsync();
            }
        });
        SessionReport report = await Turns.UntilAsync(session.GetReportAsync, r => !r.Running, "the end of the turn");
        Assert.Equal(FinishReason.Cancelled, report.Finish);
    }

    [Fact]
    public async Task Stop_tokens_end_the_answer_with_the_stop_token_itself()
    {
        int[] alone = _model.TokensAlone(_model.Prompt(3), 40);
        int stop = alone[20];
        int expected = Array.IndexOf(alone, stop);
        List<TokenChunk> chunks = await Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(3), 40) with { StopTokens = [stop] }).AllAsync();
        Assert.Equal(alone[..(expected + 1)], chunks.Tokens());
        Assert.Equal(FinishReason.Stop, chunks[^1].Finish);
    }

    [Fact]
    public async Task The_end_of_the_context_ends_the_answer()
    {
        int positions = _model.Config.MaxPositions;
        int[] prompt = _model.Prompt(1, positions - 3);
        List<TokenChunk> chunks = await Client.OpenSession().SendAsync(Turns.Of(prompt, 100)).AllAsync();
        Assert.Equal(4, chunks.Count);
        Assert.Equal(FinishReason.Length, chunks[^1].Finish);
        Assert.Equal(_model.TokensAlone(prompt, 4), chunks.Tokens());
        var error = await Assert.ThrowsAsync<TurnRejectedException>(() => Client.OpenSession().StartAsync(Turns.Of(_model.Prompt(1, positions + 1), 1)));
        Assert.Contains($"{positions}", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Scores_cover_every_input_token_whatever_the_chunks()
    {
        int[] prompt = _model.Prompt(1, 100);
        TurnRequest score = Turns.Of(prompt, 0) with { Score = true };
        float[]? first = null;
        foreach (int chunk in new[] { 1, 7, 64, 100 })
        {
            List<TokenChunk> chunks = await Client.OpenSession().SendAsync(score with { TurnId = Guid.NewGuid(), PrefillChunk = chunk }).AllAsync();
            TokenChunk last = Assert.Single(chunks);
            Assert.Equal(-1, last.TokenId);
            Assert.Equal(100, last.InputNll!.Length);
            Assert.All(last.InputNll[..^1], nll => Assert.True(nll > 0));
            Assert.True(float.IsNaN(last.InputNll[^1]));
            first ??= last.InputNll;
            Assert.Equal(first.Select(BitConverter.SingleToInt32Bits), last.InputNll.Select(BitConverter.SingleToInt32Bits));
        }
    }

    [Fact]
    public async Task An_absent_seed_is_drawn_and_gives_the_same_story_again()
    {
        TurnRequest turn = Turns.Of(_model.Prompt(1), 30) with { Sampling = new SamplingOptions { Temperature = 1 } };
        FlashSession session = Client.OpenSession();
        TurnAccepted accepted = await session.StartAsync(turn);
        List<TokenChunk> chunks = await session.ReadAsync(turn.TurnId).AllAsync();
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 30, new SamplingFacts(1, accepted.Seed)), chunks.Tokens());
        TurnAccepted other = await Client.OpenSession().StartAsync(turn);
        Assert.NotEqual(accepted.Seed, other.Seed);
    }

    [Fact]
    public async Task A_session_whose_grain_leaves_memory_mid_answer_continues_where_it_was()
    {
        FlashSession session = Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 120, new SamplingFacts(0.7f, 3));
        await session.StartAsync(turn);
        List<TokenChunk> chunks = [];
        int epoch = (await session.GetReportAsync()).Epoch;
        await foreach (TokenChunk chunk in session.ReadAsync(turn.TurnId))
        {
            chunks.Add(chunk);
            if (chunks.Count is 20 or 60) await _cluster.Cluster.DeactivateAsync(_cluster.Grains.GetGrain<ISessionGrain>(session.Id));
        }
        Assert.Null(chunks[^1].Error);
        Assert.Equal(FinishReason.Length, chunks[^1].Finish);
        Assert.Equal(_model.TokensAlone(_model.Prompt(1), 120, new SamplingFacts(0.7f, 3)), chunks.Tokens());
        Assert.Equal(Enumerable.Range(0, 120), chunks.Select(c => c.Index));
        Assert.True((await session.GetReportAsync()).Epoch >= epoch + 2);
        // A finished turn can be shown again after that, too.
        await _cluster.Cluster.DeactivateAsync(_cluster.Grains.GetGrain<ISessionGrain>(session.Id));
        List<TokenChunk> shown = await session.SendAsync(turn).AllAsync();
        Assert.Equal(chunks.Tokens(), shown.Tokens());
        Assert.Equal(FinishReason.Length, shown[^1].Finish);
    }

    [Fact]
    public async Task Reading_past_the_end_of_a_finished_turn_is_an_error_and_not_an_endless_wait()
    {
        FlashSession session = Client.OpenSession();
        TurnRequest turn = Turns.Of(_model.Prompt(1), 3);
        await session.SendAsync(turn).AllAsync();
        Assert.Equal(2, Assert.Single(await session.ReadAsync(turn.TurnId, fromIndex: 2).AllAsync()).Index);
        await Assert.ThrowsAsync<TurnRejectedException>(() => session.ReadAsync(turn.TurnId, fromIndex: 3).AllAsync());
    }

    [Fact]
    public async Task Closing_frees_what_the_layers_keep_and_forgets_the_history()
    {
        FlashSession session = Client.OpenSession();
        long[] held = new long[3];
        for (int round = 0; round < held.Length; round++)
        {
            if (round > 0) await session.CloseAsync();
            await session.SendAsync(Turns.Of(_model.Prompt(round, 200), 20)).AllAsync();
            held[round] = (await Client.GetReportAsync(TestModel.Name)).Layers.Sum(l => l.Counters.KvBytes);
        }
        // What was freed serves the next: three histories one after the other take the memory of one.
        Assert.True(held[0] > 0);
        Assert.Equal(held[0], held[1]);
        Assert.Equal(held[0], held[2]);
        await session.CloseAsync();
        Assert.Empty(await session.GetTokensAsync());
        List<TokenChunk> anew = await session.SendAsync(Turns.Of(_model.Prompt(2), 20)).AllAsync();
        Assert.Equal(_model.TokensAlone(_model.Prompt(2), 20), anew.Tokens());
    }

    [Fact]
    public async Task What_cannot_be_served_is_refused_with_one_line()
    {
        async Task<string> Refused(TurnRequest turn) => (await Assert.ThrowsAsync<TurnRejectedException>(() => Client.OpenSession().StartAsync(turn))).Message;
        TurnRequest good = Turns.Of([5], 1);
        Assert.Contains("no tokenizer", await Refused(good with { Tokens = null, Text = "hello" }), StringComparison.Ordinal);
        Assert.Contains("exactly one", await Refused(good with { Text = "hello" }), StringComparison.Ordinal);
        Assert.Contains("empty", await Refused(good with { Tokens = [] }), StringComparison.Ordinal);
        Assert.Contains("999999", await Refused(good with { Tokens = [999999] }), StringComparison.Ordinal);
        Assert.Contains("-1", await Refused(good with { Tokens = [-1] }), StringComparison.Ordinal);
        Assert.Contains("top_p", await Refused(good with { Sampling = new SamplingOptions { TopP = 0 } }), StringComparison.Ordinal);
        Assert.Contains("temperature", await Refused(good with { Sampling = new SamplingOptions { Temperature = float.NaN } }), StringComparison.Ordinal);
        Assert.Contains("max tokens", await Refused(good with { MaxTokens = -1 }), StringComparison.Ordinal);
        Assert.Contains("does not know", (await Assert.ThrowsAsync<TurnRejectedException>(() => Client.OpenSession().ReadAsync(Guid.NewGuid()).AllAsync())).Message, StringComparison.Ordinal);
    }
}
