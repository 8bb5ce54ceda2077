using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Grains;

/// <summary>What one silo's <see cref="LayerHost"/> is made with.</summary>
public sealed record LayerHostOptions
{
    /// <summary>Folder with packages (<c>NAME.flash</c>).</summary>
    public required string ModelsDirectory { get; init; }
    /// <summary>Layers this silo runs ("0-3", "0,2,4"); null: any.</summary>
    public string? Layers { get; init; }
    public EngineOptions Engine { get; init; } = new();
    public LayerOptions Layer { get; init; } = new();
    public GrainOptions Grains { get; init; } = new();
    public SessionStoreOptions Sessions { get; init; } = new();
    public TimeProvider Time { get; init; } = TimeProvider.System;
    /// <summary>Another reader than the flash device (tests).</summary>
    public Func<IFlashReader>? Reader { get; init; }

    /// <summary>What the engine is made with: a budget is for the layers that run here.</summary>
    public EngineOptions PlannedEngine => Engine.Budget is { Layers: null } budget && Layers is { } text
        ? Engine with { Budget = budget with { Layers = LayerRanges.Parse(text).Contains } }
        : Engine;

    /// <summary>Throws <see cref="FormatException"/> when the text does not say which layers.</summary>
    public static void CheckLayers(string layers) => LayerRanges.Parse(layers);
}
