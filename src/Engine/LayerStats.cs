namespace FlashOrleans.Engine;

/// <summary>Counters of one layer since it was attached; a snapshot. Times in nanoseconds on the conductor's clock.</summary>
public sealed record LayerStats
{
    public int Layer { get; init; }
    /// <summary>Waves that arrived.</summary>
    public long WavesIn { get; init; }
    /// <summary>Steps they were merged into.</summary>
    public long Waves { get; init; }
    public long Rows { get; init; }
    public long Slots { get; init; }
    /// <summary>Neurons that were not zero, in `predicted` of those computed.</summary>
    public long NeuronsActive { get; init; }
    public long NeuronsComputed { get; init; }
    /// <summary>Neurons times rows: what dense would compute.</summary>
    public long NeuronsDense { get; init; }
    public long UnitsNeeded { get; init; }
    public long UnitsHit { get; init; }
    /// <summary>Needed while a prefetch of it was under way.</summary>
    public long UnitsLate { get; init; }
    public long DemandBytes { get; init; }
    public long DemandReads { get; init; }
    public long PrefetchBytes { get; init; }
    /// <summary>Units that were read ahead; guesses that were taken back before are not among them.</summary>
    public long PrefetchIssued { get; init; }
    /// <summary>Prefetched units that a step used before they were evicted.</summary>
    public long PrefetchUseful { get; init; }
    /// <summary>Prefetched units that left the window unused.</summary>
    public long PrefetchWasted { get; init; }
    public long PredictedUnits { get; init; }
    /// <summary>Predicted units that the step then needed.</summary>
    public long PredictedHit { get; init; }
    /// <summary>Units needed by the steps that were predicted: recall = PredictedHit / PredictedFor.</summary>
    public long PredictedFor { get; init; }
    /// <summary>`predicted`: in the parts of the layer that steps look at whole, neurons that are not zero, and those of them that the predictor left out.</summary>
    public long AuditActive { get; init; }
    public long AuditMissed { get; init; }
    public long ComputeNanos { get; init; }
    public long PredictNanos { get; init; }
    public long FlashWaitNanos { get; init; }
    public long WindowSlots { get; init; }
    /// <summary>Of them, how many hold a unit.</summary>
    public long WindowUsed { get; init; }
    public long WindowBytes { get; init; }
    public long KvBytes { get; init; }
    /// <summary>Sessions that hold keys and values.</summary>
    public int KvSessions { get; init; }
    /// <summary>Bytes that they hold, and bytes that nobody holds and that stay while there is room.</summary>
    public long KvHeldBytes { get; init; }
    public long KvCachedBytes { get; init; }
    /// <summary>Bytes of keys and values on disk.</summary>
    public long KvSavedBytes { get; init; }
    /// <summary>A step is being computed, or waits for flash.</summary>
    public bool Busy { get; init; }
    public long ResidentBytes { get; init; }
}
