using System.Runtime.InteropServices;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using Orleans.Placement;

namespace FlashOrleans.Grains;

/// <summary>
/// Look-ahead for the layer beside it. Its turn asks the layer's policy (depth, budget, usefulness) how many of the predicted units are worth a read and
/// enqueues those; hidden rows from another silo are handed to the engine, which predicts on its own threads. Without its layer here it
/// has nothing to do and leaves; the director brings it back beside the layer.
/// </summary>
[GrainType("prefetch"), KeepAlive, Immovable, LayerPlacement]
internal sealed class PrefetchGrain(LayerHost host) : Grain, IPrefetchGrain
{
    private LayerKey _key;

    public override Task OnActivateAsync(CancellationToken cancellationToken)
    {
        _key = LayerKey.Parse(this.GetPrimaryKeyString());
        return Task.CompletedTask;
    }

    public Task Hint(PrefetchHint hint)
    {
        if (!hint.TryClaim(out byte[] array)) return Task.CompletedTask;
        HostedLayer? hosted = host.Find(_key);
        if (hosted is null) DeactivateOnIdle();
        else if (hosted.Layer is { } layer && hosted.Options.Prefetch) Apply(layer, hint, array.AsSpan(0, hint.Length));
        PrefetchHint.Return(array);
        return Task.CompletedTask;
    }

    private void Apply(Layer layer, PrefetchHint hint, ReadOnlySpan<byte> data)
    {
        if (hint.Rows)
        {
            if (layer.Policy.Decide()) host.Conductor.PredictAndPrefetch(layer, MemoryMarshal.Cast<byte, float>(data), hint.Count);
            return;
        }
        ReadOnlySpan<int> units = MemoryMarshal.Cast<byte, int>(data);
        host.Conductor.Prefetch(layer, units[..layer.Policy.Admit(units.Length)]);
    }
}
