using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using FlashOrleans.Engine;
using Microsoft.Extensions.DependencyInjection;

namespace FlashOrleans.Grains.Tests;

/// <summary>Leaving in the middle of a step that is merged with somebody else's, over two silos.</summary>
public sealed class CancelTests
{
    public enum Leaving { Call, Token, Dispose }

    [Theory]
    [InlineData(Leaving.Call)]
    [InlineData(Leaving.Token)]
    [InlineData(Leaving.Dispose)]
    public async Task Stops_within_one_token_in_every_silo_and_does_not_disturb_its_wave(Leaving how)
    {
        using var model = new TestModel();
        GatedReader[] readers = [new(), new()];
        var calls = new CallGate();
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder, silos: 2, (silo, host) => host with
        {
            Layers = silo == 0 ? "0,2" : "1,3",
            // Every step reads, and a session goes on only when its reader does.
            Layer = new LayerOptions { Window = 0.02, Prefetch = false },
            Grains = host.Grains with { MaxUnread = 1 },
            Reader = () => readers[silo],
        }, silo => silo.Services.AddSingleton<IIncomingGrainCallFilter>(calls));
        try
        {
            await StopAsync(how, model, cluster, readers[1], calls);
        }
        finally
        {
            readers[1].LetGo();
        }
    }

    private static async Task StopAsync(Leaving how, TestModel model, GrainCluster cluster, GatedReader reader, CallGate calls)
    {
        await cluster.Client.EnsureReadyAsync(TestModel.Name);
        FlashSession a = cluster.Client.OpenSession(), b = cluster.Client.OpenSession(), c = cluster.Client.OpenSession();
        using var token = new CancellationTokenSource();
        TurnRequest turnA = Turns.Of(model.Prompt(1), 200) with { CancelOnDisconnect = true }, turnB = Turns.Of(model.Prompt(2), 40);
        IAsyncEnumerator<TokenChunk> readA = a.SendAsync(turnA, token.Token).GetAsyncEnumerator(), readB = b.SendAsync(turnB).GetAsyncEnumerator();
        List<TokenChunk> gotA = [], gotB = [];
        await a.StartAsync(turnA);
        await b.StartAsync(turnB);
        // Nobody reads yet, so both wait with one token unread.
        foreach (FlashSession session in new[] { a, b }) await Turns.UntilAsync(session.GetReportAsync, r => r is { Unread: 1, Steps: 1 }, "a first token");

        // Somebody else's step stops the second silo's conductor in layer 1; the next steps of A and B arrive behind it and become one.
        Layer layer = cluster.Hosts.Select(h => h.Find(new LayerKey(model.Package.Hash, 1))).Single(l => l is not null)!.Layer!;
        reader.Hold();
        TurnRequest turnC = Turns.Of([9], 1);
        await c.StartAsync(turnC);
        await reader.StoppedAsync();
        long before = (await cluster.Layer(model, 1).Report()).WavesIn, slots = layer.Stats.Slots;
        await NextAsync(readA, gotA);
        await Turns.UntilAsync(() => cluster.Layer(model, 1).Report(), r => r.WavesIn == before + 1, "A's wave in the second silo");
        await NextAsync(readB, gotB);
        await Turns.UntilAsync(() => cluster.Layer(model, 1).Report(), r => r.WavesIn == before + 2, "B's wave in the second silo");
        do
        {
            Assert.Equal(slots, layer.Stats.Slots);
            reader.Step();
            await reader.StoppedAsync();
        }
        while (layer.Stats.Slots == slots);
        Assert.Equal(slots + 2, layer.Stats.Slots);

        // In the middle of that step A goes.
        switch (how)
        {
            case Leaving.Call:
                await a.CancelAsync(turnA.TurnId);
                break;
            case Leaving.Token:
                await token.CancelAsync();
                await Assert.ThrowsAnyAsync<OperationCanceledException>(async () => { while (await readA.MoveNextAsync()) { } });
                break;
            case Leaving.Dispose:
                await readA.DisposeAsync();
                break;
        }
        SessionReport left = await Turns.UntilAsync(a.GetReportAsync, r => !r.Running, "A's end");
        Assert.Equal(FinishReason.Cancelled, left.Finish);
        await Turns.UntilAsync(() => Task.FromResult(calls.Served("ILayerGrain.Cancel")), n => n == model.Config.Layers, "word of it in every layer");
        reader.LetGo();

        while (await NextAsync(readB, gotB)) { }
        Assert.Equal(model.TokensAlone(model.Prompt(2), 40), gotB.Tokens());
        await c.ReadAsync(turnC.TurnId).AllAsync();
        SessionReport wentOn = await b.GetReportAsync(), after = await a.GetReportAsync();
        Assert.Equal((40, 0, 0), (wentOn.Steps, wentOn.Replays, wentOn.Resubmits));
        Assert.Equal((left.Steps, left.Generated), (after.Steps, after.Generated));
        Assert.Equal(left.Steps, left.Generated + 1);

        // The step in flight went through the layers it had reached and no further.
        ModelReport report = await cluster.Client.GetReportAsync(TestModel.Name);
        int rowsB = 5 + 39, rowsC = 1;
        Assert.All(report.Layers, l => Assert.Equal(5 + left.Steps - (l.Layer <= 1 ? 1 : 2), l.Counters.Rows - rowsB - rowsC));
        await Turns.UntilAsync(() => Task.FromResult(cluster.Hosts.Sum(h => h.Report().WavesHeld)), static held => held == 0, "no wave in anybody's hands");
        await readA.DisposeAsync();
        await readB.DisposeAsync();

        // And A goes on from what it has.
        int[] history = [.. await a.GetTokensAsync(), 7];
        Assert.Equal(model.TokensAlone(history, 5), (await a.SendAsync(Turns.Of([7], 5)).AllAsync()).Tokens());
    }

    private static async Task<bool> NextAsync(IAsyncEnumerator<TokenChunk> reader, List<TokenChunk> got)
    {
        if (!await reader.MoveNextAsync()) return false;
        got.Add(reader.Current);
        return true;
    }

    [Fact]
    public async Task One_of_two_readers_that_leaves_takes_nothing_from_the_other()
    {
        using var model = new TestModel();
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder, options: static (_, host) => host with { Grains = host.Grains with { MaxUnread = 1 } });
        FlashSession session = cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(model.Prompt(1), 60) with { CancelOnDisconnect = true };
        await using IAsyncEnumerator<TokenChunk> stays = session.SendAsync(turn).GetAsyncEnumerator(), leaves = session.SendAsync(turn).GetAsyncEnumerator();
        List<TokenChunk> got = [];
        await NextAsync(stays, got);
        await NextAsync(leaves, []);
        await leaves.DisposeAsync();
        while (await NextAsync(stays, got)) { }
        Assert.Equal(model.TokensAlone(model.Prompt(1), 60), got.Tokens());
        Assert.Equal(FinishReason.Length, got[^1].Finish);
    }
}
