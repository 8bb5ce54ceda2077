using System.Collections.Concurrent;
using System.Globalization;
using System.IO.Hashing;
using System.Text;
using Orleans.Placement;
using Orleans.Runtime;
using Orleans.Runtime.MembershipService.SiloMetadata;
using Orleans.Runtime.Placement;

namespace FlashOrleans.Grains;

/// <summary>Layer and prefetch grains go where the silos' metadata says that their layer runs.</summary>
[AttributeUsage(AttributeTargets.Class)]
internal sealed class LayerPlacementAttribute() : PlacementAttribute(new LayerPlacement());

[Serializable, GenerateSerializer, Immutable, SuppressReferenceTracking, Alias("flashorleans.layer-placement")]
internal sealed class LayerPlacement : PlacementStrategy;

/// <summary>
/// Chooses a silo for a layer as a pure function of the key and the silos' metadata ("flashorleans.layers": "0-3" or "0,2,4"); it never calls a grain, which
/// could deadlock activation. A layer and its prefetch grain have the same key, so they meet. Order of preference: silos that name the layer, silos
/// that name none (or whose metadata has not come yet), any. Among equals the package alone decides (rendezvous hash): without metadata all layers
/// of a package share a silo and no wave crosses the network; spreading is asked for by metadata.
/// </summary>
internal sealed class LayerPlacementDirector(ISiloMetadataCache metadata) : IPlacementDirector
{
    public const string MetadataKey = "flashorleans.layers";
    private readonly ConcurrentDictionary<string, LayerRanges> _ranges = new(StringComparer.Ordinal);

    public Task<SiloAddress> OnAddActivation(PlacementStrategy strategy, PlacementTarget target, IPlacementContext context)
    {
        SiloAddress[] silos = context.GetCompatibleSilos(target);
        if (silos.Length == 0) throw new OrleansException($"no silo can run {target.GrainIdentity}");
        return Task.FromResult(Choose(target.GrainIdentity.Key.ToString() ?? "", silos, LayersOf));
    }

    internal static SiloAddress Choose(string key, IReadOnlyList<SiloAddress> silos, Func<SiloAddress, LayerRanges?> layersOf)
    {
        if (!LayerKey.TryParse(key, out LayerKey layer)) return silos[0];
        SiloAddress? best = null;
        (int Rank, ulong Hash) bestScore = default;
        foreach (SiloAddress silo in silos)
        {
            LayerRanges? ranges = layersOf(silo);
            int rank = ranges is null ? 1 : ranges.Contains(layer.Layer) ? 2 : 0;
            (int, ulong) score = (rank, XxHash3.HashToUInt64(Encoding.UTF8.GetBytes($"{layer.Package} {silo.ToParsableString()}")));
            if (best is not null && score.CompareTo(bestScore) <= 0) continue;
            best = silo;
            bestScore = score;
        }
        return best!;
    }

    private LayerRanges? LayersOf(SiloAddress silo) =>
        metadata.GetSiloMetadata(silo)?.Metadata.TryGetValue(MetadataKey, out string? text) == true && !string.IsNullOrWhiteSpace(text)
            ? _ranges.GetOrAdd(text, static t => LayerRanges.Parse(t))
            : null;
}

/// <summary>Which layers a silo runs: "0-3", "0,2,4", or both kinds mixed.</summary>
internal sealed class LayerRanges
{
    private readonly (int First, int Last)[] _ranges;

    private LayerRanges((int, int)[] ranges) => _ranges = ranges;

    public static LayerRanges Parse(string text)
    {
        List<(int, int)> ranges = [];
        foreach (string part in text.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))
        {
            int dash = part.IndexOf('-', StringComparison.Ordinal);
            string from = dash < 0 ? part : part[..dash], to = dash < 0 ? part : part[(dash + 1)..];
            if (!int.TryParse(from, NumberStyles.None, CultureInfo.InvariantCulture, out int first)
                || !int.TryParse(to, NumberStyles.None, CultureInfo.InvariantCulture, out int last) || last < first)
                throw new FormatException($"\"{text}\" does not say which layers: expected ranges like \"0-3\" or \"0,2,4\"");
            ranges.Add((first, last));
        }
        if (ranges.Count == 0) throw new FormatException($"\"{text}\" names no layer: expected ranges like \"0-3\" or \"0,2,4\"");
        return new LayerRanges([.. ranges]);
    }

    public bool Contains(int layer)
    {
        foreach ((int first, int last) in _ranges)
        {
            if (layer >= first && layer <= last) return true;
        }
        return false;
    }
}
