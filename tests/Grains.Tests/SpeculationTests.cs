using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using Microsoft.Extensions.DependencyInjection;

namespace FlashOrleans.Grains.Tests;

/// <summary>Guessing through grains: the answer is that of the engine alone, which never guesses, in every bit, whatever was guessed, lost or cut off.</summary>
public sealed class SpeculationTests
{
    private static readonly SamplingFacts s_sampled = new(0.9f, 77);

    /// <summary>What will be said, with a wrong token here and there.</summary>
    private static int[] Prediction(int[] answer, double right, int vocabulary, int seed = 1)
    {
        var random = new Random(seed);
        return [.. answer.Select(t => random.NextDouble() < right ? t : (t + 1) % vocabulary)];
    }

    private static TurnRequest Guessing(int[] prompt, int count, int[] prediction, int drafts = 4, SamplingFacts? sampling = null, int top = 0) =>
        Turns.Of(prompt, count, sampling, top) with { Speculate = Speculation.Auto, Prediction = prediction, Drafts = drafts };

    [Theory]
    [InlineData(1, 1.0)]
    [InlineData(1, 0.7)]
    [InlineData(1, 0.0)]
    [InlineData(2, 0.7)]
    public async Task Tokens_and_every_logit_are_those_of_the_engine_alone(short silos, double right)
    {
        using var model = new TestModel();
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder, silos, (silo, host) => silos == 1 ? host : host with { Layers = silo == 0 ? "0,2" : "1,3" });
        foreach (SamplingFacts sampling in new[] { SamplingFacts.Greedy, s_sampled })
        {
            int[] prompt = model.Prompt(1, length: 100);
            StepResult[] alone = model.Alone(prompt, 40, sampling, topLogits: model.Config.VocabSize);
            int[] prediction = Prediction([.. alone.Select(r => r.Token)], right, model.Config.VocabSize);
            FlashSession session = cluster.Client.OpenSession();
            List<TokenChunk> chunks = await session.SendAsync(Guessing(prompt, 40, prediction, 4, sampling, model.Config.VocabSize)).AllAsync();

            Assert.Equal(alone.Select(r => r.Token), chunks.Tokens());
            for (int i = 0; i < alone.Length; i++)
            {
                Assert.Equal(alone[i].Top!.Select(t => (t.Id, BitConverter.SingleToInt32Bits(t.Logit))),
                    chunks[i].Top!.Select(t => (t.Id, BitConverter.SingleToInt32Bits(t.Logit))));
                Assert.Equal((alone[i].LogProbability, alone[i].Logit), (chunks[i].LogProbability, chunks[i].Logit));
            }
            TurnUsage usage = chunks[^1].Usage!;
            SessionReport report = await session.GetReportAsync();
            Assert.Equal((report.Drafted, report.Accepted), (usage.DraftedTokens, usage.AcceptedTokens));
            // Two steps for the prompt, of which the second says the first token; each right draft saves one.
            Assert.Equal(41 - usage.AcceptedTokens, report.Steps);
            Assert.True(right switch { 1 => usage.AcceptedTokens == usage.DraftedTokens, 0 => usage.AcceptedTokens == 0, _ => usage.AcceptedTokens > 5 && usage.AcceptedTokens < usage.DraftedTokens });
            Assert.True(usage.DraftedTokens > 20);
        }
        Assert.Equal((0, true), (cluster.Hosts.Sum(static h => h.Report().WavesHeld), cluster.Hosts.Sum(static h => h.Drafts.Sum(static d => d.Accepted)) > 0 || right == 0));
    }

    [Fact]
    public async Task An_answer_that_ends_in_the_middle_of_right_drafts_ends_there_and_the_next_turn_goes_on_from_it()
    {
        using var model = new TestModel();
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder);
        int[] prompt = model.Prompt(1, 20), answer = model.TokensAlone(prompt, 30, s_sampled), more = model.Prompt(2, 6);
        for (int end = 5; end < 12; end++)
        {
            FlashSession session = cluster.Client.OpenSession();
            bool stops = end % 2 == 1;
            TurnRequest turn = Guessing(prompt, stops ? 30 : end + 1, answer, 6, s_sampled) with { StopTokens = stops ? [answer[end]] : [] };
            int[] said = (await session.SendAsync(turn).AllAsync()).Tokens();
            Assert.Equal(answer[..(stops ? Array.IndexOf(answer, answer[end]) + 1 : end + 1)], said);
            int[] held = await session.GetTokensAsync();
            Assert.Equal([.. prompt, .. said], held);
            int[] history = [.. prompt, .. said, .. more];
            Assert.Equal(model.TokensAlone(history, 8, s_sampled), (await session.SendAsync(Turns.Of(more, 8, s_sampled)).AllAsync()).Tokens());
        }
    }

    [Fact]
    public async Task At_the_end_of_the_context_the_answer_is_as_long_as_without_drafts()
    {
        using var model = new TestModel(positions: 64);
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder);
        int[] prompt = model.Prompt(1, 40);
        List<TokenChunk> plain = await cluster.Client.OpenSession().SendAsync(Turns.Of(prompt, 100)).AllAsync();
        List<TokenChunk> guessed = await cluster.Client.OpenSession().SendAsync(Guessing(prompt, 100, [.. plain.Tokens(), 5, 5, 5, 5, 5, 5, 5, 5], 8)).AllAsync();
        Assert.Equal(plain.Tokens(), guessed.Tokens());
        Assert.Equal((plain[^1].Finish, plain.Count), (guessed[^1].Finish, guessed.Count));
    }

    [Theory, InlineData(1), InlineData(2)]
    public async Task Over_a_network_that_loses_and_doubles_the_answers_are_the_same(short silos)
    {
        using var model = new TestModel();
        var mischief = new Mischief(seed: 15 + silos, share: 0.03);
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder, silos, LossTests.Impatient(silos > 1), silo =>
        {
            silo.Services.AddSingleton<IOutgoingGrainCallFilter>(mischief);
            silo.Services.AddSingleton<IIncomingGrainCallFilter>(mischief);
        });
        await cluster.Client.EnsureReadyAsync(TestModel.Name);
        int[][] answers = [.. Enumerable.Range(0, 4).Select(i => model.TokensAlone(model.Prompt(i), 200, new SamplingFacts(0.8f, (ulong)i)))];
        mischief.On = true;
        List<TokenChunk>[] stories = await Task.WhenAll(Enumerable.Range(0, 4).Select(i => cluster.Client.OpenSession()
            .SendAsync(Guessing(model.Prompt(i), 200, Prediction(answers[i], 0.8, model.Config.VocabSize, i), 3, new SamplingFacts(0.8f, (ulong)i))).AllAsync()));
        mischief.On = false;
        Assert.Empty(mischief.Errors);
        for (int i = 0; i < 4; i++) Assert.Equal(answers[i], stories[i].Tokens());
        Assert.True(mischief is { Dropped: > 0, Doubled: > 0, Delayed: > 3 }, $"{mischief.Dropped} {mischief.Doubled} {mischief.Delayed}");
        Assert.InRange(stories.Sum(static s => s[^1].Usage!.AcceptedTokens), 200, 800);
    }

    [Fact]
    public async Task A_layer_that_leaves_in_the_middle_is_replayed_and_drafts_go_on()
    {
        using var model = new TestModel();
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder);
        int[] prompt = model.Prompt(3, 30), answer = model.TokensAlone(prompt, 80, s_sampled);
        FlashSession session = cluster.Client.OpenSession();
        List<int> said = [];
        await foreach (TokenChunk chunk in session.SendAsync(Guessing(prompt, 80, Prediction(answer, 0.8, model.Config.VocabSize), 4, s_sampled)))
        {
            said.Add(chunk.TokenId);
            if (said.Count is 20 or 50) await cluster.Layer(model, said.Count == 20 ? 2 : 0).Deactivate();
        }
        Assert.Equal(answer, said);
        Assert.True((await session.GetReportAsync()) is { Replays: > 0, Accepted: > 20 });
    }

    [Theory, InlineData(RopeScaling.LongRope), InlineData(RopeScaling.Dynamic)]
    public async Task A_model_that_rotates_by_length_answers_the_same(RopeScaling scaling)
    {
        double[] factors = [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7];
        using var model = new TestModel(rope: new RopeConfig { Theta = 10000, Scaling = scaling, Factor = 4, OriginalPositions = 24, ShortFactors = factors, LongFactors = [.. factors.Select(static f => 2 * f)] });
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder);
        int[] prompt = model.Prompt(1, 10), answer = model.TokensAlone(prompt, 40, s_sampled);
        List<TokenChunk> chunks = await cluster.Client.OpenSession().SendAsync(Guessing(prompt, 40, answer, 4, s_sampled)).AllAsync();
        Assert.Equal(answer, chunks.Tokens());
        Assert.True(chunks[^1].Usage!.AcceptedTokens > 5);
    }

    [Fact]
    public async Task A_text_that_repeats_itself_is_guessed_from_its_own_tokens_and_said_in_fewer_steps()
    {
        using var model = new TestModel();
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder);
        int[] prompt = model.Prompt(1, 40);
        int[] answer = model.TokensAlone(prompt, 60, s_sampled);
        FlashSession session = cluster.Client.OpenSession();
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of(prompt, 60, s_sampled) with { Speculate = Speculation.Lookup, Drafts = 4 }).AllAsync();
        Assert.Equal(answer, chunks.Tokens());
        List<TokenChunk> circle = await cluster.Client.OpenSession().SendAsync(Turns.Of(prompt, 200) with { Speculate = Speculation.Lookup, Drafts = 8 }).AllAsync();
        Assert.Equal(model.TokensAlone(prompt, 200), circle.Tokens());
        List<TokenChunk> off = await cluster.Client.OpenSession().SendAsync(Turns.Of(prompt, 50) with { Speculate = Speculation.Off, Drafts = 8 }).AllAsync();
        Assert.Equal(0, off[^1].Usage!.DraftedTokens);
    }

    [Fact]
    public async Task A_draft_that_needs_an_unreadable_unit_costs_the_drafts_and_not_the_answer()
    {
        using var model = new TestModel(tied: false, format: WeightFormat.F32);
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder);
        int[] prompt = model.Prompt(1, 10), answer = model.TokensAlone(prompt, 12);
        int stranger = Enumerable.Range(3, 190).First(t => !answer.Contains(t) && !prompt.Contains(t));
        string edge = Path.Combine(model.Package.Path, "edge.bin");
        long row;
        using (var file = model.Package.OpenEdge()) row = file.SectionUnits("embed").Start(stranger);
        // Only now: the package was found whole when it was opened.
        await cluster.Client.EnsureReadyAsync(TestModel.Name);
        byte[] bytes = await File.ReadAllBytesAsync(edge);
        bytes[row + 5] ^= 1;
        await File.WriteAllBytesAsync(edge, bytes);
        FlashSession session = cluster.Client.OpenSession();
        List<TokenChunk> chunks = await session.SendAsync(Guessing(prompt, 12, [.. Enumerable.Repeat(stranger, 12)], 2)).AllAsync();
        Assert.Equal(answer, chunks.Tokens());
        Assert.Equal(FinishReason.Length, chunks[^1].Finish);
        Assert.True((await session.GetReportAsync()).Steps > 12);
    }
}
