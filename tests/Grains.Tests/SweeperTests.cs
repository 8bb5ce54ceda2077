using FlashOrleans.Client;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Time.Testing;

namespace FlashOrleans.Grains.Tests;

/// <summary>Sessions that are forgotten, on a clock that only the test moves.</summary>
public sealed class SweeperTests : IDisposable
{
    private readonly TestModel _model = new();
    private readonly FakeTimeProvider _time = new(new DateTimeOffset(2026, 1, 1, 0, 0, 0, TimeSpan.Zero));

    public void Dispose() => _model.Dispose();

    private Task<GrainCluster> StartAsync(SessionStoreOptions sessions) =>
        GrainCluster.StartAsync(_model.Folder, options: (_, host) => host with { Time = _time, Sessions = sessions });

    private static (SessionStore, SessionSweeper) Of(GrainCluster cluster) =>
        (cluster.Cluster.Silos[0].ServiceProvider.GetRequiredService<SessionStore>(), cluster.Cluster.Silos[0].ServiceProvider.GetRequiredService<SessionSweeper>());

    [Fact]
    public async Task What_nobody_used_for_long_is_forgotten_and_what_is_being_used_stays()
    {
        await using GrainCluster cluster = await StartAsync(new SessionStoreOptions { TimeToLive = TimeSpan.FromHours(1) });
        (SessionStore store, SessionSweeper sweeper) = Of(cluster);
        FlashSession old = cluster.Client.OpenSession(), used = cluster.Client.OpenSession(), running = cluster.Client.OpenSession();
        await old.SendAsync(Turns.Of(_model.Prompt(1), 5)).AllAsync();
        await used.SendAsync(Turns.Of(_model.Prompt(2), 5)).AllAsync();
        _time.Advance(TimeSpan.FromMinutes(50));
        await used.SendAsync(Turns.Of([7], 5)).AllAsync();
        await running.StartAsync(Turns.Of(_model.Prompt(3), 500));
        _time.Advance(TimeSpan.FromMinutes(15));
        // Its own timer may have been faster.
        await sweeper.SweepAsync();
        Assert.DoesNotContain(old.Id, (await store.ListAsync(10)).Select(static s => s.Id));
        Assert.Contains(used.Id, (await store.ListAsync(10)).Select(static s => s.Id));
        Assert.Empty(await old.GetTokensAsync());
        Assert.NotEmpty(await used.GetTokensAsync());
    }

    [Fact]
    public async Task Where_there_are_too_many_those_used_longest_ago_go()
    {
        await using GrainCluster cluster = await StartAsync(new SessionStoreOptions { MaxSessions = 3 });
        (SessionStore store, SessionSweeper sweeper) = Of(cluster);
        List<Guid> ids = [];
        for (int i = 0; i < 6; i++)
        {
            FlashSession session = cluster.Client.OpenSession();
            await session.SendAsync(Turns.Of(_model.Prompt(i), 3)).AllAsync();
            ids.Add(session.Id);
            _time.Advance(TimeSpan.FromSeconds(1));
        }
        await sweeper.SweepAsync();
        Assert.Equal(ids[3..], (await store.ListAsync(10)).Select(static s => s.Id).Reverse());
        Assert.Equal(3, store.Count);
    }
}
