using System.Text.Json.Serialization;

namespace FlashOrleans.Flash;

/// <summary>
/// What a neuron makes of its pre-activation. Those of the ReLU kind give exact zeros: <see cref="ModelConfig.IsSparse"/>.
/// </summary>
[JsonConverter(typeof(JsonStringEnumConverter<Activation>))]
public enum Activation
{
    /// <summary>max(x, 0).</summary>
    Relu,
    /// <summary>x / (1 + e^-x).</summary>
    Silu,
    /// <summary>x/2 (1 + erf(x/√2)).</summary>
    Gelu,
    /// <summary>x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).</summary>
    GeluTanh,
    /// <summary>max(x, 0)².</summary>
    Relu2,
    /// <summary>x if x > <see cref="ModelConfig.ActivationParameter"/>, else 0.</summary>
    FatRelu,
    /// <summary>Gated only: max(gate, 0) · max(up, 0).</summary>
    DRelu,
    /// <summary>Gated only, as in gpt-oss: g = min(gate, limit), u = clamp(up, ±limit), g / (1 + e^(-1.702 g)) · (u + 1); the limit is <see cref="ModelConfig.ActivationParameter"/>.</summary>
    ClampedSwiglu,
}

[JsonConverter(typeof(JsonStringEnumConverter<NormKind>))]
public enum NormKind { Rms, Layer }

/// <summary>Where a layer normalises. x is the residual stream, f attention or feed-forward.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<NormPlacement>))]
public enum NormPlacement
{
    /// <summary>x + f(norm(x)).</summary>
    Pre,
    /// <summary>norm(x + f(x)).</summary>
    Post,
    /// <summary>x + norm(f(x)).</summary>
    Output,
    /// <summary>x + norm'(f(norm(x))).</summary>
    Sandwich,
}

[JsonConverter(typeof(JsonStringEnumConverter<PositionKind>))]
public enum PositionKind { Rope, Learned }

/// <summary>Whether queries and keys are normalised before they are rotated: each head by itself, or all heads of the projection together.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<QkNorm>))]
public enum QkNorm { None, Head, Whole }

/// <summary>In which way a layer differs from the model's usual one.</summary>
[Flags]
[JsonConverter(typeof(JsonStringEnumConverter<LayerTraits>))]
public enum LayerTraits
{
    None = 0,
    /// <summary>Attention sees the last <see cref="ModelConfig.SlidingWindow"/> positions only, rotated by <see cref="ModelConfig.SlidingRope"/> where there is one.</summary>
    Sliding = 1,
    /// <summary>Queries and keys are not rotated.</summary>
    NoRope = 2,
    /// <summary>In a model of experts: one feed-forward of <see cref="ModelConfig.FfnSize"/> neurons, no experts.</summary>
    Dense = 4,
}

