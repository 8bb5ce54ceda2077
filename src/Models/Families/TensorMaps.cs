using System.Globalization;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// Rows of ours in a tensor of the checkpoint, seen as a matrix of its last dimension's columns: our row k is its row <paramref name="First"/> + k · <paramref name="Step"/>,
/// or, <paramref name="Transposed"/>, that column between the rows from <paramref name="Base"/> on.
/// </summary>
internal sealed record Run(string Source, int First, int Count, int Step = 1, bool Transposed = false, int Base = 0);

/// <summary>One tensor of the package in terms of the checkpoint: runs of rows below each other, for vectors (one row) runs of numbers behind each other.</summary>
internal sealed record TensorMap(string Name, int Rows, int Cols, IReadOnlyList<Run> Runs)
{
    public bool IsVector { get; init; }
    /// <summary>Added to every number.</summary>
    public float Offset { get; init; }
}

/// <summary>A tensor that the checkpoint must have, and its shape there.</summary>
internal sealed record SourceShape(string Name, long[] Shape);

/// <summary>
/// The tensors of a package in terms of a checkpoint's, from a configuration and a family's names. Queries and keys are reordered so that number j and
/// number j + HeadDim/2 of a head turn as a pair: a rotated part that is smaller than the head, or neighbours turned as pairs, is a matter of import, not of the engine.
/// </summary>
internal sealed class TensorMaps
{
    private readonly ModelConfig _c;
    private readonly TensorNames _n;
    private readonly string _prefix;
    private readonly Action<SourceShape>? _demand;
    private readonly Dictionary<string, long[]> _shapes = new(StringComparer.Ordinal);
    private readonly List<TensorMap> _maps = [];

    private TensorMaps(ModelConfig config, TensorNames names, string prefix, Action<SourceShape>? demand)
    {
        _demand = demand;
        _c = config;
        _n = names;
        _prefix = prefix;
    }

    /// <param name="config">The model's shape.</param>
    /// <param name="names">What its family calls the tensors.</param>
    /// <param name="prefix">Before the names of all but the head.</param>
    /// <param name="demand">Refuses a tensor that is not there, as soon as it is known to be needed: a configuration of a few lines may promise more of them than fit in memory.</param>
    public static (IReadOnlyList<TensorMap> Maps, IReadOnlyList<SourceShape> Shapes) For(ModelConfig config, TensorNames names, string prefix, Action<SourceShape>? demand = null)
    {
        var maps = new TensorMaps(config, names, prefix, demand);
        maps.Edge();
        for (int i = 0; i < config.Layers; i++) maps.Layer(i);
        return (maps._maps, [.. maps._shapes.Select(s => new SourceShape(s.Key, s.Value))]);
    }

    private void Edge()
    {
        int d = _c.HiddenSize, e = _c.EmbeddingWidth;
        Rows("embed", _prefix + _n.Embedding + ".weight", _c.VocabSize, e);
        if (_c.Positions == PositionKind.Learned) Rows("positions", _prefix + _n.Positions + ".weight", _c.PositionOffset + _c.MaxPositions, d);
        if (e != d)
        {
            Rows("project_in", _prefix + _n.ProjectIn + ".weight", d, e);
            Rows("project_out", _prefix + _n.ProjectOut + ".weight", e, d);
        }
        if (_c.FinalNorm) Norm("final_norm", _prefix + _n.FinalNorm);
        if (!_c.TiedHead) Rows("head", _n.Head + ".weight", _c.VocabSize, e);
        if (_c.HeadBias) Vector("head.bias", _n.Head + ".bias", _c.VocabSize);
    }

    private void Layer(int i)
    {
        string o = string.Create(CultureInfo.InvariantCulture, $"layers.{i}."), s = string.Create(CultureInfo.InvariantCulture, $"{_prefix}{_n.Layer}.{i}.");
        if (_c.HasInputNorms) Norm(o + "attn_norm", s + _n.AttnNorm);
        if (_c.HasOutputNorms) Norm(o + "attn_out_norm", s + _n.AttnOutNorm);
        if (_c.HasFfnNorm) Norm(o + "ffn_norm", s + _n.FfnNorm);
        if (_c.HasOutputNorms) Norm(o + "ffn_out_norm", s + _n.FfnOutNorm);
        if (_c.Latent is { } latent) LatentAttention(latent, i, o, s);
        else Attention(i, o, s);
        if (_c.ExpertsOf(i) is { } experts) Experts(experts, o, s);
        else FeedForward(o, s);
    }

