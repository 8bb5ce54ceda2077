using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The model as one would write it on a blackboard: scalar float32, plain loops, one token at a time, every weight in memory. It is the
/// oracle of the engine and the definition to read first: what a layer computes is <see cref="Forward"/>, top to bottom. It shares no
/// code with the engine but the weights. Immutable after construction; <see cref="Cache"/> and <see cref="Trace"/> belong to one caller.
/// <para>
/// Tensors come by name: <c>embed</c>, <c>positions</c>, <c>final_norm.weight</c>, <c>final_norm.bias</c>, <c>head</c>, and for layer N
/// <c>layers.N.</c> + <c>attn_norm.*</c>, <c>attn.qkv</c>, <c>attn.qkv.bias</c>, <c>attn.o</c>, <c>attn.o.bias</c>, <c>ffn_norm.*</c>,
/// <c>ffn.gate</c>, <c>ffn.up</c>, <c>ffn.down</c> and their biases. Matrices are row-major, one output per row, except <c>ffn.down</c>, which is
/// neuron-major as on flash: row i is what neuron i adds to the stream.
/// </para>
/// </summary>
public sealed class ReferenceModel
{
    // ---------------------------------------------------------------- weights

    private readonly float[] _embed;            // (vocab, d)
    private readonly float[]? _positions;       // (offset + max positions, d)
    private readonly float[] _finalNorm;        // (d)
    private readonly float[]? _finalNormBias;   // (d)
    private readonly float[] _head;             // (vocab, d)
    private readonly LayerWeights[] _layers;

    private sealed record LayerWeights(
        float[] AttnNorm,                       // (d)
        float[]? AttnNormBias,                  // (d)
        float[] Qkv,                            // ((heads + 2 kvHeads) headDim, d): query rows, key rows, value rows
        float[]? QkvBias,                       // ((heads + 2 kvHeads) headDim)
        float[] Out,                            // (d, heads headDim)
        float[]? OutBias,                       // (d)
        float[] FfnNorm,                        // (d)
        float[]? FfnNormBias,                   // (d)
        float[]? Gate,                          // (n_ff, d)
        float[]? GateBias,                      // (n_ff)
        float[] Up,                             // (n_ff, d)
        float[]? UpBias,                        // (n_ff)
        float[] Down,                           // (n_ff, d)
        float[]? DownBias);                     // (d)

    public ReferenceModel(ModelConfig config, Func<string, float[]> tensor)
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentNullException.ThrowIfNull(tensor);
        Config = config;
        ModelConfig c = config;
        int d = c.HiddenSize;
        float[] Get(string name, int rows, int cols)
        {
            float[] t = tensor(name);
            return t.Length == rows * cols ? t : throw new ArgumentException($"tensor {name} has {t.Length} numbers, {rows} x {cols} expected");
        }
        float[]? GetIf(bool has, string name, int n) => has ? Get(name, 1, n) : null;

