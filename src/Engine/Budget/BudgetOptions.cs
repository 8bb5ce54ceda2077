namespace FlashOrleans.Engine;

/// <summary>What the process is beside weights, windows and keys and values: it decides how much code and managed heap are counted.</summary>
public enum BudgetHost { Engine, Grains, Http }

/// <summary>A hard limit for all memory of the process, and what is promised within it.</summary>
public sealed record BudgetOptions
{
    public required BudgetSize Size { get; init; }
    /// <summary>Sessions whose keys and values are held at once.</summary>
    public int Sessions { get; init; } = 1;
    /// <summary>Tokens of each; never more than the model's context.</summary>
    public int Context { get; init; } = DefaultContext;
    public BudgetHost Host { get; init; } = BudgetHost.Grains;
    /// <summary>Layers that run here; null: all.</summary>
    public Func<int, bool>? Layers { get; init; }

    public const int DefaultContext = 2048;

    /// <summary>
    /// Steps at once: each has scratch of its own. One computes, one or two others wait for flash meanwhile; more would only take from the windows.
    /// </summary>
    internal int Steps => Math.Min(Sessions, 3);

    /// <summary>Rows of a merged wave: what the sessions can bring in chunks of 64, at most what the engine merges anyway.</summary>
    internal int WaveRows(int most) => (int)Math.Min(most, 64L * Sessions);
}