    private void Attention(int layer, string o, string s)
    {
        int d = _c.HiddenSize, hd = _c.HeadDim, queries = _c.Heads * hd, kv = _c.KvHeads * hd;
        int[] order = HeadOrder(layer);
        var weight = new List<Run>();
        var bias = new List<Run>();
        void Add(string source, int first, bool rotated)
        {
            foreach (Run run in HeadRuns(source, first, rotated ? order : null))
            {
                weight.Add(run with { Source = source + ".weight", Transposed = _n.InputsFirst });
                bias.Add(run with { Source = source + ".bias" });
            }
        }
        if (_n.Qkv is { } fused)
        {
            int group = _c.Heads / _c.KvHeads;
            // First row of query head h, key head h and value head h.
            (Func<int, int> q, Func<int, int> k, Func<int, int> v) = _n.QkvOrder == QkvOrder.Stacked
                ? ((Func<int, int>)(h => h * hd), (Func<int, int>)(h => queries + h * hd), (Func<int, int>)(h => queries + kv + h * hd))
                : (h => (h / group * (group + 2) + h % group) * hd, h => (h * (group + 2) + group) * hd, h => (h * (group + 2) + group + 1) * hd);
            for (int h = 0; h < _c.Heads; h++) Add(s + fused, q(h), rotated: true);
            for (int h = 0; h < _c.KvHeads; h++) Add(s + fused, k(h), rotated: true);
            for (int h = 0; h < _c.KvHeads; h++) Add(s + fused, v(h), rotated: false);
            Shape(s + fused + ".weight", _n.InputsFirst ? [d, _c.QkvRows] : [_c.QkvRows, d]);
            if (_c.AttentionBias) Shape(s + fused + ".bias", [_c.QkvRows]);
        }
        else
        {
            foreach ((string name, int heads, bool rotated) in new[] { (_n.Q, _c.Heads, true), (_n.K, _c.KvHeads, true), (_n.V, _c.KvHeads, false) })
            {
                for (int h = 0; h < heads; h++) Add(s + name, h * hd, rotated);
                Shape(s + name + ".weight", _n.InputsFirst ? [d, heads * hd] : [heads * hd, d]);
                if (_c.AttentionBias) Shape(s + name + ".bias", [heads * hd]);
            }
        }
        _maps.Add(new TensorMap(o + "attn.qkv", _c.QkvRows, d, Merge(weight)));
        if (_c.AttentionBias) _maps.Add(new TensorMap(o + "attn.qkv.bias", 1, _c.QkvRows, Merge(bias)) { IsVector = true });
        if (_c.QkNorm != QkNorm.None)
        {
            QkNormOf(o + "attn.q_norm", s + _n.QNorm, _c.QkNorm == QkNorm.Head ? 1 : _c.Heads, order);
            QkNormOf(o + "attn.k_norm", s + _n.KNorm, _c.QkNorm == QkNorm.Head ? 1 : _c.KvHeads, order);
        }
        if (_c.Sinks) Vector(o + "attn.sinks", s + _n.Sinks, _c.Heads);
        Rows(o + "attn.o", s + _n.O + ".weight", d, queries, _n.InputsFirst);
        if (_c.HasOutputBias) Vector(o + "attn.o.bias", s + _n.O + ".bias", d);
    }

