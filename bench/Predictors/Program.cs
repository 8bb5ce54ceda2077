using System.Globalization;
using System.Text.Json;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Predictors.Bench;

/// <summary>
/// What predictors find and what leaving the rest out costs, as the tables of docs/adr/0012-predictors.md, and what the order of neurons does to reads.
/// <c>bench/Predictors ranks|modes|order CHECKPOINT GOLDEN TRAINED [TEXT]</c>: GOLDEN is a file of prompts, which the model continues by itself (its own kind of text); TRAINED a folder of trained predictors; TEXT another text.
/// <c>bench/Predictors activity CHECKPOINT GOLDEN TRAINED OUT.json</c>: fits the activity model of synthetic packages to the model's own (<see cref="ActivityFit"/>).
/// <c>bench/Predictors gaps PACKAGE [WINDOW]</c>: what reading across gaps is worth, in turns.
/// ranks: recall of the best-scored neurons, by layer. modes: recall, what is taken, and perplexity as the engine runs. order: reads and bytes of a token in `exact`.
/// </summary>
internal static class Program
{
    private const int Window = 256;
    private static readonly string[] s_ranked = ["sketch2", "sketch3", "sketch4", "svd:64", "svd:128", "svd:192"], s_made = ["sketch4", "sketch3", "sketch2", "svd:128"];
    private static readonly double[] s_recalls = [.97, .99], s_cores = [.01, .05], s_windows = [.1, .25];
    private static readonly int[] s_gaps = [0, 4096, 8192, 16384];

    private static int Main(string[] args)
    {
        if (args.Length is 2 or 3 && args[0] == "gaps")
        {
            Gaps(args[1], args.Length > 2 ? double.Parse(args[2], CultureInfo.InvariantCulture) : .25);
            return 0;
        }
        if (args.Length is < 4 or > 5 || args[0] is not ("ranks" or "modes" or "order" or "activity") || (args[0] == "activity" && args.Length != 5))
        {
            Console.Error.WriteLine("bench/Predictors ranks|modes|order CHECKPOINT GOLDEN TRAINED [TEXT]\nbench/Predictors activity CHECKPOINT GOLDEN TRAINED OUT.json");
            return 2;
        }
        string temporary = Directory.CreateTempSubdirectory("flash-predictors-").FullName;
        try
        {
            using FlashPackage plain = Import(args[1], temporary, "plain", new ImportOptions());
            var stories = Stories(plain, args[2], 4, seed: 1);
            if (args[0] == "activity")
            {
                ActivityFit.Run(args[1], args[3], args[4], plain, stories);
                return 0;
            }
            // Other stories of the same kind.
            var others = Stories(plain, args[2], 4, seed: 1000);
            TextCodec codec = TextCodec.FromFiles(plain.SideFile)!;
            string calibration = Path.Combine(temporary, "stories.txt");
            File.WriteAllText(calibration, string.Join("\n", others.Select(s => codec.Decode(s.Ids.AsSpan(s.First), skipSpecial: true))));
            Console.WriteLine($"{stories.Sum(static s => s.Ids.Length)} tokens of {stories.Count} stories, calibrated on {others.Sum(static s => s.Ids.Length - s.First)} tokens of others; kernels as chosen");
            (string Name, IReadOnlyList<(int[] Ids, int First)> Texts)[] sets = args.Length < 5 ? [("stories", stories)] : [("stories", stories), ("other text", Cut(codec.Encode(File.ReadAllText(args[4]), parseSpecial: false)))];
            if (args[0] == "ranks") foreach (var (name, texts) in sets) Ranks(args[1], args[3], plain, name, texts, others);
            if (args[0] == "modes") Modes(args[1], args[3], temporary, calibration, plain, sets);
            if (args[0] == "order") Order(args[1], temporary, calibration, plain, sets);
            return 0;
        }
        finally
        {
            Directory.Delete(temporary, recursive: true);
        }
    }

