using System.Collections.Concurrent;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using Microsoft.Extensions.DependencyInjection;

namespace FlashOrleans.Grains.Tests;

/// <summary>The data plane over a network that loses, doubles, delays and reorders.</summary>
[Collection(nameof(Alone))]
public sealed class LossTests
{
    internal static Func<int, LayerHostOptions, LayerHostOptions> Impatient(bool split) => (silo, host) => host with
    {
        Layers = split ? silo == 0 ? "0,2,4,6" : "1,3,5,7" : null,
        Grains = host.Grains with { WatchdogMinDelay = TimeSpan.FromMilliseconds(30), RetryDelay = TimeSpan.FromMilliseconds(5) },
    };

    private static Task<GrainCluster> StartAsync(TestModel model, Mischief mischief, short silos) =>
        GrainCluster.StartAsync(model.Folder, silos, Impatient(silos > 1), silo =>
        {
            silo.Services.AddSingleton<IOutgoingGrainCallFilter>(mischief);
            silo.Services.AddSingleton<IIncomingGrainCallFilter>(mischief);
        });

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task Two_thousand_tokens_of_four_sessions_are_the_same_over_a_bad_network(short silos)
    {
        HashSet<byte[]> before = [.. Engine.WaveGuard.Outstanding];
        using var model = new TestModel();
        var mischief = new Mischief(seed: 5 + silos, share: 0.02);
        await using GrainCluster cluster = await StartAsync(model, mischief, silos);
        await cluster.Client.EnsureReadyAsync(TestModel.Name);
        mischief.On = true;
        FlashSession[] sessions = [.. Enumerable.Range(0, 4).Select(_ => cluster.Client.OpenSession())];
        List<TokenChunk>[] stories = await Task.WhenAll(sessions.Select((s, i) => s.SendAsync(Turns.Of(model.Prompt(i), 500, new SamplingFacts(0.8f, (ulong)i))).AllAsync()));
        mischief.On = false;
        Assert.Empty(mischief.Errors);

        for (int i = 0; i < 4; i++)
        {
            Assert.Null(stories[i][^1].Error);
            Assert.Equal(model.TokensAlone(model.Prompt(i), 500, new SamplingFacts(0.8f, (ulong)i)), stories[i].Tokens());
        }
        Assert.True(mischief is { Dropped: > 10, Doubled: > 10, Delayed: > 20 });

        SessionReport[] reports = await Task.WhenAll(sessions.Select(s => s.GetReportAsync()));
        // Nothing that was doubled, late or lost made anybody go back: layers still hold what they computed.
        Assert.Equal(0, reports.Sum(r => r.Replays));
        Assert.True(reports.Sum(r => r.Resubmits) > 0);

        await Turns.UntilAsync(() => Task.FromResult(cluster.Hosts.Sum(h => h.Report().WavesHeld)), static held => held == 0, "no wave in anybody's hands");
        await Turns.UntilAsync(() => Task.FromResult(Engine.WaveGuard.Outstanding.Count(a => !before.Contains(a))), static lost => lost == 0, "every array of a wave in the pool again");
        // Every message found its owner: a receiver claimed it, or its sender took it back.
        await Turns.UntilAsync(() => Task.FromResult(string.Join(' ', mischief.Unclaimed)), static lost => lost.Length == 0, "every wave claimed");
    }

    [Fact]
    public async Task A_doubled_wave_causes_no_replay_no_resubmission_and_no_second_token()
    {
        using var model = new TestModel();
        var twice = new EverythingTwice();
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder, configure: silo => silo.Services.AddSingleton<IOutgoingGrainCallFilter>(twice));
        FlashSession session = cluster.Client.OpenSession();
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of(model.Prompt(1), 100)).AllAsync();
        Assert.Equal(model.TokensAlone(model.Prompt(1), 100), chunks.Tokens());
        SessionReport report = await session.GetReportAsync();
        Assert.Equal(0, report.Replays);
        Assert.Equal(0, report.Resubmits);
        Assert.Equal(100, report.Steps);
        Assert.True(twice.Doubled >= 100 * model.Config.Layers);
    }

    private sealed class EverythingTwice : IOutgoingGrainCallFilter
    {
        private readonly ConcurrentDictionary<WaveMessage, bool> _copies = new();

        public int Doubled => _copies.Count;

        public async Task Invoke(IOutgoingGrainCallContext context)
        {
            if (context.MethodName != nameof(ILayerGrain.Forward) || context.Request.GetArgument(0) is not WaveMessage wave || _copies.ContainsKey(wave))
            {
                await context.Invoke();
                return;
            }
            // Copied before the original is sent: afterwards its array is the receiver's.
            // One that goes ahead of its wave has nothing to copy yet: it comes twice itself.
            WaveMessage copy = wave.HasWave ? wave.Copy() : wave;
            _copies.TryAdd(copy, true);
            Task original = context.Invoke();
            await ((ILayerGrain)context.Grain).Forward(copy);
            await original;
        }
    }
}