    /// <summary>The rotated part is the end of the checkpoint's heads, and the beginning of each half of ours.</summary>
    private void LatentAttention(LatentConfig latent, int layer, string o, string s)
    {
        int d = _c.HiddenSize, hd = _c.HeadDim, vd = _c.ValueHeadDim, own = hd - latent.RopeDim, rank = latent.KvRank, turned = latent.RopeDim / 2;
        int[] order = HeadOrder(layer, own);
        string kv = s + _n.KvLatent + ".weight", queries = s + (latent.QueryRank > 0 ? _n.QFromLatent : _n.Q) + ".weight";
        Shape(kv, [rank + latent.RopeDim, d]);
        Shape(queries, [_c.Heads * hd, latent.QueryRank > 0 ? latent.QueryRank : d]);
        List<Run> heads = Merge([.. Enumerable.Range(0, _c.Heads).SelectMany(h => HeadRuns(queries, h * hd, order))]);
        List<Run> first = heads;
        if (latent.QueryRank > 0)
        {
            string compressed = s + _n.QLatent + ".weight";
            Shape(compressed, [latent.QueryRank, d]);
            first = [new Run(compressed, 0, latent.QueryRank)];
            Vector(o + "attn.q_latent_norm", s + _n.QLatentNorm + ".weight", latent.QueryRank);
            _maps.Add(new TensorMap(o + "attn.q_b", _c.Heads * hd, latent.QueryRank, heads));
        }
        IEnumerable<Run> rotated = order[..turned].Concat(order[(hd / 2)..(hd / 2 + turned)]).Select(j => new Run(kv, rank + j - own, 1));
        _maps.Add(new TensorMap(o + "attn.qkv", _c.ProjectedRows, d, Merge([.. first, new Run(kv, 0, rank), .. rotated])));
        Vector(o + "attn.kv_latent_norm", s + _n.KvLatentNorm + ".weight", rank);
        // What is not rotated: in the order that the queries have it in.
        int[] parts = [.. order[turned..(hd / 2)], .. order[(hd / 2 + turned)..]];
        IEnumerable<Run> keyRows;
        Run[] values;
        if (_n.KeysFromLatent is { } apart)
        {
            string ofKeys = s + apart + ".weight", ofValues = s + _n.ValuesFromLatent + ".weight";
            Shape(ofKeys, [_c.Heads, rank, own]);
            Shape(ofValues, [_c.Heads, vd, rank]);
            keyRows = Enumerable.Range(0, _c.Heads).SelectMany(h => parts.Select(j => new Run(ofKeys, j, 1, Transposed: true, Base: h * rank)));
            values = [new Run(ofValues, 0, _c.Heads * vd)];
        }
        else
        {
            string both = s + _n.KvFromLatent + ".weight";
            Shape(both, [_c.Heads * (own + vd), rank]);
            keyRows = Enumerable.Range(0, _c.Heads).SelectMany(h => parts.Select(j => new Run(both, h * (own + vd) + j, 1)));
            values = [.. Enumerable.Range(0, _c.Heads).Select(h => new Run(both, h * (own + vd) + own, vd))];
        }
        List<Run> keys = Merge([.. keyRows]);
        _maps.Add(new TensorMap(o + "attn.k_b", _c.Heads * own, rank, keys));
        _maps.Add(new TensorMap(o + "attn.v_b", _c.Heads * vd, rank, values));
        Rows(o + "attn.o", s + _n.O + ".weight", d, _c.AttendedSize);
        if (_c.HasOutputBias) Vector(o + "attn.o.bias", s + _n.O + ".bias", d);
    }

    /// <summary>Where number j of our head is in the checkpoint's, whose rotated part begins at <paramref name="from"/>.</summary>
    private int[] HeadOrder(int layer, int from = 0)
    {
        int hd = _c.HeadDim, half = hd / 2;
        int[] order = [.. Enumerable.Range(0, hd)];
        if (_c.RopeOf(layer) is not { } rope) return order;
        int turned = (rope.Dims == 0 ? hd : rope.Dims) / 2, rest = from > 0 ? 0 : 2 * turned;
        for (int j = 0; j < half; j++)
        {
            order[j] = j >= turned ? rest++ : from + (_n.Rotation == RotationOrder.Neighbours ? 2 * j : j);
            order[j + half] = j >= turned ? rest++ : from + (_n.Rotation == RotationOrder.Neighbours ? 2 * j + 1 : j + turned);
        }
        return order;
    }

    /// <summary>One head's rows, in our order where it is rotated.</summary>
    private IEnumerable<Run> HeadRuns(string source, int first, int[]? order)
    {
        if (order == null) return [new Run(source, first, _c.HeadDim)];
        return order.Select(j => new Run(source, first + j, 1));
    }

    private void QkNormOf(string name, string source, int heads, int[] order)
    {
        int n = heads * _c.HeadDim;
        foreach (string part in _c.HasNormBias ? new[] { ".weight", ".bias" } : [".weight"])
        {
            Shape(source + part, [n]);
            var runs = Enumerable.Range(0, heads).SelectMany(h => HeadRuns(source + part, h * _c.HeadDim, order)).ToList();
            _maps.Add(new TensorMap(name + part, 1, n, Merge(runs)) { IsVector = true, Offset = part == ".weight" ? _n.NormOffset : 0 });
        }
    }

