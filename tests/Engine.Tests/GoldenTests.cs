using System.Runtime.InteropServices;
using System.Text.Json;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

/// <summary>The engine, on imported packages read from flash, against Hugging Face and against the reference model.</summary>
public sealed class GoldenTests
{
    private const float Tolerance = 2e-4f;

    public static readonly TheoryData<string> Families = ["llama", "llama-relu", "llama-relu-bf16", "opt"];

    [Theory, MemberData(nameof(Families))]
    public void Logits_at_every_position_equal_hugging_face_and_the_same_neurons_are_active(string family)
    {
        using var imported = Imported.Create(TestData.Golden(family), "f32");
        using var golden = SafetensorsFile.Open(Path.Combine(TestData.Golden(family), "golden.safetensors"));
        int[] ids = Prompts(family)[^1].Ids;
        int vocabulary = imported.Package.Config.VocabSize;
        float[] expected = Floats(golden, "logits");
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 0.3 });
        int neurons = imported.Package.Config.FfnSize;
        var active = engine.Layers.Select(_ => new byte[ids.Length * neurons]).ToArray();
        foreach (var layer in engine.Layers) layer.Watch = (position, neuron) => active[layer.Index][position * neurons + neuron] = 1;
        using var session = engine.OpenSession();
        for (int i = 0; i < ids.Length; i++)
        {
            session.Timeline.Append([ids[i]]);
            var top = session.Run(Sampling.Greedy, SlotFlags.Sample, vocabulary).Top!;
            foreach (var (id, logit) in top)
                Assert.True(MathF.Abs(logit - expected[i * vocabulary + id]) <= Tolerance, $"{family}: position {i}, token {id}: {logit} instead of {expected[i * vocabulary + id]}");
        }
        if (imported.Package.Config.Activation != Activation.Relu) return;
        foreach (var layer in engine.Layers)
        {
            byte[] mask = golden.ReadBytes(golden.Tensors[$"ffn_active.{layer.Index}"]);
            Assert.Equal(mask.Select(a => a != 0 ? (byte)1 : (byte)0), active[layer.Index]);
            Assert.Equal(mask.Count(a => a != 0), layer.Stats.NeuronsActive);
        }
    }

    [Theory, MemberData(nameof(Families))]
    public void Greedy_continuations_equal_hugging_face(string family)
    {
        using var imported = Imported.Create(TestData.Golden(family), "f32");
        using var engine = new LocalEngine(imported.Package);
        foreach (var (ids, greedy) in Prompts(family))
        {
            using var session = engine.OpenSession();
            Assert.Equal(greedy, session.Generate(ids, greedy.Length, Sampling.Greedy).Select(r => r.Token));
        }
    }

    [Theory, MemberData(nameof(Families))]
    public void Scores_are_the_negative_log_likelihoods_of_the_golden_logits(string family)
    {
        using var imported = Imported.Create(TestData.Golden(family), "f32");
        using var golden = SafetensorsFile.Open(Path.Combine(TestData.Golden(family), "golden.safetensors"));
        int[] ids = Prompts(family)[^1].Ids;
        int vocabulary = imported.Package.Config.VocabSize;
        float[] logits = Floats(golden, "logits");
        using var engine = new LocalEngine(imported.Package);
        using var session = engine.OpenSession();
        session.Timeline.Append(ids);
        var scores = new List<float>();
        session.Run(Sampling.Greedy, SlotFlags.Score, 0, chunk: 7, r => scores.AddRange(r.Nll!));
        Assert.Equal(ids.Length, scores.Count);
        Assert.True(float.IsNaN(scores[^1]));
        for (int i = 0; i + 1 < ids.Length; i++)
        {
            var row = logits.AsSpan(i * vocabulary, vocabulary);
            double max = float.MinValue, sum = 0;
            foreach (float v in row) max = Math.Max(max, v);
            foreach (float v in row) sum += Math.Exp(v - max);
            Assert.Equal(max + Math.Log(sum) - row[ids[i + 1]], scores[i], 5e-4);
        }
    }

    [Theory, InlineData("llama-relu", "q8", 0.03), InlineData("opt", "q8", 0.03), InlineData("llama", "q8", 0.03), InlineData("llama-relu", "q4", 0.03), InlineData("llama-relu", "bf16", 1e-5)]
    public void On_quantised_weights_the_engine_differs_from_the_reference_model_only_by_its_eight_bit_activations(string family, string quant, double relative)
    {
        using var imported = Imported.Create(TestData.Golden(family), quant);
        int[] ids = Prompts(family)[^1].Ids;
        int vocabulary = imported.Package.Config.VocabSize;
        var reference = ReferenceModel.FromPackage(imported.Package).Run(ids).Logits[^1];
        using var engine = new LocalEngine(imported.Package, null, new() { Kv = KvType.F32 });
        using var session = engine.OpenSession();
        session.Timeline.Append(ids);
        double error = 0, size = 0;
        foreach (var (id, logit) in session.Run(Sampling.Greedy, SlotFlags.Sample, vocabulary).Top!)
        {
            error += (logit - reference[id]) * (logit - reference[id]);
            size += reference[id] * reference[id];
        }
        Assert.True(Math.Sqrt(error / size) <= relative, $"{family} {quant}: relative error {Math.Sqrt(error / size)}");
    }

    [Fact]
    public void Emberling_continues_every_golden_prompt_like_hugging_face_until_a_near_tie()
    {
        using var imported = Imported.Create(TestData.Repo("models", "emberling"), "f32");
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 0.1 });
        foreach (var p in TestData.Json(TestData.Repo("models", "emberling", "golden.json")).GetProperty("cases").EnumerateArray())
        {
            int[] expected = TestData.Ints(p.GetProperty("greedy_ids"));
            double[] margins = [.. p.GetProperty("margins").EnumerateArray().Select(m => m.GetDouble())];
            int steps = Array.FindIndex(margins, m => m <= 1e-3);
            if (steps < 0) steps = expected.Length;
            Assert.True(steps >= 32, $"only {steps} steps before a near tie");
            using var session = engine.OpenSession();
            Assert.Equal(expected[..steps], session.Generate(TestData.Ints(p.GetProperty("prompt_ids")), steps, Sampling.Greedy).Select(r => r.Token));
        }
    }

    [Fact]
    public void Emberling_at_q8_has_the_perplexity_of_f32_within_one_percent()
    {
        double Nll(string quant)
        {
            using var imported = Imported.Create(TestData.Repo("models", "emberling"), quant);
            using var engine = new LocalEngine(imported.Package);
            double sum = 0;
            int count = 0;
            foreach (var p in TestData.Json(TestData.Repo("models", "emberling", "golden.json")).GetProperty("cases").EnumerateArray())
            {
                int[] prompt = TestData.Ints(p.GetProperty("prompt_ids"));
                using var session = engine.OpenSession();
                session.Timeline.Append([.. prompt, .. TestData.Ints(p.GetProperty("greedy_ids"))]);
                int position = 0;
                session.Run(Sampling.Greedy, SlotFlags.Score, 0, 64, r =>
                {
                    foreach (float nll in r.Nll!)
                    {
                        if (position++ < prompt.Length - 1 || float.IsNaN(nll)) continue;
                        sum += nll;
                        count++;
                    }
                });
            }
            return sum / count;
        }
        double ratio = Math.Exp(Nll("q8") - Nll("f32"));
        Assert.InRange(ratio, 0.99, 1.01);
    }

    [Fact]
    public void Emberling_at_q8_has_the_perplexity_of_f32_within_one_percent_on_a_text_it_did_not_write()
    {
        string text = File.ReadAllText(TestData.Repo("tests", "data", "text", "harbour.txt"));
        double Nll(string quant)
        {
            using var imported = Imported.Create(TestData.Repo("models", "emberling"), quant);
            using var engine = new LocalEngine(imported.Package);
            int[] ids = TextCodec.FromFolder(TestData.Repo("models", "emberling"))!.Encode(text, parseSpecial: false);
            Assert.InRange(ids.Length, 300, imported.Package.Config.MaxPositions);
            using var session = engine.OpenSession();
            session.Timeline.Append(ids);
            var scores = new List<float>();
            session.Run(Sampling.Greedy, SlotFlags.Score, 0, 64, r => scores.AddRange(r.Nll!));
            return scores.Take(ids.Length - 1).Average();
        }
        double plain = Nll("f32");
        // A model that knew nothing of the language would be at ln 4096 = 8.3.
        Assert.InRange(plain, 1, 6);
        Assert.InRange(Math.Exp(Nll("q8") - plain), 0.99, 1.01);
    }

    private static List<(int[] Ids, int[] Greedy)> Prompts(string family) =>
        [.. TestData.Json(Path.Combine(TestData.Golden(family), "golden.json")).GetProperty("prompts").EnumerateArray()
            .Select(p => (TestData.Ints(p.GetProperty("ids")), TestData.Ints(p.GetProperty("greedy"))))];

    private static float[] Floats(SafetensorsFile file, string name) => MemoryMarshal.Cast<byte, float>(file.ReadBytes(file.Tensors[name])).ToArray();

    /// <summary>A checkpoint imported into a temporary package.</summary>
    private sealed class Imported : IDisposable
    {
        private readonly string _folder;

        public required FlashPackage Package { get; init; }

        public static Imported Create(string checkpoint, string quant)
        {
            string folder = Directory.CreateTempSubdirectory("flash-golden-").FullName;
            string path = Path.Combine(folder, "m.flash");
            Importer.Import(checkpoint, path, new ImportOptions { Name = "m", Quant = quant });
            return new Imported(folder) { Package = FlashPackage.Open(path) };
        }

        private Imported(string folder) => _folder = folder;

        public void Dispose()
        {
            Package.Dispose();
            Directory.Delete(_folder, recursive: true);
        }
    }
}
