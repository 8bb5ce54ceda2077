using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Synthetic;

namespace FlashOrleans.Cli.Bench;

/// <summary>
/// Runs a model of a few layers of random weights that has the rows, formats, attention and experts of the one that is planned for, with the planned share of them in its windows, on the path that is planned for:
/// what a step really takes, reading included.
/// </summary>
internal static class PlanTrial
{
    private const int LeastLayers = 3, MostLayers = 8, MostVocabulary = 32_768, Tokens = 32, Runs = 5;
    /// <summary>Of the experts of the sample's layers. Fewer layers weigh the ends of a step more, and more of them would lie in the processor's cache from step to step.</summary>
    private const long SampleBytes = 3L << 29;

    /// <summary>A token of every session: in so few layers they need not be one wave.</summary>
    private static double Steps(BenchStretch stretch, int sessions) => (double)stretch.Counters.Layers[0].Rows / sessions;

    /// <summary>One for each number of sessions. The store's folder gets the model for the time.</summary>
    public static async Task<StepTrial[]> MeasureAsync(App app, BudgetPlan plan, EngineOptions engine, LayerOptions layer, string path, int[] sessions)
    {
        string folder = Path.Combine(app.Store.Folder, $".trial-{Guid.NewGuid():N}"), package = Path.Combine(folder, "trial.flash");
        Manifest manifest = plan.Manifest;
        int vocabulary = Math.Min(manifest.Model.VocabSize, MostVocabulary);
        var (share, bytes) = plan.Chosen;
        int layers = (int)Math.Clamp(SampleBytes / bytes, LeastLayers, MostLayers);
        app.Screen.Progress("trying a step");
        try
        {
            Directory.CreateDirectory(folder);
            SyntheticModel.CreateSample(package, manifest, layers, vocabulary, app.Interrupts.Stop);
            BenchPrompt prompt;
            using (var opened = FlashPackage.Open(package)) prompt = new BenchPrompt("8", opened, 1);
            engine = engine with { Budget = null, Draft = null, KvDisk = null };
            layer = layer with { Window = share };
            await using IModelHost host = path == "engine" ? new EngineHost(package, engine, layer) : await GrainHost.StartAsync(package, engine, layer, app.Interrupts.Stop);
            var sampling = new SamplingOptions { Temperature = 0, Seed = 1 };
            // Until what was compiled in haste is compiled well.
            for (int i = 0; i < 2; i++) await BenchRun.MeasureAsync(host, prompt, 1, 2 * Tokens, sampling, app.Interrupts.Stop);
            var trials = new List<StepTrial>();
            foreach (int n in sessions)
            {
                var runs = new List<(double Step, BenchStretch Stretch)>();
                for (int r = 0; r < Runs; r++)
                    if ((await BenchRun.MeasureAsync(host, prompt, n, Tokens, sampling, app.Interrupts.Stop)).Decoding is { } stretch) runs.Add((stretch.Time.TotalSeconds / Steps(stretch, n), stretch));
                if (runs.Count == 0) continue;
                (double step, BenchStretch middle) = runs.OrderBy(static r => r.Step).ElementAt(runs.Count / 2);
                double Seconds(long nanos) => nanos / 1e9 / Steps(middle, n);
                trials.Add(StepTrial.Of(n, step, [.. middle.Counters.Layers.Select(l => Seconds(l.ComputeNanos + l.PredictNanos))], [.. middle.Counters.Layers.Select(l => Seconds(l.FlashWaitNanos))], vocabulary));
            }
            return [.. trials];
        }
        finally
        {
            app.Screen.EndLine();
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
        }
    }
}
