using FlashOrleans.Client;
using Microsoft.Extensions.Time.Testing;

namespace FlashOrleans.Grains.Tests;

/// <summary>How long a client tries, on a clock that only the test moves.</summary>
public sealed class ResilienceTests
{
    private readonly Clock _time = new();

    /// <summary>Ten seconds for every timer that was set, as it is set.</summary>
    private async Task DriveAsync(Task work)
    {
        while (!work.IsCompleted)
        {
            Task set = _time.Set.WaitAsync();
            if (await Task.WhenAny(work, set).WaitAsync(TimeSpan.FromMinutes(1)) == work) return;
            _time.Advance(TimeSpan.FromSeconds(10));
        }
    }

    private sealed class Clock : FakeTimeProvider
    {
        public SemaphoreSlim Set { get; } = new(0);

        public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
        {
            ITimer timer = base.CreateTimer(callback, state, dueTime, period);
            Set.Release();
            return timer;
        }
    }

    [Fact]
    public async Task A_call_that_hears_nothing_is_made_again_and_the_second_answer_counts()
    {
        var resilience = new Resilience(new FlashClientOptions { Time = _time });
        int attempts = 0;
        Task<int> open = resilience.OpenAsync<int>(async token =>
        {
            if (++attempts == 1) await Task.Delay(Timeout.InfiniteTimeSpan, token);
            return 5;
        }, CancellationToken.None);
        await DriveAsync(open);
        Assert.Equal(5, await open);
        Assert.Equal(2, attempts);
    }

    [Fact]
    public async Task A_cluster_that_never_answers_is_given_up_after_the_total_with_one_line()
    {
        var resilience = new Resilience(new FlashClientOptions { Time = _time, OpenTimeout = TimeSpan.FromSeconds(45) });
        int attempts = 0;
        Task<int> open = resilience.OpenAsync<int>(async token =>
        {
            attempts++;
            await Task.Delay(Timeout.InfiniteTimeSpan, token);
            return 5;
        }, CancellationToken.None);
        await DriveAsync(open);
        Assert.Contains("45 s", (await Assert.ThrowsAsync<FlashConnectionException>(() => open)).Message, StringComparison.Ordinal);
        Assert.InRange(attempts, 2, 4);
    }

    [Fact]
    public async Task What_is_refused_is_not_tried_again()
    {
        var resilience = new Resilience(new FlashClientOptions { Time = _time });
        int attempts = 0;
        Task<int> open = resilience.OpenAsync<int>(_ =>
        {
            attempts++;
            throw new Abstractions.TurnRejectedException("no");
        }, CancellationToken.None);
        await DriveAsync(open);
        await Assert.ThrowsAsync<Abstractions.TurnRejectedException>(() => open);
        Assert.Equal(1, attempts);
    }
}
