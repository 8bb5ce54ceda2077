using System.Text.Json.Serialization;

namespace FlashOrleans.Flash;

[JsonConverter(typeof(JsonStringEnumConverter<RopeScaling>))]
public enum RopeScaling { None, Linear, Llama3, Yarn, Dynamic, LongRope }

/// <summary>How positions become angles: parameters as checkpoints give them; what they mean is in the engine's <c>RopeFrequencies</c>.</summary>
public sealed record RopeConfig
{
    public double Theta { get; init; } = 10000;
    /// <summary>Numbers of a head that are rotated; 0: all. Pairs beyond have the frequency 0.</summary>
    public int Dims { get; init; }
    public RopeScaling Scaling { get; init; }
    public double Factor { get; init; } = 1;
    /// <summary>Positions the model was first trained with; all scalings but linear need it.</summary>
    public int OriginalPositions { get; init; }
    /// <summary>Llama 3.</summary>
    public double LowFrequencyFactor { get; init; } = 1;
    public double HighFrequencyFactor { get; init; } = 4;
    /// <summary>Yarn.</summary>
    public double BetaFast { get; init; } = 32;
    public double BetaSlow { get; init; } = 1;
    /// <summary>Yarn: the correction range is rounded outward to whole pairs.</summary>
    public bool Truncate { get; init; } = true;
    /// <summary>Factor of cos and sin.</summary>
    public double AttentionFactor { get; init; } = 1;
    /// <summary>Longrope: divisors of each pair's frequency, up to and beyond <see cref="OriginalPositions"/>.</summary>
    public IReadOnlyList<double> ShortFactors { get; init; } = [];
    public IReadOnlyList<double> LongFactors { get; init; } = [];
}