/// <summary>
/// The hyper-parameters of a decoder-only transformer as a package records them. Plain data: the flash layer uses it to
/// size rows and files, the engine to run the layers. A family is described here, not in code: adding one adds values. Rows of queries and
/// keys are stored so that number j and number j + HeadDim/2 of a head are turned as a pair, whatever the checkpoint's order was.
/// </summary>
public sealed record ModelConfig
{
    /// <summary>Family name, for people: "llama", "opt".</summary>
    public required string Architecture { get; init; }
    public required int VocabSize { get; init; }
    /// <summary>Width d of the residual stream.</summary>
    public required int HiddenSize { get; init; }
    public required int Layers { get; init; }
    public required int Heads { get; init; }
    public required int KvHeads { get; init; }
    public required int HeadDim { get; init; }
    /// <summary>Numbers of a head's value where they are not as many as a key's. 0: as many.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public int ValueDim { get; init; }
    /// <summary>Keys and values come from a latent; null: from the layer's input.</summary>
    public LatentConfig? Latent { get; init; }
    /// <summary>Neurons per feed-forward layer.</summary>
    public required int FfnSize { get; init; }
    public required int MaxPositions { get; init; }
    public required NormKind Norm { get; init; }
    public required float NormEps { get; init; }
    /// <summary>LayerNorm has a bias.</summary>
    public bool NormBias { get; init; } = true;
    public NormPlacement NormPlacement { get; init; }
    /// <summary>x + attention(…) + feed-forward(…): both read the layer's input.</summary>
    public bool Parallel { get; init; }
    /// <summary>Parallel only: one norm feeds both branches.</summary>
    public bool SharedNorm { get; init; }
    /// <summary>The stream is normalised before the head.</summary>
    public bool FinalNorm { get; init; } = true;
    public required PositionKind Positions { get; init; }
    /// <summary>Base of the rotary frequencies; only with <see cref="PositionKind.Rope"/> and where <see cref="Rope"/> says nothing else.</summary>
    public double RopeTheta { get; init; } = 10000;
    /// <summary>How positions rotate; null: by <see cref="RopeTheta"/>, all numbers of a head.</summary>
    public RopeConfig? Rope { get; init; }
    /// <summary>How positions rotate in sliding layers, where that differs.</summary>
    public RopeConfig? SlidingRope { get; init; }
    /// <summary>Rows to skip in the learned position table (OPT: 2).</summary>
    public int PositionOffset { get; init; }
    /// <summary>Positions that a sliding layer sees, its own included; 0: there are no sliding layers.</summary>
    public int SlidingWindow { get; init; }
    /// <summary>One entry per layer, or empty where all are alike.</summary>
    public IReadOnlyList<LayerTraits> LayerTraits { get; init; } = [];
    public required Activation Activation { get; init; }
    /// <summary>Threshold of fatrelu, limit of clamped swiglu.</summary>
    public float ActivationParameter { get; init; }
    /// <summary>True: down(act(gate x) * up x). False: down(act(up x)).</summary>
    public required bool Gated { get; init; }
    /// <summary>The projections to queries, keys and values carry biases, and the one back unless <see cref="OutputBias"/> says otherwise.</summary>
    public bool AttentionBias { get; init; }
    /// <summary>The attention's output projection carries a bias; null: as <see cref="AttentionBias"/>.</summary>
    public bool? OutputBias { get; init; }
    public QkNorm QkNorm { get; init; }
    /// <summary>Factor of attention scores; 0: 1/√HeadDim.</summary>
    public float AttentionScale { get; init; }
    /// <summary>Scores become cap · tanh(score / cap); 0: they stay.</summary>
    public float AttentionSoftcap { get; init; }
    /// <summary>Each head has one more score, a learned number that takes its share and adds nothing.</summary>
    public bool Sinks { get; init; }
    /// <summary>Feed-forward matrices carry biases (up and down; gate too where there is one).</summary>
    public bool FfnBias { get; init; }
    public ExpertConfig? Experts { get; init; }
    /// <summary>The output head is the embedding matrix.</summary>
    public required bool TiedHead { get; init; }
    public bool HeadBias { get; init; }
    /// <summary>Width of the embedding where it is not that of the stream (OPT 350m): a matrix projects in, another one out. 0: the stream's.</summary>
    public int EmbeddingSize { get; init; }
    /// <summary>Factor of embedding rows.</summary>
    public float EmbeddingScale { get; init; } = 1;
    /// <summary>Factor of what attention and feed-forward add to the stream.</summary>
    public float ResidualScale { get; init; } = 1;
    /// <summary>Factor of the logits.</summary>
    public float LogitScale { get; init; } = 1;
    /// <summary>Logits become cap · tanh(logit / cap); 0: they stay.</summary>
    public float LogitSoftcap { get; init; }
    public int? BosToken { get; init; }
    /// <summary>Ids that end a generation.</summary>
    public IReadOnlyList<int> EosTokens { get; init; } = [];

