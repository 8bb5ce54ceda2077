using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using Microsoft.Extensions.DependencyInjection;

namespace FlashOrleans.Grains.Tests;

/// <summary>A small model that guesses for another: the answer is that of the other alone, whatever the small one says, loses or fails at.</summary>
public sealed class DraftModelTests : IDisposable
{
    private static readonly SamplingFacts s_sampled = new(0.8f, 77);
    private readonly TestModel _model = new(format: WeightFormat.Q8);
    /// <summary>The same weights in four bits: of the same mind most of the time.</summary>
    private readonly TestModel _alike = new(format: WeightFormat.Q4);

    public void Dispose()
    {
        _model.Dispose();
        _alike.Dispose();
    }

    private Task<GrainCluster> StartAsync(TestModel draft, short silos = 1, Mischief? mischief = null, Func<LayerHostOptions, LayerHostOptions>? more = null) =>
        GrainCluster.StartAsync(_model.Folder, silos, (silo, host) =>
        {
            host = mischief is null ? host : LossTests.Impatient(silos > 1)(silo, host);
            host = host with { Engine = host.Engine with { Draft = DraftModel.At(draft.Package.Path) }, Grains = host.Grains with { Speculate = Speculation.Auto } };
            return more?.Invoke(host) ?? host;
        }, silo =>
        {
            if (mischief is null) return;
            silo.Services.AddSingleton<IOutgoingGrainCallFilter>(mischief);
            silo.Services.AddSingleton<IIncomingGrainCallFilter>(mischief);
        });

    [Fact]
    public async Task Answers_are_those_of_the_model_alone_and_most_drafts_of_a_model_alike_are_right()
    {
        await using GrainCluster cluster = await StartAsync(_alike);
        foreach (SamplingFacts sampling in new[] { SamplingFacts.Greedy, s_sampled })
        {
            int[] prompt = _model.Prompt(1, 90);
            StepResult[] alone = _model.Alone(prompt, 40, sampling, topLogits: 5);
            List<TokenChunk> chunks = await cluster.Client.OpenSession().SendAsync(Turns.Of(prompt, 40, sampling, 5) with { Drafts = 4 }).AllAsync();
            Assert.Equal(alone.Select(static r => r.Token), chunks.Tokens());
            Assert.Equal(alone.Select(static r => (r.LogProbability, r.Logit)), chunks.Select(static c => (c.LogProbability, c.Logit)));
            TurnUsage usage = chunks[^1].Usage!;
            Assert.InRange(usage.AcceptedTokens, 10, usage.DraftedTokens);
        }
        // Every turn goes on from the one before, and so does the small model.
        FlashSession session = cluster.Client.OpenSession();
        int[] history = [];
        for (int turn = 0; turn < 3; turn++)
        {
            history = [.. history, .. _model.Prompt(turn, 10)];
            int[] said = (await session.SendAsync(Turns.Of(_model.Prompt(turn, 10), 15, s_sampled) with { Drafts = 3 }).AllAsync()).Tokens();
            int[] expected = _model.TokensAlone(history, 15, s_sampled);
            Assert.Equal(expected, said);
            history = [.. history, .. said];
        }
        Assert.Equal(0, cluster.Host.Report().WavesHeld);
    }

