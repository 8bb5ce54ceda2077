using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Weight and, where there is one, bias of a norm; no weight: there is no such norm.</summary>
internal unsafe struct Norm
{
    public float* Weight;
    public float* Bias;
}

/// <summary>What makes queries (where they have a latent), the keys' own parts and values of normalised latents.</summary>
internal unsafe struct LatentWeights
{
    public float* QueryNorm, Norm;
    public byte* Queries, Keys, Values;
    public WeightFormat QueriesFormat, KeysFormat, ValuesFormat;
}

/// <summary>The expert that every token uses, as matrices; no up: there is none.</summary>
internal unsafe struct SharedExpert
{
    public byte* Gate, Up, Down;
    public WeightFormat GateFormat, UpFormat, DownFormat;
    /// <summary>One row: the sigmoid of its product with the input is the share that is added. Null: all of it.</summary>
    public float* Mix;
}

/// <summary>A predictor of whatever kind (<see cref="PredictorConfig"/>): a sketch, or fc1 and fc2; neither: there is none.</summary>
internal unsafe struct PredictorWeights
{
    public byte* Sketch;
    public WeightFormat SketchFormat;
    /// <summary>Scores are guesses of the pre-activation: of the feed-forward's own input, without a ReLU between, with the bias.</summary>
    public bool GuessesActivation;
    /// <summary>Neurons that are computed whatever the score says, in whole numbers.</summary>
    public float* Core;
    public int CoreCount;
    public byte* Fc1;
    public byte* Fc2;
    public WeightFormat Fc1Format;
    public WeightFormat Fc2Format;
    public int Rank;
    /// <summary>A score above this reaches the threshold.</summary>
    public float Cut;

    public readonly bool Exists => Fc1 != null || Sketch != null;
}

/// <summary>
/// The resident part of one slice: norms, attention, biases, the router of experts and what the mode chooses neurons by: for `exact` the selector (gate rows, or up rows
/// without a gate), for `predicted` the predictor. Loaded once on the loader thread, read-only afterwards, freed by the conductor when the layer is detached.
/// </summary>
internal sealed unsafe class LayerWeights : IDisposable
{
    private readonly List<NativeBuffer> _buffers = [];

    private LayerWeights(PackageFile slice)
    {
        QkvFormat = slice.Section("attn.qkv").Format;
        OutputFormat = slice.Section("attn.o").Format;
    }

    /// <summary>Queries, keys and, unless <see cref="Values"/> stand apart, values.</summary>
    public byte* Qkv { get; private set; }
    public WeightFormat QkvFormat { get; }
    /// <summary>Rows of <see cref="Qkv"/>.</summary>
    public int QkvRows { get; private set; }
    public byte* Values { get; private set; }
    public WeightFormat ValuesFormat { get; private set; }
    public LatentWeights Latent { get; private set; }
    public float* QkvBias { get; private set; }
    public byte* Output { get; private set; }
    public WeightFormat OutputFormat { get; }
    public float* OutputBias { get; private set; }
    public Norm AttentionNorm { get; private set; }
    public Norm QueryNorm { get; private set; }
    public Norm KeyNorm { get; private set; }
    public float* Sinks { get; private set; }
    public Norm AttentionOutNorm { get; private set; }
    public Norm FfnNorm { get; private set; }
    public Norm FfnOutNorm { get; private set; }
    /// <summary>Null unless the mode is exact.</summary>
    public byte* Selector { get; private set; }
    public WeightFormat SelectorFormat { get; private set; }
    /// <summary>From the stream that enters the feed-forward; in mode predicted.</summary>
    public PredictorWeights Predictor { get; private set; }
    /// <summary>From the input of the layer before, where the package has it and reads ahead are wanted.</summary>
    public PredictorWeights Lookahead { get; private set; }
    public byte* Router { get; private set; }
    public WeightFormat RouterFormat { get; private set; }
    public float* RouterBias { get; private set; }
    /// <summary>Added to an expert's score when experts are chosen.</summary>
    public float* ChoiceBias { get; private set; }
    public SharedExpert Shared { get; private set; }
    public float* UpBias { get; private set; }
    public float* GateBias { get; private set; }
    /// <summary>One row; with experts one row each.</summary>
    public float* DownBias { get; private set; }
    public long Bytes => _buffers.Sum(b => b.Length);