    /// <summary>Numbers of a position's queries, keys and values, in that order.</summary>
    [JsonIgnore] public int QkvRows => (Heads + KvHeads) * HeadDim + ValueRows;
    [JsonIgnore] public int ValueHeadDim => ValueDim == 0 ? HeadDim : ValueDim;
    [JsonIgnore] public int ValueRows => KvHeads * ValueHeadDim;
    /// <summary>Rows of what the layer's input is multiplied by: those numbers, or what they are made of (queries or their latent, the latent of keys and values, the rotated key).</summary>
    [JsonIgnore] public int ProjectedRows => Latent is { } l ? (l.QueryRank == 0 ? Heads * HeadDim : l.QueryRank) + l.KvRank + l.RopeDim : QkvRows;
    /// <summary>What all heads together give to the output projection.</summary>
    [JsonIgnore] public int AttendedSize => Heads * ValueHeadDim;
    /// <summary>Rows of one neuron's bundle: up, down and, when gated, gate.</summary>
    [JsonIgnore] public int RowsPerNeuron => Gated ? 3 : 2;
    /// <summary>The activation gives exact zeros: `exact` can skip neurons.</summary>
    [JsonIgnore] public bool IsSparse => Activation is Activation.Relu or Activation.Relu2 or Activation.FatRelu or Activation.DRelu;
    /// <summary>A neuron is zero unless its pre-activation is above this (sparse activations).</summary>
    [JsonIgnore] public float Threshold => Activation == Activation.FatRelu ? ActivationParameter : 0;
    [JsonIgnore] public bool HasOutputBias => OutputBias ?? AttentionBias;
    [JsonIgnore] public bool HasNormBias => Norm == NormKind.Layer && NormBias;
    /// <summary>Norms before attention and feed-forward, in <see cref="NormPlacement.Post"/> those after the sums.</summary>
    [JsonIgnore] public bool HasInputNorms => NormPlacement != NormPlacement.Output;
    /// <summary>Norms of what attention and feed-forward give.</summary>
    [JsonIgnore] public bool HasOutputNorms => NormPlacement is NormPlacement.Output or NormPlacement.Sandwich;
    /// <summary>The feed-forward has an input norm of its own.</summary>
    [JsonIgnore] public bool HasFfnNorm => HasInputNorms && !SharedNorm;
    [JsonIgnore] public int EmbeddingWidth => EmbeddingSize == 0 ? HiddenSize : EmbeddingSize;

    public bool Has(int layer, LayerTraits trait) => layer < LayerTraits.Count && (LayerTraits[layer] & trait) != 0;

    /// <summary>How this layer rotates, or null.</summary>
    public RopeConfig? RopeOf(int layer) =>
        Positions != PositionKind.Rope || Has(layer, FlashOrleans.Flash.LayerTraits.NoRope) ? null
        : Has(layer, FlashOrleans.Flash.LayerTraits.Sliding) && SlidingRope != null ? SlidingRope
        : Rope ?? new RopeConfig { Theta = RopeTheta };

    /// <summary>Positions this layer's attention sees, its own included.</summary>
    public int WindowOf(int layer) => Has(layer, FlashOrleans.Flash.LayerTraits.Sliding) ? SlidingWindow : int.MaxValue;

    /// <summary>This layer's experts, or null.</summary>
    public ExpertConfig? ExpertsOf(int layer) => Has(layer, FlashOrleans.Flash.LayerTraits.Dense) ? null : Experts;

    /// <summary>Neurons of this layer, those of all experts together.</summary>
    public int NeuronsOf(int layer) => ExpertsOf(layer) is { } e ? e.Count * e.Size : FfnSize;

    /// <summary>`exact` finds the active neurons of this layer by a resident copy of the rows that decide.</summary>
    public bool HasSelector(int layer) => IsSparse && ExpertsOf(layer) is null or { ByNeuron: true };

    /// <summary>The rotation depends on how long the sequence is, not on the position alone.</summary>
    [JsonIgnore] public bool RopeByLength => Rope is { Scaling: RopeScaling.Dynamic } || (Rope is { Scaling: RopeScaling.LongRope } r && !r.ShortFactors.SequenceEqual(r.LongFactors));
}
