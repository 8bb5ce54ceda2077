using FlashOrleans.Abstractions;

namespace FlashOrleans.Cli.Hosts;

/// <summary>Counters of all layers of a model at one moment; the difference of two is what happened between them.</summary>
internal sealed record Snapshot
{
    public required LayerCounters[] Layers { get; init; }
    public required string Kernels { get; init; }
    public required int Threads { get; init; }
    /// <summary>How the package is read: "direct (512)" or "buffered".</summary>
    public required string Access { get; init; }
    /// <summary>Native memory held at the later moment: weights, windows, keys and values, buffers.</summary>
    public required long NativeBytes { get; init; }
    public required long Reads { get; init; }
    /// <summary>Processor time of the thread that reads; 0: many do, and nobody counts it.</summary>
    public required long ReadNanos { get; init; }
    /// <summary>Time with at least one read in the device.</summary>
    public required long ReadBusyNanos { get; init; }

    /// <summary>Tokens that went through the model.</summary>
    public long Rows => Layers.Length > 0 ? Layers[0].Rows : 0;
    public long FlashBytes => Layers.Sum(static l => l.DemandBytes + l.PrefetchBytes);
    public long ComputeNanos => Layers.Sum(static l => l.ComputeNanos + l.PredictNanos);
    public long FlashWaitNanos => Layers.Sum(static l => l.FlashWaitNanos);
    /// <summary>Bytes read from flash per token computed, prompt tokens included.</summary>
    public double? FlashBytesPerToken => Ratio(FlashBytes, Rows);
    /// <summary>Share of needed reads that the window had.</summary>
    public double? HitRate => Ratio(Layers.Sum(static l => l.UnitsHit), Layers.Sum(static l => l.UnitsNeeded));
    /// <summary>Share of neurons, over tokens, that were exactly zero.</summary>
    public double? ZeroNeurons => 1 - Ratio(Layers.Sum(static l => l.NeuronsActive), Layers.Sum(static l => l.NeuronsDense));

    /// <summary>Mode predicted: of the neurons that were not zero, the share that the predictor left out, on a sample. Null in other modes.</summary>
    public double? FalseNegativeRate => Ratio(Layers.Sum(static l => l.AuditMissed), Layers.Sum(static l => l.AuditActive));

    /// <summary>Mode predicted: of the neurons that were computed, the share that was not zero. Null in other modes.</summary>
    public double? ChosenRight => FalseNegativeRate == null ? null : Ratio(Layers.Sum(static l => l.NeuronsActive), Layers.Sum(static l => l.NeuronsComputed));

    public static Snapshot operator -(Snapshot after, Snapshot before) => after with
    {
        Reads = after.Reads - before.Reads,
        ReadNanos = after.ReadNanos - before.ReadNanos,
        ReadBusyNanos = after.ReadBusyNanos - before.ReadBusyNanos,
        Layers = [.. after.Layers.Zip(before.Layers, static (a, b) => a with
        {
            Waves = a.Waves - b.Waves,
            Rows = a.Rows - b.Rows,
            Slots = a.Slots - b.Slots,
            NeuronsActive = a.NeuronsActive - b.NeuronsActive,
            NeuronsComputed = a.NeuronsComputed - b.NeuronsComputed,
            NeuronsDense = a.NeuronsDense - b.NeuronsDense,
            UnitsNeeded = a.UnitsNeeded - b.UnitsNeeded,
            UnitsHit = a.UnitsHit - b.UnitsHit,
            UnitsLate = a.UnitsLate - b.UnitsLate,
            DemandBytes = a.DemandBytes - b.DemandBytes,
            PrefetchBytes = a.PrefetchBytes - b.PrefetchBytes,
            PrefetchIssued = a.PrefetchIssued - b.PrefetchIssued,
            PrefetchUseful = a.PrefetchUseful - b.PrefetchUseful,
            PredictedUnits = a.PredictedUnits - b.PredictedUnits,
            PredictedHit = a.PredictedHit - b.PredictedHit,
            PredictedFor = a.PredictedFor - b.PredictedFor,
            AuditActive = a.AuditActive - b.AuditActive,
            AuditMissed = a.AuditMissed - b.AuditMissed,
            ComputeNanos = a.ComputeNanos - b.ComputeNanos,
            PredictNanos = a.PredictNanos - b.PredictNanos,
            FlashWaitNanos = a.FlashWaitNanos - b.FlashWaitNanos,
        })],
    };

    public static double? Ratio(double part, double whole) => whole > 0 ? part / whole : null;
}
