using FlashOrleans.Cli.Hosts;
using Spectre.Console;

namespace FlashOrleans.Cli;

/// <summary>
/// Counters layer by layer. Recall and precision: of the units a step needed, how many had been predicted, and of the predicted ones, how many
/// were needed. Useful: of the units read ahead, how many a step used before they were evicted. Wait: for flash. In mode predicted also what the predictor of the layer
/// itself does: false negatives, of the neurons that were not zero those it left out (a sample), and chosen right, of those it chose the ones that were not zero.
/// </summary>
internal static class LayerTable
{
    public static void Write(Screen screen, Snapshot counters)
    {
        var table = new Table { Border = TableBorder.None }
            .AddColumns("LAYER", "READ/TOK", "HITS", "ZERO", "RECALL", "PRECISION", "USEFUL", "COMPUTE", "WAIT", "MEMORY");
        bool predicted = counters.FalseNegativeRate != null;
        if (predicted) table.AddColumns("FALSE NEG", "CHOSEN RIGHT");
        for (int i = 0; i < counters.Layers.Length; i++)
        {
            var l = counters.Layers[i];
            string[] row =
            [
                Units.Number(i, "0"),
                Snapshot.Ratio(l.DemandBytes + l.PrefetchBytes, l.Rows) is { } bytes ? Units.Bytes(bytes) : "-",
                Units.Percent(Snapshot.Ratio(l.UnitsHit, l.UnitsNeeded)),
                Units.Percent(1 - Snapshot.Ratio(l.NeuronsActive, l.NeuronsDense)),
                Units.Percent(Snapshot.Ratio(l.PredictedHit, l.PredictedFor)),
                Units.Percent(Snapshot.Ratio(l.PredictedHit, l.PredictedUnits)),
                Units.Percent(Snapshot.Ratio(l.PrefetchUseful, l.PrefetchIssued)),
                Units.Seconds(TimeSpan.FromMicroseconds((l.ComputeNanos + l.PredictNanos) / 1e3)),
                Units.Seconds(TimeSpan.FromMicroseconds(l.FlashWaitNanos / 1e3)),
                Units.Bytes(l.WindowBytes + l.KvBytes + l.ResidentBytes),
            ];
            table.AddRow(predicted ? [.. row, Units.Percent(Snapshot.Ratio(l.AuditMissed, l.AuditActive)), Units.Percent(Snapshot.Ratio(l.NeuronsActive, l.NeuronsComputed))] : row);
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
        FalseNegativeRate = Snapshot.Ratio(l.AuditMissed, l.AuditActive),
        ChosenRight = l.AuditActive > 0 ? Snapshot.Ratio(l.NeuronsActive, l.NeuronsComputed) : null,
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
