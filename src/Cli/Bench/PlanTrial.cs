using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Synthetic;

namespace FlashOrleans.Cli.Bench;

/// <summary>Runs a small model of random weights that has the rows, formats and attention of the one that is planned for, all of it in memory, on the path that is planned for: what a step really takes.</summary>
internal static class PlanTrial
{
    private const int Layers = 3, MostVocabulary = 32_768, Tokens = 24, Runs = 3;

    /// <summary>One for each number of sessions. The store's folder gets the model for the time.</summary>
    public static async Task<StepTrial[]> MeasureAsync(App app, Manifest manifest, EngineOptions engine, LayerOptions layer, string path, int[] sessions)
    {
        string folder = Path.Combine(app.Store.Folder, $".trial-{Guid.NewGuid():N}"), package = Path.Combine(folder, "trial.flash");
        int vocabulary = Math.Min(manifest.Model.VocabSize, MostVocabulary);
        app.Screen.Progress("trying a step");
        try
        {
            Directory.CreateDirectory(folder);
            SyntheticModel.CreateSample(package, manifest, Layers, vocabulary, app.Interrupts.Stop);
            BenchPrompt prompt;
            using (var opened = FlashPackage.Open(package)) prompt = new BenchPrompt("8", opened, 1);
            engine = engine with { Budget = null, Draft = null, KvDisk = null };
            layer = layer with { Window = 1 };
            await using IModelHost host = path == "engine" ? new EngineHost(package, engine, layer) : await GrainHost.StartAsync(package, engine, layer, app.Interrupts.Stop);
            var sampling = new SamplingOptions { Temperature = 0, Seed = 1 };
            // Until what was compiled in haste is compiled well.
            for (int i = 0; i < 2; i++) await BenchRun.MeasureAsync(host, prompt, 1, 2 * Tokens, sampling, app.Interrupts.Stop);
            var trials = new List<StepTrial>();
            foreach (int n in sessions)
            {
                var runs = new List<(double Step, BenchStretch Stretch)>();
                for (int r = 0; r < Runs; r++)
                    if ((await BenchRun.MeasureAsync(host, prompt, n, Tokens, sampling, app.Interrupts.Stop)).Decoding is { } stretch) runs.Add((stretch.Time.TotalSeconds / stretch.Steps, stretch));
                if (runs.Count == 0) continue;
                // What others took from this process is none of the model's time.
                (double step, BenchStretch best) = runs.MinBy(static r => r.Step);
                trials.Add(StepTrial.Of(n, step, [.. best.Counters.Layers.Select(l => (l.ComputeNanos + l.PredictNanos) / 1e9 / best.Steps)], vocabulary));
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