    private void FeedForward(string o, string s)
    {
        int d = _c.HiddenSize, n = _c.FfnSize;
        if (_n.GateUp is { } fused)
        {
            Shape(s + fused + ".weight", [2 * n, d]);
            _maps.Add(new TensorMap(o + "ffn.gate", n, d, [new Run(s + fused + ".weight", 0, n)]));
            _maps.Add(new TensorMap(o + "ffn.up", n, d, [new Run(s + fused + ".weight", n, n)]));
        }
        else
        {
            if (_c.Gated) Rows(o + "ffn.gate", s + _n.Gate + ".weight", n, d, _n.InputsFirst);
            Rows(o + "ffn.up", s + _n.Up + ".weight", n, d, _n.InputsFirst);
        }
        Rows(o + "ffn.down", s + _n.Down + ".weight", n, d, transposed: !_n.InputsFirst && !_n.DownByNeuron);
        if (!_c.FfnBias) return;
        if (_c.Gated) Vector(o + "ffn.gate.bias", s + _n.Gate + ".bias", n);
        Vector(o + "ffn.up.bias", s + _n.Up + ".bias", n);
        Vector(o + "ffn.down.bias", s + _n.Down + ".bias", d);
    }

    private void Experts(ExpertConfig e, string o, string s)
    {
        int d = _c.HiddenSize;
        Rows(o + e.RouterSection, s + _n.Router + ".weight", e.Count, d);
        if (e.RouterBias) Vector(o + "ffn.router.bias", s + _n.Router + ".bias", e.Count);
        if (e.ChoiceBias) Vector(o + "ffn.router.choice", s + _n.ChoiceBias, e.Count, row: _n.ChoiceBiasIsRow);
        if (e.SharedSize > 0)
        {
            if (_c.Gated) Rows(o + "ffn.shared.gate", s + _n.SharedGate + ".weight", e.SharedSize, d);
            Rows(o + "ffn.shared.up", s + _n.SharedUp + ".weight", e.SharedSize, d);
            Rows(o + "ffn.shared.down", s + _n.SharedDown + ".weight", d, e.SharedSize);
            if (e.SharedGate) Vector(o + "ffn.shared.mix", s + _n.SharedMix + ".weight", d, row: _n.SharedMixIsRow);
        }
        if (_n.FusedExperts is { } fused)
        {
            string both = s + fused + "gate_up_proj", down = s + fused + "down_proj";
            Shape(both, [e.Count, d, 2 * e.Size]);
            Shape(both + "_bias", [e.Count, 2 * e.Size]);
            Shape(down, [e.Count, e.Size, d]);
            Shape(down + "_bias", [e.Count, d]);
            foreach ((string name, int first) in new[] { ("ffn.gate", 0), ("ffn.up", 1) })
            {
                _maps.Add(new TensorMap(o + name, e.Count * e.Size, d, [.. Enumerable.Range(0, e.Count).Select(x => new Run(both, first, e.Size, 2, Transposed: true, Base: x * d))]));
                _maps.Add(new TensorMap(o + name + ".bias", 1, e.Count * e.Size, [new Run(both + "_bias", first, e.Count * e.Size, 2)]) { IsVector = true });
            }
            _maps.Add(new TensorMap(o + "ffn.down", e.Count * e.Size, d, [new Run(down, 0, e.Count * e.Size)]));
            _maps.Add(new TensorMap(o + "ffn.down.bias", e.Count, d, [new Run(down + "_bias", 0, e.Count)]));
            return;
        }
        if (_n.StackedExperts is { } stacked)
        {
            foreach (string part in new[] { "gate", "up", "down" })
            {
                bool down = part == "down", turned = down && !_n.DownByNeuron;
                string source = s + string.Format(CultureInfo.InvariantCulture, stacked, down && !turned ? "down_t" : part), weight = source + ".weight", bias = source + ".bias";
                Shape(weight, turned ? [e.Count, d, e.Size] : [e.Count, e.Size, d]);
                _maps.Add(new TensorMap(o + "ffn." + part, e.Count * e.Size, d,
                    turned ? [.. Enumerable.Range(0, e.Count).Select(x => new Run(weight, 0, e.Size, Transposed: true, Base: x * d))] : [new Run(weight, 0, e.Count * e.Size)]));
                if (!_c.FfnBias) continue;
                Shape(bias, [e.Count, down ? d : e.Size]);
                _maps.Add(down ? new TensorMap(o + "ffn.down.bias", e.Count, d, [new Run(bias, 0, e.Count)])
                    : new TensorMap(o + "ffn." + part + ".bias", 1, e.Count * e.Size, [new Run(bias, 0, e.Count * e.Size)]) { IsVector = true });
            }
            return;
        }
        if (_n.PairedExperts is { } paired)
        {
            string both = s + paired + ".weight", down = s + _n.ExpertDown + ".weight";
            Shape(both, [e.Count, 2 * e.Size, d]);
            Shape(down, [e.Count, d, e.Size]);
            foreach ((string name, int first) in new[] { ("ffn.gate", 0), ("ffn.up", e.Size) })
                _maps.Add(new TensorMap(o + name, e.Count * e.Size, d, [.. Enumerable.Range(0, e.Count).Select(x => new Run(both, 2 * x * e.Size + first, e.Size))]));
            _maps.Add(new TensorMap(o + "ffn.down", e.Count * e.Size, d, [.. Enumerable.Range(0, e.Count).Select(x => new Run(down, 0, e.Size, Transposed: true, Base: x * d))]));
            return;
        }
        foreach ((string name, string part, bool transposed) in new[] { ("ffn.gate", _n.ExpertGate, false), ("ffn.up", _n.ExpertUp, false), ("ffn.down", _n.ExpertDown, true) })
        {
            string[] sources = [.. Enumerable.Range(0, e.Count).Select(x => s + string.Format(CultureInfo.InvariantCulture, _n.Experts!, x) + part + ".weight")];
            foreach (string source in sources) Shape(source, transposed ? [d, e.Size] : [e.Size, d]);
            _maps.Add(new TensorMap(o + name, e.Count * e.Size, d, [.. sources.Select(x => new Run(x, 0, e.Size, Transposed: transposed))]));
        }
    }