    [Fact]
    public async Task Left_to_decide_for_itself_it_answers_the_same_for_many_at_once()
    {
        await using GrainCluster cluster = await StartAsync(_alike);
        List<TokenChunk>[] together = await Task.WhenAll(Enumerable.Range(0, 6).Select(i =>
            cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(i, 5 + 20 * i), 60, new SamplingFacts(i % 2, (ulong)i))).AllAsync()));
        for (int i = 0; i < 6; i++) Assert.Equal(_model.TokensAlone(_model.Prompt(i, 5 + 20 * i), 60, new SamplingFacts(i % 2, (ulong)i)), together[i].Tokens());
    }

    [Fact]
    public async Task A_model_of_another_mind_is_never_believed()
    {
        using var stranger = new TestModel(seed: 9);
        await using GrainCluster cluster = await StartAsync(stranger);
        List<TokenChunk> chunks = await cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(1, 20), 30, s_sampled) with { Drafts = 3 }).AllAsync();
        Assert.Equal(_model.TokensAlone(_model.Prompt(1, 20), 30, s_sampled), chunks.Tokens());
        Assert.True(chunks[^1].Usage!.AcceptedTokens < chunks[^1].Usage!.DraftedTokens / 2);
    }

    [Theory, InlineData(1), InlineData(2)]
    public async Task Over_a_network_that_loses_and_doubles_the_answers_are_the_same(short silos)
    {
        var mischief = new Mischief(seed: 25 + silos, share: 0.02);
        await using GrainCluster cluster = await StartAsync(_alike, silos, mischief);
        await cluster.Client.EnsureReadyAsync(TestModel.Name);
        mischief.On = true;
        List<TokenChunk>[] stories = await Task.WhenAll(Enumerable.Range(0, 3).Select(i =>
            cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(i), 60, new SamplingFacts(0.8f, (ulong)i)) with { Drafts = 3 }).AllAsync()));
        mischief.On = false;
        for (int i = 0; i < 3; i++) Assert.Equal(_model.TokensAlone(_model.Prompt(i), 60, new SamplingFacts(0.8f, (ulong)i)), stories[i].Tokens());
        Assert.True(stories.Sum(static s => s[^1].Usage!.AcceptedTokens) > 10);
    }

    [Fact]
    public async Task A_draft_model_that_breaks_or_leaves_costs_drafts_and_no_answer()
    {
        await using GrainCluster cluster = await StartAsync(_alike);
        FlashSession session = cluster.Client.OpenSession();
        int[] prompt = _model.Prompt(3, 30), answer = _model.TokensAlone(prompt, 80, s_sampled);
        List<int> said = [];
        await foreach (TokenChunk chunk in session.SendAsync(Turns.Of(prompt, 80, s_sampled) with { Drafts = 3 }))
        {
            said.Add(chunk.TokenId);
            if (said.Count == 20) await cluster.Layer(_alike, 1).Deactivate();
            if (said.Count != 40) continue;
            // And then for good: no file is as it was.
            foreach (string file in Directory.GetFiles(Path.Combine(_alike.Package.Path, "layers"))) await File.WriteAllBytesAsync(file, [1, 2, 3]);
            await cluster.Layer(_alike, 2).Deactivate();
        }
        Assert.Equal(answer, said);
    }

    [Fact]
    public async Task Within_a_budget_both_models_fit_and_a_budget_for_one_is_refused_with_what_would_do()
    {
        var layer = new LayerOptions();
        var budget = new BudgetOptions { Size = BudgetSize.OfBytes(1L << 50), Sessions = 2, Context = 256 };
        EngineOptions alone = new() { Threads = 1, IoThreads = 2, Budget = budget }, both = alone with { Draft = DraftModel.At(_alike.Package.Path) };
        long one = BudgetPlan.Of(_model.Package, alone, layer).Minimum, two = BudgetPlan.Of(_model.Package, both, layer).Minimum;
        Assert.True(two > one + _alike.Package.Bytes / 2);
        BudgetPlan refused = BudgetPlan.Of(_model.Package, both with { Budget = budget with { Size = BudgetSize.OfBytes(two - 1) } }, layer);
        Assert.False(refused.Fits);
        Assert.Contains(BudgetSize.Text(two), refused.Refusal, StringComparison.Ordinal);
        Assert.Contains("no --draft", refused.Refusal, StringComparison.Ordinal);

        BudgetOptions enough = budget with { Size = BudgetSize.OfBytes(two) };
        BudgetPlan plan = BudgetPlan.Of(_model.Package, both with { Budget = enough }, layer).Demand();
        Assert.True(plan.Sum <= plan.Budget);
        await using GrainCluster cluster = await StartAsync(_alike, more: host => host with { Engine = host.Engine with { Budget = enough } });
        List<TokenChunk>[] said = await Task.WhenAll(Enumerable.Range(0, 2).Select(i => cluster.Client.OpenSession().SendAsync(Turns.Of(_model.Prompt(i, 40), 50, s_sampled) with { Drafts = 4 }).AllAsync()));
        for (int i = 0; i < 2; i++) Assert.Equal(_model.TokensAlone(_model.Prompt(i, 40), 50, s_sampled), said[i].Tokens());
        Assert.All(said, static s => Assert.True(s[^1].Usage!.AcceptedTokens > 5));
        Assert.InRange(cluster.Host.Report().NativeBytes, 1, plan.Native);
        // A third package is still one too many.
        using var third = new TestModel(seed: 5);
        await Assert.ThrowsAnyAsync<Exception>(() => cluster.Client.EnsureReadyAsync(third.Package.Path));
    }
}
