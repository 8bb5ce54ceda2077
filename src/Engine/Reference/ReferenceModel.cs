using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The model as one would write it on a blackboard: scalar float32, plain loops, one token at a time, every weight in memory. It is the
/// oracle of the engine and the definition to read first: what a layer computes is <see cref="Layer"/>, top to bottom. It shares no
/// code with the engine but the weights and the rotary frequencies. Immutable after construction; <see cref="Cache"/> and <see cref="Trace"/> belong to one caller.
/// <para>
/// Tensors come by name: <c>embed</c>, <c>positions</c>, <c>project_in</c>, <c>project_out</c>, <c>final_norm.*</c>, <c>head</c>, <c>head.bias</c>, and for layer N
/// <c>layers.N.</c> + <c>attn_norm.*</c>, <c>attn.qkv</c>, <c>attn.q_latent_norm</c>, <c>attn.q_b</c>, <c>attn.kv_latent_norm</c>, <c>attn.k_b</c>, <c>attn.v_b</c>, <c>attn.q_norm.*</c>, <c>attn.k_norm.*</c>, <c>attn.sinks</c>, <c>attn.o</c>, <c>attn_out_norm.*</c>, <c>ffn_norm.*</c>,
/// <c>ffn.router</c> or <c>ffn.router.early</c>, <c>ffn.router.choice</c>, <c>ffn.shared.gate</c>, <c>ffn.shared.up</c>, <c>ffn.shared.down</c>, <c>ffn.shared.mix</c>, <c>ffn.gate</c>, <c>ffn.up</c>, <c>ffn.down</c>, <c>ffn_out_norm.*</c> and their biases. Matrices are row-major, one output per row, except <c>ffn.down</c>, which is
/// neuron-major as on flash: row i is what neuron i adds to the stream.
/// </para>
/// </summary>
public sealed partial class ReferenceModel
{
    // ---------------------------------------------------------------- weights

    private readonly float[] _embed;            // (vocab, embedding width)
    private readonly float[]? _positions;       // (offset + max positions, d)
    private readonly float[]? _projectIn;       // (d, embedding width)
    private readonly float[]? _projectOut;      // (embedding width, d)
    private readonly NormWeights? _finalNorm;   // (d)
    private readonly float[] _head;             // (vocab, embedding width)
    private readonly float[]? _headBias;        // (vocab)
    private readonly LayerWeights[] _layers;

    private sealed record NormWeights(float[] Weight, float[]? Bias);

    private sealed record LayerWeights(
        NormWeights? AttnNorm,                  // (d)
        float[] Qkv, float[]? QkvBias,          // (heads headDim + kvHeads headDim + kvHeads valueDim, d): query rows, key rows, value rows; or what makes latents
        Latent? Latent,
        NormWeights? QNorm, NormWeights? KNorm, // (headDim), or (heads headDim) and (kvHeads headDim)
        float[]? Sinks,                         // (heads)
        float[] Out, float[]? OutBias,          // (d, heads valueDim)
        NormWeights? AttnOutNorm,               // (d)
        NormWeights? FfnNorm,                   // (d)
        float[]? Router, float[]? RouterBias,   // (experts, d)
        float[]? ChoiceBias,                    // (experts)
        SharedExpert? Shared,
        float[]? Gate, float[]? GateBias,       // (n_ff, d)
        float[] Up, float[]? UpBias,            // (n_ff, d)
        float[] Down, float[]? DownBias,        // (n_ff, d); bias (d), of experts (experts, d)
        NormWeights? FfnOutNorm,                // (d)
        Predictor? Predictor);                  // mode predicted: the other neurons are left out

    private sealed record Latent(
        float[]? QueryNorm,                     // (query rank)
        float[]? Queries,                       // (heads headDim, query rank)
        float[] Norm,                           // (rank)
        float[] Keys,                           // (heads (headDim - ropeDim), rank)
        float[] Values);                        // (heads valueDim, rank)

    private sealed record SharedExpert(
        float[]? Gate, float[] Up,              // (n, d)
        float[] Down,                           // (d, n)
        float[]? Mix);                          // (d)

    private sealed record Predictor(
        float[]? Sketch,                        // (n_ff, d), or
        float[] Fc1,                            // (rank, d)
        float[] Fc2,                            // (n_ff, rank)
        LowRank Low,
        bool GuessesActivation,
        float[] Core);                          // neurons that are always chosen