    private void Norm(string name, string source)
    {
        Vector(name + ".weight", source + ".weight", _c.HiddenSize, _n.NormOffset);
        if (_c.HasNormBias) Vector(name + ".bias", source + ".bias", _c.HiddenSize);
    }

    /// <param name="name">Ours.</param>
    /// <param name="source">Theirs.</param>
    /// <param name="length">Numbers.</param>
    /// <param name="offset">Added to each.</param>
    /// <param name="row">There it is a matrix of one row.</param>
    private void Vector(string name, string? source, int length, float offset = 0, bool row = false)
    {
        Shape(source!, row ? [1, length] : [length]);
        _maps.Add(new TensorMap(name, 1, length, [new Run(source!, 0, length)]) { IsVector = true, Offset = offset });
    }

    private void Rows(string name, string source, int rows, int cols, bool transposed = false)
    {
        Shape(source, transposed ? [cols, rows] : [rows, cols]);
        _maps.Add(new TensorMap(name, rows, cols, [new Run(source, 0, rows, Transposed: transposed)]));
    }

    private void Shape(string source, long[] shape)
    {
        _demand?.Invoke(new SourceShape(source, shape));
        _shapes[source] = shape;
    }

    /// <summary>Runs that go on where the one before ended become one, so that a head in its old order is one read.</summary>
    private static List<Run> Merge(List<Run> runs)
    {
        var merged = new List<Run>();
        foreach (Run run in runs)
        {
            if (merged.Count > 0 && merged[^1] is var last && last.Source == run.Source && last.Transposed == run.Transposed && last.Base == run.Base)
            {
                int step = last.Count == 1 && run.Count == 1 ? run.First - last.First : last.Step;
                if (step > 0 && (run.Count == 1 || (run.Step == step && step == 1)) && run.First == last.First + last.Count * step && (last.Count == 1 || last.Step == step))
                {
                    merged[^1] = last with { Count = last.Count + run.Count, Step = step };
                    continue;
                }
            }
            merged.Add(run);
        }
        return merged;
    }
}
