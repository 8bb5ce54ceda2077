using System.Text.Json.Serialization;

namespace FlashOrleans.Flash;

/// <summary>
/// How active the neurons of a model with random weights are made out to be: random weights have no sparsity of their own, so sets of neurons are drawn, with the statistics that
/// are published for trained models. Part of the manifest of such a package, so that whatever it is run with says so. Immutable; what does not hold together is a
/// <see cref="FlashException"/>.
/// </summary>
public sealed record ActivityConfig
{
    /// <summary>What a user asked for: "paper", "oracle" or the name of a file.</summary>
    public required string Name { get; init; }
    public ulong Seed { get; init; }
    /// <summary>Of each layer: the mean share of neurons that are not zero.</summary>
    public required IReadOnlyList<double> Density { get; init; }
    /// <summary>Neurons fire with probabilities of Beta(this, b), b such that the mean is the layer's density: the smaller, the more it is always the same ones.</summary>
    public double Popularity { get; init; } = 0.3;
    /// <summary>Share of neurons whose state is the last token's, whatever it was.</summary>
    public double Persistence { get; init; } = 0.3;
    /// <summary>Of the logarithm of a factor on a token's density, half of which neighbouring layers share.</summary>
    public double Burst { get; init; } = 0.8;
    /// <summary>Share of neurons that are as popular as others for a while, and tokens of such a while.</summary>
    public double Drift { get; init; } = 0.2;
    public int Topic { get; init; } = 128;
    /// <summary>Size of the predicted set, of the true one's; 1: the prediction is right (an oracle).</summary>
    public double Predicted { get; init; } = 2.3;
    /// <summary>Share of the true set that the prediction contains.</summary>
    public double Recall { get; init; } = 0.97;
    /// <summary>Of a prediction one layer ahead: the share of what is needed that it contains, and the share of it that is needed.</summary>
    public double AheadRecall { get; init; } = 0.95;
    public double AheadPrecision { get; init; } = 0.8;

    /// <summary>Neurons lie on flash by how often they were active in so many tokens of a session of its own, as an import by popularity lays them; 0: in no order.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)] public int Ordered { get; init; }

    [JsonIgnore] public bool IsOracle => Predicted == 1 && Recall == 1;
    [JsonIgnore] public double MeanDensity => Density.Average();

    /// <summary>Refuses what the model cannot have.</summary>
    public void Check(ModelConfig model)
    {
        void Demand(string what, double value, double low, double high) => FlashException.Demand("activity", what, value, low, high);
        if (model.Experts != null || !model.IsSparse) throw new FlashException("activity is drawn for the neurons of a ReLU model; this is none");
        if (Density.Count != model.Layers) throw new FlashException($"{Density.Count} densities where this model has {model.Layers} layers");
        foreach (double density in Density) Demand("a density", density, 1e-6, 0.5);
        Demand("popularity", Popularity, 0.01, 100);
        Demand("persistence", Persistence, 0, 0.95);
        Demand("burst", Burst, 0, 2);
        Demand("drift", Drift, 0, 1);
        Demand("topic", Topic, 1, 1 << 20);
        Demand("predicted", Predicted, 1, 20);
        Demand("recall", Recall, 0.01, 1);
        Demand("aheadRecall", AheadRecall, 0.01, 1);
        Demand("aheadPrecision", AheadPrecision, 0.1, 1);
        Demand("ordered", Ordered, 0, 1 << 16);
    }
}
