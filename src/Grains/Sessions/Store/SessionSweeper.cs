using FlashOrleans.Abstractions;
using Microsoft.Extensions.Logging;
using Orleans.Runtime;

namespace FlashOrleans.Grains;

/// <summary>
/// Forgets sessions that nobody used for long, and where there are too many those that were used longest ago: through their grains, so that layers forget them too and a session that is being used
/// stays. Every silo sweeps, once a minute and when a new session is one too many; that two of them find the same one does no harm. Pool threads; what fails is tried again with the next sweep.
/// </summary>
internal sealed class SessionSweeper(SessionStore store, LayerHostOptions options, IGrainFactory grains, ILogger<SessionSweeper> logger) : ILifecycleParticipant<ISiloLifecycle>, IDisposable
{
    private const int AtOnce = 64;
    private static readonly TimeSpan s_period = TimeSpan.FromMinutes(1);
    private readonly SemaphoreSlim _one = new(1);
    private readonly CancellationTokenSource _stopping = new();
    private ITimer? _timer;

    public void Participate(ISiloLifecycle observer) => observer.Subscribe(nameof(SessionSweeper), ServiceLifecycleStage.Active, Start, Stop);

    /// <summary>One sweep; returns how many sessions it closed.</summary>
    public async Task<int> SweepAsync()
    {
        await _one.WaitAsync(_stopping.Token);
        try
        {
            long before = (options.Time.GetUtcNow() - options.Sessions.TimeToLive).ToUnixTimeMilliseconds();
            int closed = await CloseAsync(() => store.ReadAsync(tables => tables.Unused(before, AtOnce)));
            closed += await CloseAsync(() => store.ReadAsync(tables => tables.Excess(options.Sessions.MaxSessions, AtOnce)));
            store.Count = await store.ReadAsync(static tables => tables.Count());
            return closed;
        }
        finally
        {
            _one.Release();
        }
    }

    public void Dispose()
    {
        _timer?.Dispose();
        _one.Dispose();
        _stopping.Dispose();
    }

    /// <summary>As long as there are more and some of them go.</summary>
    private async Task<int> CloseAsync(Func<Task<List<(Guid Id, long Used)>>> find)
    {
        int all = 0, closed;
        do
        {
            closed = 0;
            foreach ((Guid id, long used) in await find())
            {
                if (_stopping.IsCancellationRequested) return all;
                try
                {
                    if (await grains.GetGrain<ISessionGrain>(id).Expire(used + 1)) closed++;
                }
                catch (Exception e)
                {
                    logger.LogWarning(e, "session {Session} could not be closed; it is tried again", id);
                }
            }
            all += closed;
        }
        while (closed == AtOnce);
        return all;
    }

    private void Sweep() => _ = QuietlyAsync();

    private async Task QuietlyAsync()
    {
        try
        {
            await SweepAsync();
        }
        catch (Exception e) when (!_stopping.IsCancellationRequested)
        {
            logger.LogWarning(e, "old sessions could not be looked for");
        }
        catch (Exception)
        {
            // The silo stops.
        }
    }

    private Task Start(CancellationToken cancellationToken)
    {
        using (ExecutionContext.SuppressFlow()) _timer = options.Time.CreateTimer(static self => ((SessionSweeper)self!).Sweep(), this, s_period, s_period);
        store.Overfull = Sweep;
        return Task.CompletedTask;
    }

    private async Task Stop(CancellationToken cancellationToken)
    {
        store.Overfull = null;
        _timer?.Dispose();
        await _stopping.CancelAsync();
    }
}