        bool layerNorm = c.Norm == NormKind.Layer;
        _embed = Get("embed", c.VocabSize, d);
        _positions = c.Positions == PositionKind.Learned ? Get("positions", c.PositionOffset + c.MaxPositions, d) : null;
        _finalNorm = Get("final_norm.weight", 1, d);
        _finalNormBias = GetIf(layerNorm, "final_norm.bias", d);
        _head = c.TiedHead ? _embed : Get("head", c.VocabSize, d);
        _layers = new LayerWeights[c.Layers];
        for (int i = 0; i < c.Layers; i++)
        {
            string p = $"layers.{i}.";
            _layers[i] = new LayerWeights(
                Get(p + "attn_norm.weight", 1, d), GetIf(layerNorm, p + "attn_norm.bias", d),
                Get(p + "attn.qkv", c.QkvRows, d), GetIf(c.AttentionBias, p + "attn.qkv.bias", c.QkvRows),
                Get(p + "attn.o", d, c.Heads * c.HeadDim), GetIf(c.AttentionBias, p + "attn.o.bias", d),
                Get(p + "ffn_norm.weight", 1, d), GetIf(layerNorm, p + "ffn_norm.bias", d),
                c.Gated ? Get(p + "ffn.gate", c.FfnSize, d) : null, GetIf(c.Gated && c.FfnBias, p + "ffn.gate.bias", c.FfnSize),
                Get(p + "ffn.up", c.FfnSize, d), GetIf(c.FfnBias, p + "ffn.up.bias", c.FfnSize),
                Get(p + "ffn.down", c.FfnSize, d), GetIf(c.FfnBias, p + "ffn.down.bias", d));
        }
    }

    /// <summary>The model of a package, with its weights as they are stored there.</summary>
    public static ReferenceModel FromPackage(FlashPackage package)
    {
        ArgumentNullException.ThrowIfNull(package);
        return new ReferenceModel(package.Config, new PackageTensors(package).Read);
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

    /// <summary>One token at the cache's next position: logits over the vocabulary.</summary>
    public float[] Forward(int token, Cache cache, Trace? trace = null)
    {
        ArgumentNullException.ThrowIfNull(cache);
        ModelConfig c = Config;
        int d = c.HiddenSize, pos = cache.Length;
        if ((uint)token >= (uint)c.VocabSize) throw new ArgumentOutOfRangeException(nameof(token), token, $"the vocabulary has {c.VocabSize} tokens");
        if (pos >= c.MaxPositions) throw new ArgumentOutOfRangeException(nameof(cache), pos, $"the model has {c.MaxPositions} positions");

        float[] x = Row(_embed, token, d);                                           // (d) the residual stream
        if (_positions != null) AddTo(x, Row(_positions, pos + c.PositionOffset, d));

        for (int i = 0; i < c.Layers; i++)
        {
            trace?.Hidden[i].Add((float[])x.Clone());
            LayerWeights w = _layers[i];
            AddTo(x, Attention(w, Norm(x, w.AttnNorm, w.AttnNormBias), pos, cache.Keys[i], cache.Values[i]));
            AddTo(x, FeedForward(w, Norm(x, w.FfnNorm, w.FfnNormBias), i, trace));
        }

        trace?.Hidden[c.Layers].Add((float[])x.Clone());
        float[] logits = MatVec(_head, null, Norm(x, _finalNorm, _finalNormBias), c.VocabSize);
        trace?.Logits.Add(logits);
        return logits;
    }

    private float[] Attention(LayerWeights w, float[] x, int pos, List<float[]> keys, List<float[]> values)
    {
        ModelConfig c = Config;
        int hd = c.HeadDim, group = c.Heads / c.KvHeads;
        float[] qkv = MatVec(w.Qkv, w.QkvBias, x, c.QkvRows);
        float[] q = qkv[..(c.Heads * hd)];                                           // (heads, headDim)
        float[] k = qkv[(c.Heads * hd)..((c.Heads + c.KvHeads) * hd)];               // (kvHeads, headDim)
        float[] v = qkv[((c.Heads + c.KvHeads) * hd)..];                             // (kvHeads, headDim)
        if (c.Positions == PositionKind.Rope)
        {
            Rotate(q, c.Heads, pos);
            Rotate(k, c.KvHeads, pos);
        }
        keys.Add(k);
        values.Add(v);

        float scale = 1f / MathF.Sqrt(hd);
        float[] mixed = new float[c.Heads * hd];                                     // (heads, headDim)
        float[] p = new float[pos + 1];                                              // attention over positions 0..pos
        for (int h = 0; h < c.Heads; h++)
        {
            int kv = h / group * hd;                                                 // grouped-query: several heads share one key/value head
            for (int t = 0; t <= pos; t++)
            {
                float s = 0;
                for (int j = 0; j < hd; j++) s += q[h * hd + j] * keys[t][kv + j];
                p[t] = s * scale;
            }
            Softmax(p);
            for (int t = 0; t <= pos; t++)
                for (int j = 0; j < hd; j++) mixed[h * hd + j] += p[t] * values[t][kv + j];
        }
        return MatVec(w.Out, w.OutBias, mixed, c.HiddenSize);
    }

    private float[] FeedForward(LayerWeights w, float[] x, int layer, Trace? trace)
    {
        ModelConfig c = Config;
        int d = c.HiddenSize, n = c.FfnSize;
        float[] up = MatVec(w.Up, w.UpBias, x, n);                                   // (n_ff)
        float[] pre = w.Gate != null ? MatVec(w.Gate, w.GateBias, x, n) : up;        // (n_ff)
        float[] y = w.DownBias != null ? (float[])w.DownBias.Clone() : new float[d]; // (d)
        bool[] active = new bool[n];
        for (int i = 0; i < n; i++)
        {
            float a = c.Activation == Activation.Relu ? MathF.Max(pre[i], 0) : pre[i] / (1 + Exp(-pre[i]));
            if (a == 0) continue;                                                    // exactly zero: the neuron adds nothing
            active[i] = true;
            if (w.Gate != null) a *= up[i];
            for (int j = 0; j < d; j++) y[j] += a * w.Down[i * d + j];
        }
        trace?.FfnPre[layer].Add(pre);
        trace?.FfnActive[layer].Add(active);
        return y;
    }

    // ---------------------------------------------------------------- whole sequences

    /// <summary>Runs a sequence from its beginning and keeps everything.</summary>
    public Trace Run(ReadOnlySpan<int> tokens)
    {
        var cache = new Cache(Config);
        var trace = new Trace(Config);
        foreach (int token in tokens) Forward(token, cache, trace);
        return trace;
    }

    /// <summary>The tokens that follow when always the most likely one is taken (the lowest id among equals); ends only by count.</summary>
    public int[] Greedy(ReadOnlySpan<int> prompt, int count)
    {
        if (prompt.IsEmpty) throw new ArgumentException("a continuation needs at least one token", nameof(prompt));
        var cache = new Cache(Config);
        float[] logits = [];
        foreach (int token in prompt) logits = Forward(token, cache);
        int[] next = new int[count];
        for (int i = 0; i < count; i++)
        {
            next[i] = ArgMax(logits);
            if (i + 1 < count) logits = Forward(next[i], cache);
        }
        return next;
    }

    public static int ArgMax(ReadOnlySpan<float> logits)
    {
        int best = 0;
        for (int i = 1; i < logits.Length; i++)
            if (logits[i] > logits[best]) best = i;
        return best;
    }

    // ---------------------------------------------------------------- blocks

    /// <summary>y = W x + b; W is (rows, x.Length).</summary>
    private static float[] MatVec(float[] w, float[]? b, float[] x, int rows)
    {
        float[] y = new float[rows];
        for (int r = 0; r < rows; r++)
        {
            ReadOnlySpan<float> row = w.AsSpan(r * x.Length, x.Length);
            float sum = 0;
            for (int j = 0; j < row.Length; j++) sum += row[j] * x[j];
            y[r] = b != null ? sum + b[r] : sum;
        }
        return y;
    }

    private float[] Norm(float[] x, float[] weight, float[]? bias)
    {
        int d = x.Length;
        float mean = 0, square = 0;
        if (Config.Norm == NormKind.Layer)
        {
            for (int j = 0; j < d; j++) mean += x[j];
            mean /= d;
        }
        for (int j = 0; j < d; j++) square += (x[j] - mean) * (x[j] - mean);
        float inverse = 1f / MathF.Sqrt(square / d + Config.NormEps);
        float[] y = new float[d];
        for (int j = 0; j < d; j++) y[j] = (x[j] - mean) * inverse * weight[j] + (bias != null ? bias[j] : 0);
        return y;
    }

    /// <summary>Rotary positions: within each head number j and number j + headDim/2 are turned as a pair.</summary>
    private void Rotate(float[] x, int heads, int pos)
    {
        int hd = Config.HeadDim, half = hd / 2;
        for (int j = 0; j < half; j++)
        {
            float frequency = (float)(1.0 / Math.Pow(Config.RopeTheta, 2.0 * j / hd));
            float angle = pos * frequency;
            float cos = MathF.Cos(angle), sin = MathF.Sin(angle);
            for (int h = 0; h < heads; h++)
            {
                float a = x[h * hd + j], b = x[h * hd + j + half];
                x[h * hd + j] = a * cos - b * sin;
                x[h * hd + j + half] = b * cos + a * sin;
            }
        }
    }

    private static void Softmax(float[] p)
    {
        float max = float.NegativeInfinity, sum = 0;
        foreach (float s in p) max = MathF.Max(max, s);
        for (int t = 0; t < p.Length; t++) sum += p[t] = Exp(p[t] - max);
        for (int t = 0; t < p.Length; t++) p[t] /= sum;
    }

    private static float Exp(float x) => (float)Math.Exp(x);

    private static float[] Row(float[] matrix, int row, int cols) => matrix[(row * cols)..((row + 1) * cols)];

    private static void AddTo(float[] x, float[] y)
    {
        for (int j = 0; j < x.Length; j++) x[j] += y[j];
    }
}
