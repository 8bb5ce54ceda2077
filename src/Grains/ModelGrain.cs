using FlashOrleans.Abstractions;
using FlashOrleans.Flash;

namespace FlashOrleans.Grains;

/// <summary>
/// What a model name means. Everything it says comes from the host's catalogue and the layer grains, so losing it costs nothing. Off the token path: a turn asks
/// it once, at its start, and sees a package that was imported again meanwhile. The layers of the one before leave memory then: their files
/// are gone, and a turn that still runs on them ends with a line that says so.
/// </summary>
[GrainType("model")]
internal sealed class ModelGrain(LayerHost host) : Grain, IModelGrain
{
    private ModelInfo? _last;

    public async Task<ModelInfo> Info()
    {
        ModelInfo info;
        try
        {
            info = await host.Catalog.ResolveAsync(this.GetPrimaryKeyString());
        }
        catch (FlashException e)
        {
            throw new ModelNotFoundException(e.Message);
        }
        ModelInfo? before = _last;
        _last = info;
        if (before is not null && before.Package != info.Package) await RetireAsync(before);
        return info;
    }

    public async Task<ModelReport> EnsureReady()
    {
        ModelInfo info = await Info();
        await Task.WhenAll(Layers(info).Select(static layer => layer.Ready()));
        return await Report(info);
    }

    public async Task<ModelReport> Report() => await Report(await Info());

    public async Task Unload() => await RetireAsync(await Info());

    private async Task RetireAsync(ModelInfo info)
    {
        await host.Catalog.ForgetAsync(info.Package);
        await Task.WhenAll(Layers(info).Select(static layer => layer.Deactivate()));
    }

    private async Task<ModelReport> Report(ModelInfo info)
    {
        LayerReport[] layers = await Task.WhenAll(Layers(info).Select(static layer => layer.Report()));
        return new ModelReport { Info = info, Layers = layers, Hosts = [.. layers.Select(static l => l.Host).DistinctBy(static h => h.Silo)] };
    }

    private IEnumerable<ILayerGrain> Layers(ModelInfo info) =>
        Enumerable.Range(0, info.Layers).Select(k => GrainFactory.GetGrain<ILayerGrain>(new LayerKey(info.Package, k).ToString()));
}
