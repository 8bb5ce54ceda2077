namespace FlashOrleans.Abstractions;

/// <summary>What a model name resolved to.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.model-info")]
public sealed record ModelInfo
{
    [Id(0)] public required string Name { get; init; }
    /// <summary>Identity of the package; layer grains are keyed by it.</summary>
    [Id(1)] public required string Package { get; init; }
    [Id(2)] public required string Path { get; init; }
    [Id(3)] public required string Architecture { get; init; }
    [Id(4)] public required string Format { get; init; }
    [Id(5)] public required int Layers { get; init; }
    [Id(6)] public required int HiddenSize { get; init; }
    [Id(7)] public required int FfnSize { get; init; }
    [Id(8)] public required int VocabSize { get; init; }
    [Id(9)] public required int MaxPositions { get; init; }
    [Id(10)] public required string Activation { get; init; }
    [Id(11)] public required long Bytes { get; init; }
    [Id(12)] public int? BosToken { get; init; }
    [Id(13)] public int[] EosTokens { get; init; } = [];
    /// <summary>False: only token ids can be used.</summary>
    [Id(14)] public bool HasTokenizer { get; init; }
    [Id(15)] public bool HasChatTemplate { get; init; }
    /// <summary>"direct (512)" or "buffered".</summary>
    [Id(16)] public string Access { get; init; } = "";
    /// <summary>Tokens beyond which the model rotates positions by the length of the sequence; 0: it never does.</summary>
    [Id(17)] public int RopeLimit { get; init; }
    /// <summary>Beyond the limit every length rotates in its own way (dynamic scaling), not all of them in the same (longrope).</summary>
    [Id(18)] public bool RopePerLength { get; init; }
    /// <summary>How its makers recommend to sample; a fallback where they say nothing.</summary>
    [Id(19)] public SamplingOptions Sampling { get; init; } = new();
}

[GenerateSerializer, Immutable, Alias("flashorleans.model-report")]
public sealed record ModelReport
{
    [Id(0)] public required ModelInfo Info { get; init; }
    [Id(1)] public required LayerReport[] Layers { get; init; }
    /// <summary>Every silo that runs a layer, once.</summary>
    [Id(2)] public required HostReport[] Hosts { get; init; }
}

/// <summary>One layer where it runs.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.layer-report")]
public sealed record LayerReport
{
    [Id(0)] public required int Layer { get; init; }
    [Id(1)] public required string Silo { get; init; }
    [Id(2)] public bool Ready { get; init; }
    /// <summary>Why it could not be loaded.</summary>
    [Id(3)] public string? Error { get; init; }
    /// <summary>Weights, window, keys and values.</summary>
    [Id(4)] public long NativeBytes { get; init; }
    /// <summary>Grain calls that brought a wave, and how many slots and rows they held.</summary>
    [Id(5)] public long WavesIn { get; init; }
    [Id(6)] public long WavesOut { get; init; }
    [Id(7)] public long Hints { get; init; }
    [Id(8)] public required LayerCounters Counters { get; init; }
    [Id(9)] public required HostReport Host { get; init; }
}

/// <summary>What one silo's host holds and has read.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.host-report")]
public sealed record HostReport
{
    [Id(0)] public required string Silo { get; init; }
    [Id(1)] public required string Kernels { get; init; }
    [Id(2)] public int Threads { get; init; }
    /// <summary>Native memory held, all layers and scratch.</summary>
    [Id(3)] public long NativeBytes { get; init; }
    [Id(4)] public long FlashReads { get; init; }
    [Id(5)] public long FlashBytes { get; init; }
    [Id(6)] public long FlashFaults { get; init; }
    /// <summary>Wave arrays received by grains and not yet given back: 0 when idle.</summary>
    [Id(7)] public long WavesHeld { get; init; }
    /// <summary>Processor time of the thread that reads, 0 where many do.</summary>
    [Id(8)] public long FlashNanos { get; init; }
    /// <summary>Time with at least one read in the device.</summary>
    [Id(9)] public long FlashBusyNanos { get; init; }
}

/// <summary>Counters of a layer since it was attached; the engine's own, on the wire. Times in nanoseconds.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.layer-counters")]
public sealed record LayerCounters
{
    [Id(0)] public long Waves { get; init; }
    [Id(1)] public long Rows { get; init; }
    [Id(2)] public long Slots { get; init; }
    [Id(3)] public long NeuronsActive { get; init; }
    [Id(4)] public long NeuronsComputed { get; init; }
    [Id(5)] public long NeuronsDense { get; init; }
    [Id(6)] public long UnitsNeeded { get; init; }
    [Id(7)] public long UnitsHit { get; init; }
    [Id(8)] public long UnitsLate { get; init; }
    [Id(9)] public long DemandBytes { get; init; }
    [Id(10)] public long PrefetchBytes { get; init; }
    [Id(11)] public long PrefetchIssued { get; init; }
    [Id(12)] public long PrefetchUseful { get; init; }
    [Id(13)] public long PredictedUnits { get; init; }
    [Id(14)] public long PredictedHit { get; init; }
    [Id(15)] public long ComputeNanos { get; init; }
    [Id(16)] public long PredictNanos { get; init; }
    [Id(17)] public long FlashWaitNanos { get; init; }
    [Id(18)] public long WindowSlots { get; init; }
    [Id(19)] public long WindowBytes { get; init; }
    [Id(20)] public long KvBytes { get; init; }
    [Id(21)] public long ResidentBytes { get; init; }
    /// <summary>Units needed by the steps that were predicted: recall is PredictedHit over this.</summary>
    [Id(22)] public long PredictedFor { get; init; }
    /// <summary>Mode predicted, in the parts of the layer that are looked at whole: neurons that are not zero, and those of them that the predictor left out.</summary>
    [Id(23)] public long AuditActive { get; init; }
    [Id(24)] public long AuditMissed { get; init; }
}
