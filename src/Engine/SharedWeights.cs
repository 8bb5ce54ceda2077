using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What layers of one package share in one host, counted by its users: edge weights (first and last layer), rotary tables, and the slots that scans and stretches take turns in. The loader thread attaches,
/// the conductor detaches; a lock keeps them apart.
/// </summary>
internal sealed class SharedWeights(MemoryLedger ledger, IFlashReader reader) : IDisposable
{
    private readonly Lock _gate = new();
    private readonly Dictionary<string, EdgeWeights> _edges = [];
    private readonly Dictionary<string, RopeTable> _ropes = [];
    private readonly Dictionary<string, Sweep> _sweeps = [];
    private readonly Dictionary<Layer, Uses> _users = [];

    /// <summary>By which keys a layer uses what.</summary>
    private readonly record struct Uses(string? Edge, string? Rope, string? Sweep);

    /// <summary>Loader thread: loads or shares what the layer needs.</summary>
    public (EdgeWeights? Edge, RopeTable? Rope, Sweep? Sweep) Attach(Layer layer)
    {
        lock (_gate)
        {
            string key = layer.Package.Hash;
            try
            {
                return (EdgeOf(layer, key), RopeOf(layer, key), SweepOf(layer, key));
            }
            catch
            {
                Leave(layer);
                throw;
            }
        }
    }

    private EdgeWeights? EdgeOf(Layer layer, string key)
    {
        if (!layer.IsFirst && !layer.IsLast) return null;
        if (!_edges.TryGetValue(key, out var edge)) _edges.Add(key, edge = new EdgeWeights(layer.Package, ledger, layer.Package.Name + "/edge"));
        edge.Users++;
        _users[layer] = UsesOf(layer) with { Edge = key };
        if (layer.IsFirst) edge.LoadFirst();
        if (layer.IsLast) edge.LoadLast();
        return edge;
    }

    private RopeTable? RopeOf(Layer layer, string key)
    {
        if (layer.Config.RopeOf(layer.Index) is not { } how) return null;
        // Sliding layers may rotate by angles of their own.
        if (ReferenceEquals(how, layer.Config.SlidingRope)) key += "/sliding";
        if (!_ropes.TryGetValue(key, out var rope))
            _ropes.Add(key, rope = new RopeTable(how, layer.Config.HeadDim, layer.Config.MaxPositions, ledger, layer.Package.Name + "/rope"));
        rope.Users++;
        _users[layer] = UsesOf(layer) with { Rope = key };
        return rope;
    }

    private Sweep? SweepOf(Layer layer, string key)
    {
        if (!layer.Sweeps) return null;
        if (!_sweeps.TryGetValue(key, out var sweep)) _sweeps.Add(key, sweep = new Sweep(layer, reader, ledger));
        sweep.Users++;
        _users[layer] = UsesOf(layer) with { Sweep = key };
        return sweep;
    }

    private Uses UsesOf(Layer layer) => _users.GetValueOrDefault(layer);

    /// <summary>Conductor thread: the layer is gone.</summary>
    public void Detach(Layer layer)
    {
        lock (_gate) Leave(layer);
    }

    private void Leave(Layer layer)
    {
        if (!_users.Remove(layer, out var used)) return;
        if (used.Edge is { } e && --_edges[e].Users == 0 && _edges.Remove(e, out var edge)) edge.Dispose();
        if (used.Rope is { } r && --_ropes[r].Users == 0 && _ropes.Remove(r, out var rope)) rope.Dispose();
        if (used.Sweep is { } s && --_sweeps[s].Users == 0 && _sweeps.Remove(s, out var sweep)) sweep.Dispose();
    }

    public void Dispose()
    {
        foreach (var edge in _edges.Values) edge.Dispose();
        foreach (var rope in _ropes.Values) rope.Dispose();
        foreach (var sweep in _sweeps.Values) sweep.Dispose();
        _edges.Clear();
        _ropes.Clear();
        _sweeps.Clear();
    }
}
