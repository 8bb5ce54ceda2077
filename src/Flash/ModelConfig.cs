using System.Text.Json.Serialization;

namespace FlashOrleans.Flash;

[JsonConverter(typeof(JsonStringEnumConverter<Activation>))]
public enum Activation { Relu, Silu }

[JsonConverter(typeof(JsonStringEnumConverter<NormKind>))]
public enum NormKind { Rms, Layer }

[JsonConverter(typeof(JsonStringEnumConverter<PositionKind>))]
public enum PositionKind { Rope, Learned }

/// <summary>
/// The hyper-parameters of a decoder-only transformer as a package records them. Plain data: the flash layer uses it to
/// size rows and files, the engine to run the layers. A family is described here, not in code: adding one adds values.
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
    /// <summary>Neurons per feed-forward layer.</summary>
    public required int FfnSize { get; init; }
    public required int MaxPositions { get; init; }
    public required NormKind Norm { get; init; }
    public required float NormEps { get; init; }
    public required PositionKind Positions { get; init; }
    /// <summary>Base of the rotary frequencies; halves rotated as in Llama. Only with <see cref="PositionKind.Rope"/>.</summary>
    public double RopeTheta { get; init; } = 10000;
    /// <summary>Rows to skip in the learned position table (OPT: 2).</summary>
    public int PositionOffset { get; init; }
    public required Activation Activation { get; init; }
    /// <summary>True: down(act(gate x) * up x). False: down(act(up x)).</summary>
    public required bool Gated { get; init; }
    /// <summary>Attention projections carry biases.</summary>
    public bool AttentionBias { get; init; }
    /// <summary>Feed-forward matrices carry biases (up and down; gate too where there is one).</summary>
    public bool FfnBias { get; init; }
    /// <summary>The output head is the embedding matrix.</summary>
    public required bool TiedHead { get; init; }
    public int? BosToken { get; init; }
    /// <summary>Ids that end a generation.</summary>
    public IReadOnlyList<int> EosTokens { get; init; } = [];

    /// <summary>Rows of the fused query, key, value matrix: Heads + 2 KvHeads times HeadDim, in that order.</summary>
    [JsonIgnore] public int QkvRows => (Heads + 2 * KvHeads) * HeadDim;
    /// <summary>Rows of one neuron's bundle: up, down and, when gated, gate.</summary>
    [JsonIgnore] public int RowsPerNeuron => Gated ? 3 : 2;
}
