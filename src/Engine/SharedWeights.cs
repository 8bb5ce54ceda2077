using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What layers of one package share in one host, counted by its users: edge weights (first and last layer) and rotary tables. The loader thread attaches,
/// the conductor detaches; a lock keeps them apart.
/// </summary>
internal sealed class SharedWeights(MemoryLedger ledger) : IDisposable
{
    private readonly Lock _gate = new();
    private readonly Dictionary<string, EdgeWeights> _edges = [];
    private readonly Dictionary<string, RopeTable> _ropes = [];
    private readonly Dictionary<Layer, (string? Edge, string? Rope)> _users = [];

    /// <summary>Loader thread: loads or shares what the layer needs.</summary>
    public (EdgeWeights? Edge, RopeTable? Rope) Attach(Layer layer)
    {
        lock (_gate)
        {
            string key = layer.Package.Hash;
            EdgeWeights? edge = null;
            RopeTable? rope = null;
            if (layer.IsFirst || layer.IsLast)
            {
                if (!_edges.TryGetValue(key, out edge)) _edges.Add(key, edge = new EdgeWeights(layer.Package, ledger, layer.Package.Name + "/edge"));
                edge.Users++;
                try
                {
                    if (layer.IsFirst) edge.LoadFirst();
                    if (layer.IsLast) edge.LoadLast();
                }
                catch
                {
                    Release(key);
                    throw;
                }
            }
            string ropeKey = key;
            if (layer.Config.RopeOf(layer.Index) is { } how)
            {
                // Sliding layers may rotate by angles of their own.
                if (ReferenceEquals(how, layer.Config.SlidingRope)) ropeKey += "/sliding";
                if (!_ropes.TryGetValue(ropeKey, out rope))
                    _ropes.Add(ropeKey, rope = new RopeTable(how, layer.Config.HeadDim, layer.Config.MaxPositions, ledger, layer.Package.Name + "/rope"));
                rope.Users++;
            }
            _users[layer] = (edge == null ? null : key, rope == null ? null : ropeKey);
            return (edge, rope);
        }
    }

    /// <summary>Conductor thread: the layer is gone.</summary>
    public void Detach(Layer layer)
    {
        lock (_gate)
        {
            if (!_users.Remove(layer, out var used)) return;
            if (used.Edge != null) Release(used.Edge);
            if (used.Rope != null && --_ropes[used.Rope].Users == 0 && _ropes.Remove(used.Rope, out var rope)) rope.Dispose();
        }
    }

    private void Release(string key)
    {
        if (--_edges[key].Users == 0 && _edges.Remove(key, out var edge)) edge.Dispose();
    }

    public void Dispose()
    {
        foreach (var edge in _edges.Values) edge.Dispose();
        foreach (var rope in _ropes.Values) rope.Dispose();
        _edges.Clear();
        _ropes.Clear();
    }
}
