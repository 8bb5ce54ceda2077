namespace FlashOrleans.Flash;

/// <summary>
/// How the experts of a model with random weights follow each other: the router of random weights chooses almost alike for every token or anew for each, so sets are drawn, with the locality in time
/// that is reported of trained models (docs/adr/0025). Expert e of a layer has at position t the score fresh · n₁ + short · n₂ + long · n₃ + popularity · n₄ of normal numbers: drawn anew for each token, every
/// <see cref="ShortTokens"/>, every <see cref="LongTokens"/>, and once for the layer; the highest are used. Part of the manifest, so that whatever such a package is run with says so. Immutable; what does not hold
/// together is a <see cref="FlashException"/>.
/// </summary>
public sealed record RoutingConfig
{
    /// <summary>What a user asked for: "paper" or the name of a file.</summary>
    public string Name { get; init; } = "paper";
    public ulong Seed { get; init; }
    public double Fresh { get; init; } = 0.7;
    public double Short { get; init; } = 0.45;
    public int ShortTokens { get; init; } = 8;
    public double Long { get; init; } = 0.5;
    public int LongTokens { get; init; } = 64;
    public double Popularity { get; init; } = 0.35;
    /// <summary>Of a guess one layer ahead, which names as many experts as are used: the share that is right. Experts that nearly were not chosen are missed first.</summary>
    public double AheadRecall { get; init; } = 0.8;

    /// <summary>Refuses what the model cannot have.</summary>
    public void Check(ModelConfig model)
    {
        void Demand(string what, double value, double low, double high) => FlashException.Demand("routing", what, value, low, high);
        if (model.Experts == null) throw new FlashException("routing is drawn for a model of experts; this is none");
        if (model.Experts.Groups > 0) throw new FlashException("routing is not drawn where experts are chosen in groups");
        foreach ((string what, double value) in new[] { ("fresh", Fresh), ("short", Short), ("long", Long), ("popularity", Popularity) }) Demand(what, value, 0, 100);
        Demand("shortTokens", ShortTokens, 1, 1 << 20);
        Demand("longTokens", LongTokens, 1, 1 << 20);
        Demand("aheadRecall", AheadRecall, 0.5, 1);
        if (Fresh + Short + Long + Popularity == 0) throw new FlashException("routing: all of its parts are 0");
    }
}
