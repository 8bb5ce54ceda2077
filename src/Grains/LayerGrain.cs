using FlashOrleans.Abstractions;
using Microsoft.Extensions.Logging;
using Orleans.Concurrency;
using Orleans.Placement;

namespace FlashOrleans.Grains;

/// <summary>
/// The mailbox of one layer. Activation asks the host to attach the layer and returns at once; deactivation drains it and frees its memory. A wave comes in
/// by <see cref="Forward"/> (claim and enqueue) and leaves by the <see cref="LayerPump"/>, which runs on this grain's scheduler. Nothing here computes or
/// waits for it.
/// </summary>
[GrainType("layer"), KeepAlive, Immovable, LayerPlacement]
internal sealed partial class LayerGrain(LayerHost host, IGrainFactory grains, ILogger<LayerGrain> logger) : Grain, ILayerGrain
{
    private HostedLayer _hosted = null!;
    private LayerPump _pump = null!;
    private Task _pumping = Task.CompletedTask;

    public override Task OnActivateAsync(CancellationToken cancellationToken)
    {
        LayerKey key = LayerKey.Parse(this.GetPrimaryKeyString());
        _hosted = host.Attach(key);
        string next = (key with { Layer = key.Layer + 1 }).ToString();
        _pump = new LayerPump(_hosted, grains.GetGrain<ILayerGrain>(next), grains.GetGrain<IPrefetchGrain>(next), id => grains.GetGrain<ISessionGrain>(id), logger,
            key.Layer == 0 ? grains.GetGrain<IPrefetchGrain>(this.GetPrimaryKeyString()) : null);
        // The pump belongs to no call: with the context of this one, every wake-up and every message would carry it along.
        using (ExecutionContext.SuppressFlow()) _pumping = _pump.RunAsync();
        return Task.CompletedTask;
    }

    public override async Task OnDeactivateAsync(DeactivationReason reason, CancellationToken cancellationToken)
    {
        if (_hosted is null) return;
        await _hosted.CloseAsync();
        await _pumping;
    }

    public ValueTask Forward(WaveMessage wave)
    {
        if (_hosted.Error is not null) DeactivateOnIdle();
        _hosted.Accept(wave);
        return default;
    }

    public Task<bool> Holds(Guid session, int epoch, long step) => Task.FromResult(host.Holds(session, epoch, step));

    public Task Cancel(Guid session, int epoch, long step)
    {
        host.Conductor.Cancel(session, epoch, step);
        return Task.CompletedTask;
    }

    public async Task Ready()
    {
        try
        {
            await _hosted.Ready;
        }
        catch (LayerUnavailableException)
        {
            // Whoever asks next gets a fresh attempt: the package may have been repaired.
            DeactivateOnIdle();
            throw;
        }
    }

    public Task<LayerReport> Report() => Task.FromResult(new LayerReport
    {
        Layer = _hosted.Key.Layer,
        Silo = host.Silo,
        Ready = _hosted.Ready.IsCompletedSuccessfully,
        Error = _hosted.Error,
        NativeBytes = _hosted.Layer?.NativeBytes ?? 0,
        WavesIn = _hosted.WavesIn,
        WavesOut = _hosted.WavesOut,
        Hints = _hosted.Hints,
        Counters = _hosted.Layer is { } layer ? Steps.ToWire(layer.Stats) : new LayerCounters(),
        Host = host.Report(),
    });

    public Task Deactivate()
    {
        DeactivateOnIdle();
        return Task.CompletedTask;
    }
}