    /// <param name="config">The model's shape.</param>
    /// <param name="tensor">Its numbers, by name.</param>
    /// <param name="predictors">Null: every neuron takes part. Else only those whose score reaches the threshold, by <c>predictor.fc1</c> and <c>predictor.fc2</c> of each layer.</param>
    public ReferenceModel(ModelConfig config, Func<string, float[]> tensor, PredictorConfig? predictors = null)
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentNullException.ThrowIfNull(tensor);
        Config = config;
        ModelConfig c = config;
        int d = c.HiddenSize, e = c.EmbeddingWidth, queries = c.Heads * c.HeadDim;
        float[] Get(string name, int rows, int cols)
        {
            float[] t = tensor(name);
            return t.Length == rows * cols ? t : throw new ArgumentException($"tensor {name} has {t.Length} numbers, {rows} x {cols} expected");
        }
        float[]? GetIf(bool has, string name, int rows, int cols) => has ? Get(name, rows, cols) : null;
        NormWeights? Norm(bool has, string name, int n) => has ? new NormWeights(Get(name + ".weight", 1, n), GetIf(c.HasNormBias, name + ".bias", 1, n)) : null;

        _embed = Get("embed", c.VocabSize, e);
        _positions = GetIf(c.Positions == PositionKind.Learned, "positions", c.PositionOffset + c.MaxPositions, d);
        _projectIn = GetIf(e != d, "project_in", d, e);
        _projectOut = GetIf(e != d, "project_out", e, d);
        _finalNorm = Norm(c.FinalNorm, "final_norm", d);
        _head = c.TiedHead ? _embed : Get("head", c.VocabSize, e);
        _headBias = GetIf(c.HeadBias, "head.bias", 1, c.VocabSize);
        _layers = new LayerWeights[c.Layers];
        for (int i = 0; i < c.Layers; i++)
        {
            string p = $"layers.{i}.";
            int n = c.NeuronsOf(i);
            ExpertConfig? x = c.ExpertsOf(i);
            bool each = c.QkNorm == QkNorm.Head;
            _layers[i] = new LayerWeights(
                Norm(c.HasInputNorms, p + "attn_norm", d),
                Get(p + "attn.qkv", c.ProjectedRows, d), GetIf(c.AttentionBias, p + "attn.qkv.bias", 1, c.QkvRows),
                c.Latent is { } l ? new Latent(
                    GetIf(l.QueryRank > 0, p + "attn.q_latent_norm", 1, l.QueryRank), GetIf(l.QueryRank > 0, p + "attn.q_b", queries, l.QueryRank),
                    Get(p + "attn.kv_latent_norm", 1, l.KvRank), Get(p + "attn.k_b", c.Heads * (c.HeadDim - l.RopeDim), l.KvRank), Get(p + "attn.v_b", c.ValueRows, l.KvRank)) : null,
                Norm(c.QkNorm != QkNorm.None, p + "attn.q_norm", each ? c.HeadDim : queries), Norm(c.QkNorm != QkNorm.None, p + "attn.k_norm", each ? c.HeadDim : c.KvHeads * c.HeadDim),
                GetIf(c.Sinks, p + "attn.sinks", 1, c.Heads),
                Get(p + "attn.o", d, c.AttendedSize), GetIf(c.HasOutputBias, p + "attn.o.bias", 1, d),
                Norm(c.HasOutputNorms, p + "attn_out_norm", d),
                Norm(c.HasFfnNorm, p + "ffn_norm", d),
                GetIf(x != null, p + x?.RouterSection, x?.Count ?? 0, d), GetIf(x is { RouterBias: true }, p + "ffn.router.bias", 1, x?.Count ?? 0),
                GetIf(x is { ChoiceBias: true }, p + "ffn.router.choice", 1, x?.Count ?? 0),
                x is { SharedSize: > 0 and var size } ? new SharedExpert(GetIf(c.Gated, p + "ffn.shared.gate", size, d), Get(p + "ffn.shared.up", size, d), Get(p + "ffn.shared.down", d, size), GetIf(x.SharedGate, p + "ffn.shared.mix", 1, d)) : null,
                GetIf(c.Gated, p + "ffn.gate", n, d), GetIf(c.Gated && c.FfnBias, p + "ffn.gate.bias", 1, n),
                Get(p + "ffn.up", n, d), GetIf(c.FfnBias, p + "ffn.up.bias", 1, n),
                Get(p + "ffn.down", n, d), GetIf(c.FfnBias, p + "ffn.down.bias", x?.Count ?? 1, d),
                Norm(c.HasOutputNorms, p + "ffn_out_norm", d),
                predictors?.Layers[i] is { } low ? new Predictor(
                    low.Rank == 0 ? Get(p + PackageLayout.Sketch, n, d) : null, low.Rank > 0 ? Get(p + "predictor.fc1", low.Rank, d) : [], low.Rank > 0 ? Get(p + "predictor.fc2", n, low.Rank) : [],
                    low, predictors.GuessesActivation, low.Core is { } core ? Get(p + PackageLayout.Core, 1, core) : []) : null);
        }
    }

    /// <summary>The model of a package, with its weights as they are stored there; <paramref name="predicted"/>: only neurons that its predictors choose take part.</summary>
    public static ReferenceModel FromPackage(FlashPackage package, bool predicted = false)
    {
        ArgumentNullException.ThrowIfNull(package);
        return new ReferenceModel(package.Config, new PackageTensors(package).Read, predicted ? package.Manifest.Predictors : null);
    }

    public ModelConfig Config { get; }

    // ---------------------------------------------------------------- state

    /// <summary>Keys and values of one sequence, per layer and position (kvHeads x headDim numbers each).</summary>
    public sealed class Cache(ModelConfig config)
    {
        internal readonly List<float[]>[] Keys = Lists<float[]>(config.Layers);
        internal readonly List<float[]>[] Values = Lists<float[]>(config.Layers);

        /// <summary>Tokens so far: the position of the next one.</summary>
        public int Length => Keys[0].Count;
    }

    /// <summary>What went on inside, one entry per position.</summary>
    public sealed class Trace(ModelConfig config)
    {
        /// <summary>(T)(vocab).</summary>
        public List<float[]> Logits { get; } = [];
        /// <summary>(L + 1)(T)(d): [0] is the input of layer 0, [i] the output of layer i - 1; the last one is before the final norm.</summary>
        public List<float[]>[] Hidden { get; } = Lists<float[]>(config.Layers + 1);
        /// <summary>(L)(T)(n_ff): what goes into the activation (gate x, or up x where there is no gate).</summary>
        public List<float[]>[] FfnPre { get; } = Lists<float[]>(config.Layers);
        /// <summary>(L)(T)(n_ff): the activation is not zero, the neuron contributes.</summary>
        public List<bool[]>[] FfnActive { get; } = Lists<bool[]>(config.Layers);
    }

    private static List<T>[] Lists<T>(int count)
    {
        var lists = new List<T>[count];
        for (int i = 0; i < count; i++) lists[i] = [];
        return lists;
    }

    // ---------------------------------------------------------------- the forward pass

    /// <summary>One token at the cache's next position: logits over the vocabulary. Some rotations depend on <paramref name="length"/>, the tokens of the whole sequence; 0: up to this one.</summary>
    public float[] Forward(int token, Cache cache, Trace? trace = null, int length = 0)
    {
        ArgumentNullException.ThrowIfNull(cache);
        ModelConfig c = Config;
        int d = c.HiddenSize, pos = cache.Length;
        if ((uint)token >= (uint)c.VocabSize) throw new ArgumentOutOfRangeException(nameof(token), token, $"the vocabulary has {c.VocabSize} tokens");
        if (pos >= c.MaxPositions) throw new ArgumentOutOfRangeException(nameof(cache), pos, $"the model has {c.MaxPositions} positions");
        length = Math.Max(length, pos + 1);

        float[] x = Row(_embed, token, c.EmbeddingWidth);                            // (d) the residual stream
        Scale(x, c.EmbeddingScale);
        if (_projectIn != null) x = MatVec(_projectIn, null, x, d);
        if (_positions != null) AddTo(x, Row(_positions, pos + c.PositionOffset, d));

        for (int i = 0; i < c.Layers; i++)
        {
            trace?.Hidden[i].Add((float[])x.Clone());
            x = Layer(i, x, pos, length, cache, trace);
        }

        trace?.Hidden[c.Layers].Add((float[])x.Clone());
        if (_finalNorm != null) x = Norm(x, _finalNorm);
        if (_projectOut != null) x = MatVec(_projectOut, null, x, c.EmbeddingWidth);
        float[] logits = MatVec(_head, _headBias, x, c.VocabSize);
        Scale(logits, c.LogitScale);
        Cap(logits, c.LogitSoftcap);
        trace?.Logits.Add(logits);
        return logits;
    }

    private float[] Layer(int i, float[] x, int pos, int length, Cache cache, Trace? trace)
    {
        ModelConfig c = Config;
        LayerWeights w = _layers[i];
        bool before = c.NormPlacement is NormPlacement.Pre or NormPlacement.Sandwich, after = c.NormPlacement == NormPlacement.Post;

        float[] normed = before ? Norm(x, w.AttnNorm!) : x;
        float[] attended = Attention(i, w, normed, pos, length, cache.Keys[i], cache.Values[i]);
        if (w.AttnOutNorm != null) attended = Norm(attended, w.AttnOutNorm);
        Scale(attended, c.ResidualScale);

        float[] h = (float[])x.Clone();                                              // the stream after attention
        AddTo(h, attended);
        if (after) h = Norm(h, w.AttnNorm!);

        float[] stream = c.Parallel ? x : h, input = stream;
        if (before) input = c.SharedNorm ? normed : Norm(input, w.FfnNorm!);
        bool[]? chosen = w.Predictor != null ? Choose(w.Predictor, w.Predictor.GuessesActivation ? input : stream, c.Gated ? w.GateBias : w.UpBias, c.NeuronsOf(i)) : null;
        float[] added = w.Router != null ? Experts(w, input, c.Experts!, c.Experts!.Early ? x : input) : FeedForward(w, input, chosen, i, trace);
        if (w.FfnOutNorm != null) added = Norm(added, w.FfnOutNorm);
        Scale(added, c.ResidualScale);
        AddTo(h, added);
        return after ? Norm(h, w.FfnNorm!) : h;
    }

    private float[] Attention(int layer, LayerWeights w, float[] x, int pos, int length, List<float[]> keys, List<float[]> values)
    {
        ModelConfig c = Config;
        int hd = c.HeadDim, group = c.Heads / c.KvHeads;
        int vd = c.ValueHeadDim;
        float[] qkv = MatVec(w.Qkv, w.QkvBias, x, c.ProjectedRows);
        if (c.Latent is { } latent) qkv = Expand(w.Latent!, latent, qkv);
        float[] q = qkv[..(c.Heads * hd)];                                           // (heads, headDim)
        float[] k = qkv[(c.Heads * hd)..((c.Heads + c.KvHeads) * hd)];               // (kvHeads, headDim)
        float[] v = qkv[((c.Heads + c.KvHeads) * hd)..];                             // (kvHeads, valueDim)
        if (w.QNorm != null) q = NormRuns(q, w.QNorm);
        if (w.KNorm != null) k = NormRuns(k, w.KNorm);
        if (c.RopeOf(layer) is { } rope)
        {
            float[] frequencies = RopeFrequencies.For(rope, hd, length);
            Rotate(q, c.Heads, pos, frequencies, (float)rope.AttentionFactor);
            Rotate(k, c.KvHeads, pos, frequencies, (float)rope.AttentionFactor);
        }
        keys.Add(k);
        values.Add(v);

        float scale = c.AttentionScale == 0 ? 1f / MathF.Sqrt(hd) : c.AttentionScale;
        int first = Math.Max(0, pos - Math.Min(pos, c.WindowOf(layer) - 1));         // the oldest position this one sees
        float[] mixed = new float[c.AttendedSize];                                   // (heads, valueDim)
        float[] p = new float[pos + 1 - first];                                      // attention over positions first..pos
        for (int h = 0; h < c.Heads; h++)
        {
            int kv = h / group * hd, value = h / group * vd;                         // grouped-query: several heads share one key/value head
            for (int t = first; t <= pos; t++)
            {
                float s = 0;
                for (int j = 0; j < hd; j++) s += q[h * hd + j] * keys[t][kv + j];
                p[t - first] = s * scale;
            }
            Cap(p, c.AttentionSoftcap);
            Softmax(p, w.Sinks?[h]);
            for (int t = first; t <= pos; t++)
                for (int j = 0; j < vd; j++) mixed[h * vd + j] += p[t - first] * values[t][value + j];
        }
        return MatVec(w.Out, w.OutBias, mixed, c.HiddenSize);
    }

    /// <summary>Queries, keys and values of what was projected: the queries or their latent, the latent of keys and values, the rotated part of every key.</summary>
    private float[] Expand(Latent w, LatentConfig latent, float[] projected)
    {
        int hd = Config.HeadDim, own = hd - latent.RopeDim, end = projected.Length - latent.RopeDim, kv = end - latent.KvRank;
        float[] q = projected[..kv], compressed = Norm(projected[kv..end], new NormWeights(w.Norm, null), latent.NormEps), rotated = projected[end..];
        if (w.Queries != null) q = MatVec(w.Queries, null, Norm(q, new NormWeights(w.QueryNorm!, null), latent.NormEps), Config.Heads * hd);
        float[] parts = MatVec(w.Keys, null, compressed, Config.Heads * own), k = new float[Config.Heads * hd];
        for (int h = 0; h < Config.Heads; h++)
            for (int j = 0; j < hd / 2; j++)
            {
                // The pairs that are rotated come first in both halves.
                int turned = latent.RopeDim / 2, rest = h * own + j - turned;
                k[h * hd + j] = j < turned ? rotated[j] : parts[rest];
                k[h * hd + hd / 2 + j] = j < turned ? rotated[turned + j] : parts[rest + own / 2];
            }
        return [.. q, .. k, .. MatVec(w.Values, null, compressed, Config.ValueRows)];
    }

    /// <summary>Neurons whose score reaches the threshold: fc2 · relu(fc1 · x), or a guess of the pre-activation; and those that always are.</summary>
    private static bool[] Choose(Predictor p, float[] x, float[]? bias, int neurons)
    {
        if (!p.GuessesActivation) bias = null;
        float[] score;
        if (p.Sketch != null) score = MatVec(p.Sketch, bias, x, neurons);
        else
        {
            float[] middle = MatVec(p.Fc1, null, x, p.Low.Rank);
            score = MatVec(p.Fc2, bias, p.GuessesActivation ? middle : [.. middle.Select(static v => MathF.Max(v, 0))], neurons);
        }
        bool[] chosen = [.. score.Select(s => s >= p.Low.Threshold)];
        foreach (float id in p.Core) chosen[(int)id] = true;
        return chosen;
    }

    private float[] FeedForward(LayerWeights w, float[] x, bool[]? chosen, int layer, Trace? trace)
    {
        ModelConfig c = Config;
        int n = c.NeuronsOf(layer);
        float[] up = MatVec(w.Up, w.UpBias, x, n);                                   // (n_ff)
        float[] pre = w.Gate != null ? MatVec(w.Gate, w.GateBias, x, n) : up;        // (n_ff)
        float[] y = w.DownBias != null ? (float[])w.DownBias.Clone() : new float[c.HiddenSize];
        bool[] active = new bool[n];
        for (int i = 0; i < n; i++)
        {
            float a = chosen == null || chosen[i] ? Activate(pre[i], up[i]) : 0;
            if (a == 0) continue;                                                    // exactly zero: the neuron adds nothing
            active[i] = true;
            AddNeuron(y, a, w.Down, i);
        }
        trace?.FfnPre[layer].Add(pre);
        trace?.FfnActive[layer].Add(active);
        return y;
    }

    /// <summary>The router's favourites, each a feed-forward of its own, weighted by its score; and beside them the one that all tokens use.</summary>
    private float[] Experts(LayerWeights w, float[] x, ExpertConfig e, float[] routed)
    {
        float[] score = MatVec(w.Router!, w.RouterBias, routed, e.Count);
        if (e.Score == RouterScore.Softmax) Softmax(score);
        else for (int i = 0; i < e.Count; i++) score[i] = Sigmoid(score[i]);
        int[] chosen = Choose(e, [.. score.Select((s, i) => s + (w.ChoiceBias?[i] ?? 0))]);
        float total = e.Normalised ? MathF.Max(chosen.Sum(i => score[i]) + e.SumEps, e.SumFloor) : 1;
        int d = x.Length;
        float[] y = w.Shared != null ? Shared(w.Shared, x) : new float[d];
        foreach (int expert in chosen)
        {
            float weight = score[expert] / total * (e.Scale ?? 1);
            for (int i = expert * e.Size; i < (expert + 1) * e.Size; i++)
            {
                float up = Dot(w.Up, i, x) + (w.UpBias?[i] ?? 0);
                float pre = w.Gate != null ? Dot(w.Gate, i, x) + (w.GateBias?[i] ?? 0) : up;
                AddNeuron(y, Activate(pre, up) * weight, w.Down, i);
            }
            for (int j = 0; j < d && w.DownBias != null; j++) y[j] += weight * w.DownBias[expert * d + j];
        }
        return y;
    }

    /// <summary>The highest scores: where there are groups, of those whose best are highest together.</summary>
    private static int[] Choose(ExpertConfig e, float[] score)
    {
        IEnumerable<int> open = Enumerable.Range(0, e.Count);
        if (e.Groups > 0)
        {
            int size = e.Count / e.Groups;
            float[] worth = [.. score.Chunk(size).Select(g => g.OrderDescending().Take(e.GroupBest).Sum())];
            int[] used = [.. Enumerable.Range(0, e.Groups).OrderByDescending(g => worth[g]).ThenBy(g => g).Take(e.UsedGroups)];
            open = open.Where(i => used.Contains(i / size));
        }
        return [.. open.OrderByDescending(i => score[i]).ThenBy(i => i).Take(e.Active)];
    }

    private float[] Shared(SharedExpert w, float[] x)
    {
        int n = w.Up.Length / x.Length;
        float[] up = MatVec(w.Up, null, x, n), pre = w.Gate != null ? MatVec(w.Gate, null, x, n) : up;
        float[] y = MatVec(w.Down, null, [.. pre.Zip(up, Activate)], x.Length);
        if (w.Mix != null) Scale(y, Sigmoid(Dot(w.Mix, 0, x)));
        return y;
    }

    /// <summary>What a neuron contributes: act(pre), times up where there is a gate.</summary>
    private float Activate(float pre, float up)
    {
        float limit = Config.ActivationParameter;
        float a = Config.Activation switch
        {
            Activation.Relu or Activation.DRelu => MathF.Max(pre, 0),
            Activation.Relu2 => MathF.Max(pre, 0) * MathF.Max(pre, 0),
            Activation.FatRelu => pre > limit ? pre : 0,
            Activation.Silu => pre / (1 + Exp(-pre)),
            Activation.Gelu => 0.5f * pre * (1 + Erf(pre / MathF.Sqrt(2))),
            Activation.GeluTanh => 0.5f * pre * (1 + MathF.Tanh(MathF.Sqrt(2 / MathF.PI) * (pre + 0.044715f * pre * pre * pre))),
            Activation.ClampedSwiglu => MathF.Min(pre, limit) / (1 + Exp(-1.702f * MathF.Min(pre, limit))),
            _ => throw new NotSupportedException($"activation {Config.Activation}"),
        };
        if (!Config.Gated) return a;
        return a * Config.Activation switch
        {
            Activation.DRelu => MathF.Max(up, 0),
            Activation.ClampedSwiglu => Math.Clamp(up, -limit, limit) + 1,
            _ => up,
        };
    }

    // ---------------------------------------------------------------- whole sequences

    /// <summary>Runs a sequence from its beginning and keeps everything.</summary>
    public Trace Run(ReadOnlySpan<int> tokens)
    {
        var cache = new Cache(Config);
        var trace = new Trace(Config);
        foreach (int token in tokens) Forward(token, cache, trace, tokens.Length);
        return trace;
    }

    /// <summary>The tokens that follow when always the most likely one is taken (the lowest id among equals); ends only by count.</summary>
    public int[] Greedy(ReadOnlySpan<int> prompt, int count)
    {
        if (prompt.IsEmpty) throw new ArgumentException("a continuation needs at least one token", nameof(prompt));
        var cache = new Cache(Config);
        List<int> tokens = [.. prompt];
        float[] logits = [];
        foreach (int token in tokens) logits = Forward(token, cache, length: tokens.Count);
        while (true)
        {
            tokens.Add(ArgMax(logits));
            if (tokens.Count == prompt.Length + count) return [.. tokens.Skip(prompt.Length)];
            if (!RopeFrequencies.SameRegime(Config.Rope, tokens.Count - 1, tokens.Count))
            {
                cache = new Cache(Config);                                           // every key is rotated anew
                foreach (int token in tokens.SkipLast(1)) Forward(token, cache, length: tokens.Count);
            }
            logits = Forward(tokens[^1], cache);
        }
    }

    public static int ArgMax(ReadOnlySpan<float> logits)
    {
        int best = 0;
        for (int i = 1; i < logits.Length; i++)
            if (logits[i] > logits[best]) best = i;
        return best;
    }
}