    public static LayerWeights Load(PackageFile slice, Manifest manifest, int layer, FeedForwardMode mode, bool prefetch, MemoryLedger ledger, string label)
    {
        ModelConfig config = manifest.Model;
        var weights = new LayerWeights(slice);
        try
        {
            byte* Bytes(string name)
            {
                if (!slice.Has(name)) return null;
                var buffer = slice.Load(name, ledger, label);
                weights._buffers.Add(buffer);
                return buffer.Pointer;
            }
            float* Floats(string name) => (float*)Bytes(name);
            Norm NormOf(string name)
            {
                float* weight = Floats(name + ".weight"), bias = Floats(name + ".bias");
                return new() { Weight = weight, Bias = bias == null && weight != null && config.Norm == NormKind.Layer ? Zeros(slice.Section(name + ".weight").Cols) : bias };
            }
            // The kernels' LayerNorm always adds a bias.
            float* Zeros(int n)
            {
                var buffer = new NativeBuffer(n * 4L, ledger, label);
                weights._buffers.Add(buffer);
                return (float*)buffer.Pointer;
            }
            WeightFormat FormatOf(string name) => slice.Has(name) ? slice.Section(name).Format : default;
            weights.AttentionNorm = NormOf("attn_norm");
            weights.QueryNorm = NormOf("attn.q_norm");
            weights.KeyNorm = NormOf("attn.k_norm");
            weights.AttentionOutNorm = NormOf("attn_out_norm");
            weights.FfnNorm = NormOf("ffn_norm");
            weights.FfnOutNorm = NormOf("ffn_out_norm");
            weights.Qkv = Bytes("attn.qkv");
            weights.QkvRows = slice.Section("attn.qkv").Rows;
            weights.Values = Bytes("attn.v");
            weights.ValuesFormat = FormatOf("attn.v");
            weights.Latent = new()
            {
                QueryNorm = Floats("attn.q_latent_norm"),
                Norm = Floats("attn.kv_latent_norm"),
                Queries = Bytes("attn.q_b"),
                Keys = Bytes("attn.k_b"),
                Values = Bytes("attn.v_b"),
                QueriesFormat = FormatOf("attn.q_b"),
                KeysFormat = FormatOf("attn.k_b"),
                ValuesFormat = FormatOf("attn.v_b"),
            };
            weights.QkvBias = Floats("attn.qkv.bias");
            weights.Sinks = Floats("attn.sinks");
            weights.Output = Bytes("attn.o");
            weights.OutputBias = Floats("attn.o.bias");
            weights.UpBias = Floats("ffn.up.bias");
            weights.GateBias = Floats("ffn.gate.bias");
            weights.DownBias = Floats("ffn.down.bias");
            string router = config.Experts?.RouterSection ?? "";
            weights.Router = Bytes(router);
            weights.RouterFormat = FormatOf(router);
            weights.RouterBias = Floats("ffn.router.bias");
            weights.ChoiceBias = Floats("ffn.router.choice");
            weights.Shared = new()
            {
                Gate = Bytes("ffn.shared.gate"),
                Up = Bytes("ffn.shared.up"),
                Down = Bytes("ffn.shared.down"),
                GateFormat = FormatOf("ffn.shared.gate"),
                UpFormat = FormatOf("ffn.shared.up"),
                DownFormat = FormatOf("ffn.shared.down"),
                Mix = Floats("ffn.shared.mix"),
            };
            weights.SelectorFormat = FormatOf("ffn.selector");
            PredictorWeights LowRank(string name, LowRank p) => new()
            {
                Sketch = Bytes(name + ".sketch"),
                SketchFormat = FormatOf(name + ".sketch"),
                GuessesActivation = manifest.Predictors!.GuessesActivation,
                Core = Floats(name + ".core"),
                CoreCount = p.Core ?? 0,
                Fc1 = Bytes(name + ".fc1"),
                Fc2 = Bytes(name + ".fc2"),
                Fc1Format = FormatOf(name + ".fc1"),
                Fc2Format = FormatOf(name + ".fc2"),
                Rank = p.Rank,
                Cut = MathF.BitDecrement(p.Threshold),
            };
            if (mode == FeedForwardMode.Exact) weights.Selector = Bytes("ffn.selector");
            if (mode == FeedForwardMode.Predicted) weights.Predictor = LowRank(PackageLayout.Predictor, manifest.Predictors!.Layers[layer]);
            if (mode != FeedForwardMode.Dense && prefetch && manifest.Predictors is { } trained && layer > 0 && (mode == FeedForwardMode.Predicted || !trained.GuessesActivation))
            {
                // Without a look-ahead of its own the predictor gets the input of the layer before: a little less right, and far cheaper than the selector. What guesses the
                // selector's products is no better than the selector, which `exact` has.
                weights.Lookahead = trained.LookaheadOf(layer) is { } ahead ? LowRank(PackageLayout.Lookahead, ahead)
                    : mode == FeedForwardMode.Predicted ? weights.Predictor : LowRank(PackageLayout.Predictor, trained.Layers[layer]);
            }
            return weights;
        }
        catch
        {
            weights.Dispose();
            throw;
        }
    }

