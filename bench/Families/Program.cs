using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models;

namespace FlashOrleans.Families.Bench;

/// <summary>
/// The table of docs/MODELS.md: every golden checkpoint of tests/data, imported into a package, computed by the engine from flash, and compared with what Hugging Face
/// computes. One line a family: largest difference of a logit, greedy continuations equal, and what eight bits cost in perplexity.
/// </summary>
internal static class Program
{
    private static int Main(string[] args)
    {
        string golden = args.Length > 0 ? args[0] : Path.Combine("tests", "data", "golden", "models");
        if (!Directory.Exists(golden))
        {
            Console.Error.WriteLine($"{golden}: there is no such folder; run this at the root of the repository, or give the folder");
            return 1;
        }
        Console.WriteLine("| checkpoint | model type | feed-forward | mode | largest difference of a logit | greedy equal | perplexity q8 / f32 |");
        Console.WriteLine("|---|---|---|---|---|---|---|");
        bool all = true;
        foreach (string folder in Directory.EnumerateDirectories(golden).Order(StringComparer.Ordinal)) all &= Row(folder);
        return all ? 0 : 1;
    }

    private static bool Row(string folder)
    {
        using SafetensorsFile expected = SafetensorsFile.Open(Path.Combine(folder, "golden.safetensors"));
        using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "golden.json")));
        (int[] Ids, int[] Greedy)[] prompts = [.. document.RootElement.GetProperty("prompts").EnumerateArray().Select(p => (Ints(p.GetProperty("ids")), Ints(p.GetProperty("greedy"))))];
        int[] ids = prompts[^1].Ids;
        ReadOnlySpan<float> logits = MemoryMarshal.Cast<byte, float>(expected.ReadBytes(expected.Tensors["logits"]));

        string temporary = Directory.CreateTempSubdirectory("flash-families-").FullName;
        try
        {
            (ModelConfig config, float worst, int equal, double exact) = Measure(folder, temporary, "f32", ids, prompts, logits);
            (_, _, _, double quantised) = Measure(folder, temporary, "q8", ids, [], logits);
            string mode = config.HasSelector(0) ? "exact" : config.Experts != null ? "dense, chosen experts" : "dense";
            string ffn = $"{config.Activation}{(config.Gated ? ", gated" : "")}{(config.Experts is { } e ? $", {e.Active} of {e.Count} experts" : "")}";
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"| {Path.GetFileName(folder)} | {config.Architecture} | {ffn} | {mode} | {worst:0.0e+0} | {equal} of {prompts.Length} | {(double.IsNaN(quantised) ? "rows do not divide" : Math.Exp(quantised - exact).ToString("0.0000", CultureInfo.InvariantCulture))} |"));
            return worst <= 2e-4f && equal == prompts.Length;
        }
        finally
        {
            Directory.Delete(temporary, recursive: true);
        }
    }

    private static (ModelConfig, float, int, double) Measure(string folder, string temporary, string quant, int[] ids, (int[] Ids, int[] Greedy)[] prompts, ReadOnlySpan<float> logits)
    {
        string path = Path.Combine(temporary, quant + ".flash");
        try
        {
            Importer.Import(folder, path, new ImportOptions { Name = "m", Quant = quant });
        }
        catch (ModelFormatException) when (quant != "f32")
        {
            return (null!, 0, 0, double.NaN);
        }
        using FlashPackage package = FlashPackage.Open(path);
        using var engine = new LocalEngine(package);
        int vocabulary = package.Config.VocabSize;
        float worst = 0;
        using (EngineSession last = engine.OpenSession())
        {
            last.Timeline.Append(ids);
            foreach ((int id, float logit) in last.Run(Sampling.Greedy, topLogits: vocabulary).Top!)
                worst = Math.Max(worst, Math.Abs(logit - logits[(ids.Length - 1) * vocabulary + id]));
        }
        double nll = 0;
        using (EngineSession scored = engine.OpenSession())
        {
            scored.Timeline.Append(ids);
            scored.Run(Sampling.Greedy, SlotFlags.Score, 0, 64, r => nll += r.Nll!.Where(n => !float.IsNaN(n)).Sum());
        }
        int equal = 0;
        foreach ((int[] prompt, int[] greedy) in prompts)
        {
            using EngineSession session = engine.OpenSession();
            if (greedy.SequenceEqual(session.Generate(prompt, greedy.Length, Sampling.Greedy).Select(r => r.Token))) equal++;
        }
        return (package.Config, worst, equal, nll / (ids.Length - 1));
    }

    private static int[] Ints(JsonElement array) => [.. array.EnumerateArray().Select(e => e.GetInt32())];
}
