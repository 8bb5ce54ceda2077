using FlashOrleans.Abstractions;
using FlashOrleans.Flash;

namespace FlashOrleans.Grains;

/// <summary>
/// What a model name means, remembered until it is unloaded. Everything it says comes from the host's catalogue and the layer grains, so losing it costs
/// nothing. Off the token path: a turn asks it once, at its start.
/// </summary>
internal sealed class ModelGrain(LayerHost host) : Grain, IModelGrain
{
    private Task<ModelInfo>? _info;

    public async Task<ModelInfo> Info()
    {
        Task<ModelInfo> info = _info ??= host.Catalog.ResolveAsync(this.GetPrimaryKeyString());
        try
        {
            return await info;
        }
        catch (Exception e)
        {
            if (ReferenceEquals(_info, info)) _info = null;
            if (e is FlashException) throw new ModelNotFoundException(e.Message);
            throw;
        }
    }

    public async Task<ModelReport> EnsureReady()
    {
        ModelInfo info = await Info();
        await Task.WhenAll(Layers(info).Select(static layer => layer.Ready()));
        return await Report(info);
    }

    public async Task<ModelReport> Report() => await Report(await Info());

    public async Task Unload()
    {
        ModelInfo info = await Info();
        await Task.WhenAll(Layers(info).Select(static layer => layer.Deactivate()));
        _info = null;
    }

    private async Task<ModelReport> Report(ModelInfo info)
    {
        LayerReport[] layers = await Task.WhenAll(Layers(info).Select(static layer => layer.Report()));
        return new ModelReport { Info = info, Layers = layers, Hosts = [.. layers.Select(static l => l.Host).DistinctBy(static h => h.Silo)] };
    }

    private IEnumerable<ILayerGrain> Layers(ModelInfo info) =>
        Enumerable.Range(0, info.Layers).Select(k => GrainFactory.GetGrain<ILayerGrain>(new LayerKey(info.Package, k).ToString()));
}