    public void Dispose()
    {
        foreach (var buffer in _buffers) buffer.Dispose();
        _buffers.Clear();
    }
}

/// <summary>
/// What the ends of the model need from edge.bin, shared by the first and the last layer of one host: the output head and the final norm (last layer),
/// the learned positions (first layer), and the embedding matrix, which stays on flash and is read row by row unless it is the tied head
/// and the head is resident here. Loader thread builds, conductor reads and frees; counted by users.
/// </summary>
internal sealed unsafe class EdgeWeights : IDisposable
{
    private readonly PackageFile _file;
    private readonly MemoryLedger _ledger;
    private readonly string _label;
    private readonly List<NativeBuffer> _buffers = [];

    public EdgeWeights(FlashPackage package, MemoryLedger ledger, string label)
    {
        _file = package.OpenEdge();
        _ledger = ledger;
        _label = label;
        Tied = package.Config.TiedHead;
        EmbeddingFormat = _file.Section("embed").Format;
        HeadFormat = Tied ? EmbeddingFormat : _file.Section("head").Format;
    }

    public int Users { get; set; }
    public bool Tied { get; }
    public WeightFormat EmbeddingFormat { get; }
    public WeightFormat HeadFormat { get; }
    public byte* Head { get; private set; }
    public float* HeadBias { get; private set; }
    public Norm FinalNorm { get; private set; }
    /// <summary>From the embedding's width to the stream's and back, where they differ.</summary>
    public byte* ProjectIn { get; private set; }
    public byte* ProjectOut { get; private set; }
    public WeightFormat ProjectInFormat { get; private set; }
    public WeightFormat ProjectOutFormat { get; private set; }
    public float* Positions { get; private set; }
    /// <summary>Rows of the position table.</summary>
    public int PositionRows { get; private set; }
    public long Bytes => _buffers.Sum(b => b.Length);
    /// <summary>The embedding panels when they are resident anyway, else null.</summary>
    public byte* ResidentEmbedding => Tied ? Head : null;

    /// <summary>Embedding rows as units: panels of 16 rows, or single rows for float formats.</summary>
    public UnitRegion EmbeddingUnits() => _file.SectionUnits("embed");

    public void LoadFirst()
    {
        if (ProjectIn == null && _file.Has("project_in"))
        {
            ProjectInFormat = _file.Section("project_in").Format;
            ProjectIn = Load("project_in");
        }
        if (Positions != null || !_file.Has("positions")) return;
        PositionRows = _file.Section("positions").Rows;
        Positions = (float*)Load("positions");
    }

    public void LoadLast()
    {
        if (Head != null) return;
        if (_file.Has("final_norm.weight"))
            FinalNorm = new() { Weight = (float*)Load("final_norm.weight"), Bias = _file.Has("final_norm.bias") ? (float*)Load("final_norm.bias") : Zeros(_file.Section("final_norm.weight").Cols) };
        if (_file.Has("project_out"))
        {
            ProjectOutFormat = _file.Section("project_out").Format;
            ProjectOut = Load("project_out");
        }
        if (_file.Has("head.bias")) HeadBias = (float*)Load("head.bias");
        Head = Load(Tied ? "embed" : "head");
    }

    public void Dispose()
    {
        foreach (var buffer in _buffers) buffer.Dispose();
        _buffers.Clear();
        _file.Dispose();
    }

    private float* Zeros(int n)
    {
        var buffer = new NativeBuffer(n * 4L, _ledger, _label);
        _buffers.Add(buffer);
        return (float*)buffer.Pointer;
    }

    private byte* Load(string section)
    {
        var buffer = _file.Load(section, _ledger, _label);
        _buffers.Add(buffer);
        return buffer.Pointer;
    }
}
