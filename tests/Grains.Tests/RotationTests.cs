using FlashOrleans.Client;
using FlashOrleans.Flash;

namespace FlashOrleans.Grains.Tests;

/// <summary>Models whose positions rotate by the length of the sequence, through grains: the same tokens as the engine alone, across the limit and across a restart of the session.</summary>
public sealed class RotationTests
{
    private static readonly double[] s_short = [.. Enumerable.Range(0, 8).Select(i => 1 + 0.1 * i)], s_long = [.. Enumerable.Range(0, 8).Select(i => 1 + 0.9 * i)];

    private static readonly SamplingFacts s_sampled = new(1, 5);

    public static TheoryData<RopeScaling> Scalings => [RopeScaling.LongRope, RopeScaling.Dynamic];

    [Theory, MemberData(nameof(Scalings))]
    public async Task A_session_that_outgrows_the_limit_goes_on_as_the_engine_alone_does(RopeScaling scaling)
    {
        using var model = new TestModel(rope: Rope(scaling));
        await using var cluster = await GrainCluster.StartAsync(model.Folder);
        FlashSession session = cluster.Client.OpenSession();
        int[] alone = model.TokensAlone(model.Prompt(1, 10), 30, s_sampled);
        // A model that ignored the rule would say something else.
        using var plain = new TestModel();
        Assert.NotEqual(plain.TokensAlone(plain.Prompt(1, 10), 30, s_sampled), alone);
        Assert.Equal(alone, (await session.SendAsync(Turns.Of(model.Prompt(1, 10), 30, s_sampled)).AllAsync()).Tokens());

        // Its grain starts anew and the next turn goes on from what it kept.
        List<Abstractions.TokenChunk> second = await session.SendAsync(Turns.Of(model.Prompt(2, 4), 10, s_sampled)).AllAsync();
        FlashSession other = cluster.Client.OpenSession();
        await other.SendAsync(Turns.Of(model.Prompt(1, 10), 30, s_sampled)).AllAsync();
        await cluster.Cluster.DeactivateAsync(cluster.Grains.GetGrain<Abstractions.ISessionGrain>(other.Id));
        Assert.Equal(second.Tokens(), (await other.SendAsync(Turns.Of(model.Prompt(2, 4), 10, s_sampled)).AllAsync()).Tokens());
    }

    private static RopeConfig Rope(RopeScaling scaling) => new()
    {
        Theta = 10000,
        Scaling = scaling,
        Factor = 4,
        OriginalPositions = 16,
        AttentionFactor = scaling == RopeScaling.LongRope ? 1.3 : 1,
        ShortFactors = scaling == RopeScaling.LongRope ? s_short : [],
        LongFactors = scaling == RopeScaling.LongRope ? s_long : [],
    };
}