    private static FlashPackage Import(string checkpoint, string temporary, string name, ImportOptions options)
    {
        string path = Path.Combine(temporary, name + ".flash");
        Importer.Import(checkpoint, path, options with { Name = "m", Measure = false });
        return FlashPackage.Open(path);
    }

    /// <summary>The prompts, each continued several times by the model itself, with the position from which its own words count.</summary>
    private static List<(int[] Ids, int First)> Stories(FlashPackage package, string golden, int each, ulong seed)
    {
        using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(golden));
        int[][] prompts = [.. document.RootElement.GetProperty("cases").EnumerateArray().Select(static c => c.GetProperty("prompt_ids").EnumerateArray().Select(static i => i.GetInt32()).ToArray()).Where(static p => p.Length >= 18)];
        using var engine = new LocalEngine(package, null, new LayerOptions { Window = 1 });
        var stories = new List<(int[], int)>();
        var stop = package.Config.EosTokens.ToHashSet();
        for (int round = 0; round < each; round++)
        {
            foreach (int[] prompt in prompts)
            {
                using EngineSession session = engine.OpenSession();
                int[] told = [.. session.Generate(prompt, Window - prompt.Length, new Sampling { Temperature = 0.7f, TopP = 0.9f, Seed = seed++ }, stop).Select(static s => s.Token)];
                if (told.Length > 8) stories.Add(([.. prompt, .. told], prompt.Length));
            }
        }
        return stories;
    }

    private static List<(int[], int)> Cut(int[] ids) => [.. ids.Chunk(Window).Where(static w => w.Length == Window).Select(static w => (w, 0))];

    // ---------------------------------------------------------------- recall of the best-scored

    private static void Ranks(string path, string trained, FlashPackage plain, string name, IReadOnlyList<(int[] Ids, int First)> texts, IReadOnlyList<(int[] Ids, int First)> others)
    {
        using Checkpoint checkpoint = Checkpoint.Open(path);
        (string Name, PredictorSource Source, bool Ahead)[] all = [.. s_ranked.Select(k => (k, PredictorSource.Open(checkpoint, k, [])!, false)),
            ("trained", PredictorSource.Open(checkpoint, trained, [])!, false), ("trained look-ahead", PredictorSource.Open(checkpoint, trained, [])!, true)];
        var lines = all.ToDictionary(static a => a.Name, static a => new List<string>());
        LayerByLayer.Study(plain, [.. others.Take(40).Select(static t => t.Ids)], rows =>
        {
            foreach (var (_, source, _) in all)
                if (source.Squares.Length > 0) source.Squares[rows.Layer] = ImportStudy.Squares(rows);
            foreach (var (_, source, _) in all)
                if (source.Computed.Length > 0) source.Computed[rows.Layer] = ImportStudy.LowRankForm(checkpoint, rows, source.Config.Layers[rows.Layer].Rank);
        });
        LayerRows? before = null;
        LayerByLayer.Study(plain, [.. texts.Take(40).Select(static t => t.Ids)], rows =>
        {
            bool[] active = Array.ConvertAll(rows.Values, static v => v > 0);
            foreach (var (kind, source, ahead) in all)
            {
                if (ahead && before == null) continue;
                PredictorMatrix[] matrices = [.. source.Matrices(rows.Layer).Where(m => m.Section.StartsWith(PackageLayout.Lookahead, StringComparison.Ordinal) == ahead)];
                float[] scores = ImportStudy.Scores(checkpoint, plain.Manifest.Weights, source.Config, matrices, rows, ahead ? before!.Entering : null);
                lines[kind].Add(Best(scores, active, rows.Neurons) + (source.Config.GuessesActivation ? "" : At(scores, active, ahead ? source.Config.LookaheadOf(rows.Layer)!.Threshold : source.Config.Layers[rows.Layer].Threshold)));
            }
            before = rows;
        });
        Console.WriteLine($"\n{name}: recall when the 1, 2, 3 times best-scored of a token are taken, by layer (trained: at the published threshold, and taken / true)");
        foreach (var (kind, list) in lines) Console.WriteLine($"| {kind} | {string.Join(" | ", list)} |");
        foreach (var a in all) a.Source.Dispose();
    }

    private static string Best(float[] scores, bool[] active, int n)
    {
        long truly = 0;
        long[] found = new long[3];
        for (int t = 0; t < active.Length / n; t++)
        {
            int count = active.AsSpan(t * n, n).Count(true);
            truly += count;
            int[] order = [.. Enumerable.Range(0, n).OrderByDescending(i => scores[t * n + i])];
            for (int k = 0; k < 3; k++)
                for (int i = 0; i < Math.Min(n, (k + 1) * count); i++) found[k] += active[t * n + order[i]] ? 1 : 0;
        }
        return string.Join(" ", found.Select(f => Text((double)f / truly)));
    }

    private static string At(float[] scores, bool[] active, float threshold)
    {
        long truly = 0, taken = 0, found = 0;
        for (int k = 0; k < scores.Length; k++)
        {
            if (active[k]) truly++;
            if (!(scores[k] >= threshold)) continue;
            taken++;
            if (active[k]) found++;
        }
        return $" ({Text((double)found / truly)} at {Text((double)taken / truly)})";
    }

    // ---------------------------------------------------------------- modes

    private static void Modes(string checkpoint, string trained, string temporary, string calibration, FlashPackage plain, (string Name, IReadOnlyList<(int[] Ids, int First)> Texts)[] sets)
    {
        (string Name, ImportOptions Options)[] variants =
        [
            ("trained", new() { Predictors = trained }),
            ("trained, recall .97", new() { Predictors = trained, Recall = .97, Calibration = calibration }),
            .. s_made.SelectMany(k => s_recalls.Select(r => (string.Create(CultureInfo.InvariantCulture, $"{k}, recall {r}"), new ImportOptions { Predictors = k, Recall = r, Calibration = calibration }))),
            .. s_cores.Select(core => (string.Create(CultureInfo.InvariantCulture, $"sketch4, recall .99, {core:0 %} always"), new ImportOptions { Predictors = "sketch4", CoreShare = core, CoreLeast = 0, Calibration = calibration })),
            ("sketch4, recall .99, calibrated on the short tale", new() { Predictors = "sketch4" }),
        ];
        using var reference = new LocalEngine(plain, null, new LayerOptions { Window = 1 });
        Console.WriteLine($"| predictors |{string.Concat(sets.Select(static s => $" {s.Name}: recall, worst and mean | taken / true | perplexity | cost | KL mean |"))} resident KiB |");
        Console.WriteLine($"|---|{string.Concat(sets.Select(static _ => "---|---|---|---|---|"))}---|");
        foreach (var (name, options) in variants)
        {
            using FlashPackage package = Import(checkpoint, temporary, "variant", options);
            string line = $"| {name} |";
            long resident = 0;
            foreach (var (_, texts) in sets)
            {
                using var engine = new LocalEngine(package, null, new LayerOptions { Window = 1, Mode = FeedForwardMode.Predicted });
                var d = new Divergence();
                foreach (var (ids, first) in texts) d.Run(reference, engine, ids, first);
                LayerStats[] stats = [.. engine.Layers.Select(static l => l.Stats)];
                double[] recall = [.. stats.Select(static s => 1 - (double)s.AuditMissed / s.AuditActive)];
                // What is right of what was computed was found; by recall, how much there was.
                double taken = stats.Select((s, i) => s.NeuronsComputed / (s.NeuronsActive / recall[i])).Average();
                resident = stats.Sum(static s => s.ResidentBytes);
                line += string.Create(CultureInfo.InvariantCulture, $" {recall.Min():0.000} {recall.Average():0.000} | {taken:0.00} | {Math.Exp(d.Nll):0.0000} | {100 * (Math.Exp(d.Nll - d.ReferenceNll) - 1):+0.00;-0.00} % | {d.Mean:0.00000} |");
            }
            Console.WriteLine(line + $" {resident >> 10} |");
        }
    }

    // ---------------------------------------------------------------- order

    private static void Order(string checkpoint, string temporary, string calibration, FlashPackage plain, (string Name, IReadOnlyList<(int[] Ids, int First)> Texts)[] sets)
    {
        using FlashPackage popular = Import(checkpoint, temporary, "popular", new ImportOptions { Order = PackageLayout.Popularity, Calibration = calibration });
        using FlashPackage tale = Import(checkpoint, temporary, "tale", new ImportOptions { Order = PackageLayout.Popularity });
        Console.WriteLine("| text | window | gap | order | demand reads a token | demand KiB a token | needed units | found in the window |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|");
        foreach (var (name, texts) in sets)
            foreach (double window in s_windows)
                foreach (int gap in s_gaps)
                    foreach (var (order, package) in new[] { ("identity", plain), ("popularity", popular), ("popularity of a short tale", tale) })
                    {
                        using var engine = new LocalEngine(package, new EngineOptions { GapBytes = gap }, new LayerOptions { Window = window, Prefetch = false });
                        long tokens = 0;
                        foreach (var (ids, _) in texts.Take(12))
                        {
                            using EngineSession session = engine.OpenSession();
                            session.Timeline.Append(ids);
                            session.Run(Sampling.Greedy, chunk: 1);
                            tokens += ids.Length;
                        }
                        LayerStats[] s = [.. engine.Layers.Select(static l => l.Stats)];
                        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                            $"| {name} | {window:0 %} | {gap} | {order} | {(double)s.Sum(static l => l.DemandReads) / tokens:0.0} | {s.Sum(static l => l.DemandBytes) / 1024.0 / tokens:0.0} | {(double)s.Sum(static l => l.UnitsNeeded) / tokens:0.0} | {100.0 * s.Sum(static l => l.UnitsHit) / s.Sum(static l => l.UnitsNeeded):0.0} % |"));
                    }
    }

    // ---------------------------------------------------------------- gaps

    private static void Gaps(string path, double window)
    {
        using FlashPackage package = FlashPackage.Open(path);
        GapCost? cost = DeviceProbe.Gaps(path, new EngineOptions());
        Console.WriteLine($"{package.Name}, {package.Access}, window {window:0 %}: {cost}");
        int[] gaps = [.. s_gaps.Concat([32768, 65536, cost?.GapBytes ?? 0]).Distinct().Order()];
        var seconds = gaps.ToDictionary(static g => g, static g => new List<double>());
        var counts = new Dictionary<int, (double Reads, double Bytes)>();
        const int tokens = 24;
        // In turns, so that whatever else the machine does meets all.
        for (int round = 0; round < 5; round++)
        {
            foreach (int gap in gaps)
            {
                using var engine = new LocalEngine(package, new EngineOptions { GapBytes = gap }, new LayerOptions { Window = window });
                using EngineSession session = engine.OpenSession();
                foreach (var _ in session.Generate([1, 2, 3], 24, new Sampling { Temperature = 1, TopP = 1, Seed = 1 })) { }
                (long Reads, long Bytes) Sum() => (engine.Layers.Sum(static l => l.Stats.DemandReads), engine.Layers.Sum(static l => l.Stats.DemandBytes));
                var before = Sum();
                var watch = System.Diagnostics.Stopwatch.StartNew();
                foreach (var _ in session.Generate([], tokens, new Sampling { Temperature = 1, TopP = 1, Seed = 1 })) { }
                seconds[gap].Add(watch.Elapsed.TotalSeconds / tokens);
                var after = Sum();
                counts[gap] = ((double)(after.Reads - before.Reads) / tokens, (double)(after.Bytes - before.Bytes) / tokens);
            }
        }
        Console.WriteLine("| gap | ms a token, median of 5 | demand reads | demand MiB |");
        Console.WriteLine("|---|---|---|---|");
        foreach (int gap in gaps)
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {gap} | {1e3 * seconds[gap].Order().ElementAt(2):0.0} | {counts[gap].Reads:0} | {counts[gap].Bytes / (1 << 20):0.0} |"));
    }

    private static string Text(double value) => value.ToString("0.000", CultureInfo.InvariantCulture);
}
