using Orleans.Concurrency;

namespace FlashOrleans.Abstractions;

/// <summary>
/// What one model name means: which package, how many layers, which silo runs which layer, whether they are ready. Off the token path; holds
/// nothing that cannot be asked again from the hosts. Key: model name, or a path to a package.
/// </summary>
[Alias("flashorleans.model")]
public interface IModelGrain : IGrainWithStringKey
{
    /// <summary>What the name means now: a package that was imported again is seen. Throws <see cref="ModelNotFoundException"/> with the line to show.</summary>
    [Alias("info"), AlwaysInterleave, ResponseTimeout("00:05:00")]
    Task<ModelInfo> Info();

    /// <summary>Activates every layer and completes when all are in memory.</summary>
    [Alias("ready"), AlwaysInterleave, ResponseTimeout("01:00:00")]
    Task<ModelReport> EnsureReady();

    [Alias("report"), AlwaysInterleave, ResponseTimeout("00:00:10")]
    Task<ModelReport> Report();

    /// <summary>Takes every layer out of memory (they come back with the next wave) and forgets the opened package, which is checked anew then.</summary>
    [Alias("unload"), AlwaysInterleave]
    Task Unload();
}
