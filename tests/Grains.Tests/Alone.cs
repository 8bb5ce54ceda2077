namespace FlashOrleans.Grains.Tests;

/// <summary>Tests that measure the whole process (what everybody allocates, which pooled arrays are out) run while no other test does.</summary>
[CollectionDefinition(nameof(Alone), DisableParallelization = true)]
public sealed class Alone;
