using FlashOrleans.Cli.Hosts;
using Spectre.Console;

namespace FlashOrleans.Cli;

/// <summary>
/// Counters layer by layer. Recall and precision: of the units a step needed, how many had been predicted, and of the predicted ones, how many
/// were needed. Useful: of the units read ahead, how many a step used before they were evicted. Wait: for flash.
/// </summary>
internal static class LayerTable
{
    public static void Write(Screen screen, Snapshot counters)
    {
        var table = new Table { Border = TableBorder.None }
            .AddColumns("LAYER", "READ/TOK", "HITS", "ZERO", "RECALL", "PRECISION", "USEFUL", "COMPUTE", "WAIT", "MEMORY");
        for (int i = 0; i < counters.Layers.Length; i++)
        {
            var l = counters.Layers[i];
            table.AddRow(
                Units.Number(i, "0"),
                Snapshot.Ratio(l.DemandBytes + l.PrefetchBytes, l.Rows) is { } bytes ? Units.Bytes(bytes) : "-",
                Units.Percent(Snapshot.Ratio(l.UnitsHit, l.UnitsNeeded)),
                Units.Percent(1 - Snapshot.Ratio(l.NeuronsActive, l.NeuronsDense)),
                Units.Percent(Snapshot.Ratio(l.PredictedHit, l.PredictedFor)),
                Units.Percent(Snapshot.Ratio(l.PredictedHit, l.PredictedUnits)),
                Units.Percent(Snapshot.Ratio(l.PrefetchUseful, l.PrefetchIssued)),
                Units.Seconds(TimeSpan.FromMicroseconds((l.ComputeNanos + l.PredictNanos) / 1e3)),
                Units.Seconds(TimeSpan.FromMicroseconds(l.FlashWaitNanos / 1e3)),
                Units.Bytes(l.WindowBytes + l.KvBytes + l.ResidentBytes));
        }
        screen.Tables.Write(table);
    }

    /// <summary>The same for --json.</summary>
    public static object Json(Snapshot counters) => counters.Layers.Select(static (l, i) => new
    {
        Layer = i,
        FlashBytesPerToken = Snapshot.Ratio(l.DemandBytes + l.PrefetchBytes, l.Rows),
        HitRate = Snapshot.Ratio(l.UnitsHit, l.UnitsNeeded),
        ZeroNeurons = 1 - Snapshot.Ratio(l.NeuronsActive, l.NeuronsDense),
        PredictionRecall = Snapshot.Ratio(l.PredictedHit, l.PredictedFor),
        PredictionPrecision = Snapshot.Ratio(l.PredictedHit, l.PredictedUnits),
        l.PrefetchIssued,
        PrefetchUseful = Snapshot.Ratio(l.PrefetchUseful, l.PrefetchIssued),
        PrefetchLate = l.UnitsLate,
        ComputeMs = (l.ComputeNanos + l.PredictNanos) / 1e6,
        PredictMs = l.PredictNanos / 1e6,
        FlashWaitMs = l.FlashWaitNanos / 1e6,
        l.WindowBytes,
        l.KvBytes,
        l.ResidentBytes,
    });
}
