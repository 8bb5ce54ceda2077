using System.Text.Json.Serialization;

namespace FlashOrleans.Flash;

/// <summary>What a router makes of its logits before it chooses.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<RouterScore>))]
public enum RouterScore
{
    /// <summary>Shares of all experts: e^x / sum.</summary>
    Softmax,
    /// <summary>Each by itself: 1 / (1 + e^-x).</summary>
    Sigmoid,
}

/// <summary>
/// A feed-forward of experts: a router chooses a few for each token. Neuron j of expert e is neuron e · <see cref="Size"/> + j of the layer. Families differ in what is said here, in no code:
/// score the logits; choose the highest scores (plus <see cref="ChoiceBias"/>), where there are groups in the best of them alone; weigh each chosen expert by its score, divided by their sum where <see cref="Normalised"/>, times <see cref="Scale"/>;
/// add the expert that all tokens share, where there is one. Fields that version 2 of the package format began without are absent where they say nothing.
/// </summary>
public sealed record ExpertConfig
{
    public required int Count { get; init; }
    /// <summary>Experts that a token uses.</summary>
    public required int Active { get; init; }
    /// <summary>Neurons of one expert.</summary>
    public required int Size { get; init; }
    /// <summary>The weights of the chosen experts are scaled to sum 1; else they are their scores among all.</summary>
    public required bool Normalised { get; init; }
    /// <summary>The router has a bias.</summary>
    public bool RouterBias { get; init; }
    /// <summary>The router reads what enters the layer, before attention and without a norm: which experts come is known before they are needed.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public bool Early { get; init; }
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public RouterScore Score { get; init; }
    /// <summary>A learned number for each expert is added to its score when experts are chosen, not when they are weighed.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public bool ChoiceBias { get; init; }
    /// <summary>Experts are chosen in some groups of neighbours alone: how many groups there are. 0: among all.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public int Groups { get; init; }
    /// <summary>Groups that a token may use.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public int UsedGroups { get; init; }
    /// <summary>A group is worth the sum of so many of its highest scores.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public int GroupBest { get; init; }
    /// <summary>Added to the sum of the chosen scores before they are divided by it.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public float SumEps { get; init; }
    /// <summary>What they are divided by is at least this.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public float SumFloor { get; init; }
    /// <summary>Factor of the weights; null: 1.</summary>
    public float? Scale { get; init; }
    /// <summary>Of ReLU experts in lean bundles: their gate rows stay in memory, a neuron's gate is its row's product times the expert's weight, and what is read are the neurons of chosen experts whose gate is above 0.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public bool ByNeuron { get; init; }
    /// <summary>Neurons of the expert that every token uses beside the chosen ones; it stays in memory. 0: there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public int SharedSize { get; init; }
    /// <summary>What the shared expert gives is multiplied by the sigmoid of a product with its input.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public bool SharedGate { get; init; }

    /// <summary>The section of the router's matrix; one that reads something else, or chooses otherwise, has another name, so that a build which does not know of it refuses the package.</summary>
    [JsonIgnore] public string RouterSection => Early ? "ffn.router.early" : Groups > 0 ? "ffn.router.grouped" : "ffn.router";
}
