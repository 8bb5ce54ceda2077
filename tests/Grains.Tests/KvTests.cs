using FlashOrleans.Abstractions;
using FlashOrleans.Client;

namespace FlashOrleans.Grains.Tests;

/// <summary>What was computed once is not computed again, whoever's silo it is on; and nobody's text depends on it. Even layers on one silo, odd ones on the other.</summary>
public sealed class KvTests : IAsyncLifetime
{
    private readonly TestModel _model = new();
    private GrainCluster _cluster = null!;

    public async ValueTask InitializeAsync() => _cluster = await GrainCluster.StartAsync(_model.Folder, silos: 2,
        options: static (silo, host) => host with { Layers = silo == 0 ? "0,2,4,6" : "1,3,5,7" });

    public async ValueTask DisposeAsync()
    {
        await _cluster.DisposeAsync();
        _model.Dispose();
    }

    [Fact]
    public async Task A_second_session_of_the_same_scope_computes_only_its_own_part_and_one_of_another_scope_all()
    {
        int[] system = _model.Prompt(1, 300), prompt = [.. system, .. _model.Prompt(2, 20)];
        await AnswerAsync(_cluster.Client.OpenSession(), [.. system, 5, 6], "ada");
        TokenChunk same = await AnswerAsync(_cluster.Client.OpenSession(), prompt, "ada");
        TokenChunk other = await AnswerAsync(_cluster.Client.OpenSession(), prompt, "bob");
        TokenChunk nobody = await AnswerAsync(_cluster.Client.OpenSession(), prompt, null);
        Assert.Equal(300, same.Usage!.CachedTokens);
        Assert.Equal(0, other.Usage!.CachedTokens);
        Assert.Equal(0, nobody.Usage!.CachedTokens);
    }

    [Fact]
    public async Task Who_has_no_session_and_sends_the_whole_conversation_again_goes_on_from_its_end()
    {
        int[] prompt = _model.Prompt(3, 100);
        FlashSession first = _cluster.Client.OpenSession();
        List<TokenChunk> answer = await first.SendAsync(Turns.Of(prompt, 10) with { Scope = "ada", Input = InputMode.Replace }).AllAsync();
        await first.RetireAsync();
        Assert.Empty(await first.GetTokensAsync());
        TokenChunk last = await AnswerAsync(_cluster.Client.OpenSession(), [.. prompt, .. answer.Tokens(), 8, 9], "ada");
        // The last token of the answer was never computed.
        Assert.Equal(109, last.Usage!.CachedTokens);
    }

    [Fact]
    public async Task One_layer_without_its_part_makes_all_begin_where_it_does()
    {
        int[] prompt = _model.Prompt(4, 200);
        await AnswerAsync(_cluster.Client.OpenSession(), prompt, "ada");
        ILayerGrain third = _cluster.Layer(_model, 2);
        await third.Deactivate();
        TokenChunk last = await AnswerAsync(_cluster.Client.OpenSession(), prompt, "ada");
        Assert.Equal(0, last.Usage!.CachedTokens);
        Assert.Equal(199, (await AnswerAsync(_cluster.Client.OpenSession(), prompt, "ada")).Usage!.CachedTokens);
    }

    [Fact]
    public async Task A_session_that_was_closed_leaves_nothing_behind()
    {
        int[] prompt = _model.Prompt(5, 200);
        FlashSession first = _cluster.Client.OpenSession();
        await AnswerAsync(first, prompt, "ada");
        await first.CloseAsync();
        TokenChunk last = await Turns.UntilAsync(async () =>
        {
            FlashSession next = _cluster.Client.OpenSession();
            TokenChunk chunk = await AnswerAsync(next, prompt, "ada");
            await next.CloseAsync();
            return chunk;
        }, static chunk => chunk.Usage!.CachedTokens == 0, "a layer that forgot");
        Assert.Equal(200, last.Usage!.PromptTokens);
    }

    /// <summary>The last chunk of an answer, which must be the one that the engine gives alone.</summary>
    private async Task<TokenChunk> AnswerAsync(FlashSession session, int[] prompt, string? scope)
    {
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of(prompt, 6) with { Scope = scope }).AllAsync();
        Assert.Equal(_model.TokensAlone(prompt, 6), chunks.Tokens());
        Assert.Equal(0, (await session.GetReportAsync()).Replays);
        return chunks[^1];
    }
}

/// <summary>Keys and values on disk under a silo that ends and comes back.</summary>
public sealed class KvRestartTests : IDisposable
{
    private readonly TestModel _model = new();
    private readonly string _folder = Directory.CreateTempSubdirectory("kv").FullName;

    public void Dispose()
    {
        _model.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task A_session_goes_on_after_a_restart_without_computing_what_it_had()
    {
        int[] prompt = _model.Prompt(1, 200), more = _model.Prompt(2, 5);
        Guid id = Guid.NewGuid();
        int[] answer;
        await using (GrainCluster cluster = await StartAsync())
        {
            List<TokenChunk> chunks = await cluster.Client.OpenSession(id).SendAsync(Turns.Of(prompt, 10)).AllAsync();
            answer = chunks.Tokens();
        }
        int[] history = [.. prompt, .. answer, .. more];
        await using (GrainCluster cluster = await StartAsync())
        {
            // Session storage is in memory here: the client sends the history again, in the same session and scope.
            List<TokenChunk> chunks = await cluster.Client.OpenSession(id).SendAsync(Turns.Of(history, 10) with { Input = InputMode.Replace }).AllAsync();
            Assert.Equal(_model.TokensAlone(history, 10), chunks.Tokens());
            // The last token of the answer was never computed.
            Assert.Equal(209, chunks[^1].Usage!.CachedTokens);
            // Somebody else's session with the same tokens finds nothing.
            chunks = await cluster.Client.OpenSession().SendAsync(Turns.Of(history, 3)).AllAsync();
            Assert.Equal(0, chunks[^1].Usage!.CachedTokens);
        }
    }

    private Task<GrainCluster> StartAsync() => GrainCluster.StartAsync(_model.Folder,
        options: (_, host) => host with { Engine = host.Engine with { KvDisk = new() { Folder = _folder, Bytes = 64 << 20 } } });
}
