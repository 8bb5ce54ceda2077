using System.Runtime.InteropServices;
using System.Text.Json;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

/// <summary>Every supported family, imported into a package and computed by the engine from flash, against Hugging Face and against itself.</summary>
public sealed class FamilyTests
{
    private const float Tolerance = 2e-4f;
    public static readonly TheoryData<string> Families = [.. GoldenFamilies.All];

    [Theory, MemberData(nameof(Families))]
    public void Logits_scores_and_greedy_continuations_equal_hugging_face(string family)
    {
        using var imported = Import(family, "f32");
        using var golden = SafetensorsFile.Open(Path.Combine(TestData.Golden(family), "golden.safetensors"));
        var prompts = Prompts(family);
        int[] ids = prompts[^1].Ids;
        int vocabulary = imported.Package.Config.VocabSize;
        float[] expected = Floats(golden, "logits");
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 0.3 });

        using (var session = engine.OpenSession())
        {
            session.Timeline.Append(ids);
            var scores = new List<float>();
            session.Run(Sampling.Greedy, SlotFlags.Score, 0, chunk: 7, r => scores.AddRange(r.Nll!));
            for (int i = 0; i + 1 < ids.Length; i++) Assert.Equal(Nll(expected.AsSpan(i * vocabulary, vocabulary), ids[i + 1]), scores[i], 5e-4);
        }
        using (var session = engine.OpenSession())
        {
            session.Timeline.Append(ids);
            foreach (var (id, logit) in session.Run(Sampling.Greedy, SlotFlags.Sample, vocabulary).Top!)
                Assert.True(MathF.Abs(logit - expected[(ids.Length - 1) * vocabulary + id]) <= Tolerance, $"token {id}: {logit} instead of {expected[(ids.Length - 1) * vocabulary + id]}");
        }
        foreach (var (prompt, greedy) in prompts)
        {
            using var session = engine.OpenSession();
            Assert.Equal(greedy, session.Generate(prompt, greedy.Length, Sampling.Greedy).Select(r => r.Token));
        }
    }

    [Theory, MemberData(nameof(Families))]
    public void The_bits_do_not_depend_on_kernels_chunks_window_mode_or_company(string family)
    {
        using var imported = Import(family, "auto");
        int[] ids = Prompts(family)[^1].Ids;
        (int, float)[] plain = Logits(imported.Package, ids, "scalar", FeedForwardMode.Dense, window: 1, chunk: 64, company: false);
        foreach (string kernels in Kernels.Available)
        {
            FeedForwardMode[] modes = imported.Package.Config is { IsSparse: true, Experts: null } ? [FeedForwardMode.Dense, FeedForwardMode.Exact] : [FeedForwardMode.Dense];
            foreach (var mode in modes)
            {
                Assert.Equal(plain, Logits(imported.Package, ids, kernels, mode, window: 0.02, chunk: 1, company: false));
                Assert.Equal(plain, Logits(imported.Package, ids, kernels, mode, window: 0.25, chunk: 13, company: true));
            }
        }
    }

    public static readonly TheoryData<string> ExpertFamilies = [.. GoldenFamilies.Experts];

    /// <summary>All experts of a layer, two of them, one: whatever the kernels, the threads and who else is in the wave.</summary>
    [Theory, MemberData(nameof(ExpertFamilies))]
    public void With_room_for_all_experts_for_two_or_for_one_the_bits_are_the_same(string family)
    {
        using var imported = Import(family, "f32");
        int[] ids = Prompts(family)[^1].Ids;
        int experts = imported.Package.Config.Experts!.Count;
        (int, float)[] plain = Logits(imported.Package, ids, "scalar", FeedForwardMode.Dense, window: 1, chunk: 64, company: false, threads: 1);
        foreach (string kernels in Kernels.Available)
            foreach (int held in new[] { experts, 2, 1 })
                foreach (var (threads, chunk) in new[] { (1, 1), (3, 1), (3, 13) })
                    Assert.Equal(plain, Logits(imported.Package, ids, kernels, FeedForwardMode.Auto, window: (double)held / experts, chunk, company: threads == 3, threads));
    }

    /// <summary>In the median of some positions where a router chooses: between two experts of nearly the same score a rounding decides.</summary>
    [Theory, MemberData(nameof(Families))]
    public void Quantised_to_eight_bits_the_engine_stays_near_the_reference_model(string family)
    {
        using var imported = Import(family, "auto");
        int[] ids = Prompts(family)[^1].Ids;
        bool chooses = imported.Package.Config.Experts != null;
        var reference = ReferenceModel.FromPackage(imported.Package).Run(ids).Logits;
        double[] errors = [.. Enumerable.Range(0, chooses ? 9 : 1).Select(i => ids.Length - 4 * i).Where(static n => n > 0).Select(length =>
        {
            double error = 0, size = 0;
            foreach (var (id, logit) in Logits(imported.Package, ids[..length], "auto", FeedForwardMode.Auto, window: 1, chunk: 64, company: false))
            {
                error += (logit - reference[length - 1][id]) * (logit - reference[length - 1][id]);
                size += reference[length - 1][id] * reference[length - 1][id];
            }
            return Math.Sqrt(error / size);
        }).Order()];
        Assert.True(errors[errors.Length / 2] <= 0.05, $"{imported.Package.Format}: relative errors {string.Join(", ", errors)}");
    }

    [Fact]
    public void A_longrope_sequence_that_outgrows_the_short_factors_is_computed_anew_and_continues_as_hugging_face_does()
    {
        using var imported = Import("phi3-longrope", "f32");
        JsonElement crossing = TestData.Json(Path.Combine(TestData.Golden("phi3-longrope"), "golden.json")).GetProperty("crossing");
        int[] ids = TestData.Ints(crossing.GetProperty("ids")), greedy = TestData.Ints(crossing.GetProperty("greedy"));
        using var engine = new LocalEngine(imported.Package);
        using var session = engine.OpenSession();
        Assert.Equal(greedy, session.Generate(ids, greedy.Length, Sampling.Greedy).Select(r => r.Token));

        // Back below the limit the short factors hold again.
        session.Timeline.Truncate(20);
        using var fresh = engine.OpenSession();
        fresh.Timeline.Append(ids.AsSpan(0, 20));
        Assert.Equal(fresh.Run(Sampling.Greedy, topLogits: 384).Top, session.Run(Sampling.Greedy, topLogits: 384).Top);
    }

    /// <summary>The first layer has none before it: its router looks at what the tokens became. The bits are those without.</summary>
    [Theory]
    [InlineData("olmoe")]
    [InlineData("qwen3-moe")]
    public void Experts_of_the_first_layer_are_fetched_from_the_token(string family)
    {
        using var imported = Import(family, "f32");
        int[] ids = Prompts(family)[^1].Ids;
        (int[] Tokens, LayerStats First) Run(bool prefetch)
        {
            using var engine = new LocalEngine(imported.Package, null, new() { Window = 0.4, Prefetch = prefetch });
            using var session = engine.OpenSession();
            return ([.. session.Generate(ids, 24, Sampling.Greedy).Select(r => r.Token)], engine.Layers[0].Stats);
        }
        (int[] plain, LayerStats none) = Run(prefetch: false);
        (int[] ahead, LayerStats first) = Run(prefetch: true);
        Assert.Equal(plain, ahead);
        Assert.Equal(0, none.PredictedUnits);
        Assert.True(first.PrefetchIssued > 0, "nothing was fetched");
        // Random weights: attention adds little to the stream, so the router says nearly the same before and after it.
        Assert.InRange((double)first.PredictedHit / first.PredictedFor, 0.5, 1);
    }

    /// <summary>Values of another width than keys, in every form of the cache.</summary>
    [Fact]
    public void Values_narrower_than_keys_are_kept_in_sixteen_and_in_eight_bits_too()
    {
        using var imported = Import("deepseek-v2", "f32");
        int[] ids = Prompts("deepseek-v2")[^1].Ids;
        (int Id, float Logit)[] Top(KvType kv, string kernels, int chunk)
        {
            using var engine = new LocalEngine(imported.Package, new() { Kernels = kernels, Threads = 2 }, new() { Window = 0.3, Kv = kv });
            using var session = engine.OpenSession();
            session.Timeline.Append(ids);
            return session.Run(Sampling.Greedy, SlotFlags.Sample, imported.Package.Config.VocabSize, chunk).Top!;
        }
        Dictionary<int, float> whole = Top(KvType.F32, "auto", 64).ToDictionary(t => t.Id, t => t.Logit);
        double size = Math.Sqrt(whole.Values.Sum(static l => (double)l * l));
        foreach ((KvType kv, double most) in new[] { (KvType.F16, 0.01), (KvType.Q8, 0.1) })
        {
            var plain = Top(kv, "scalar", 64);
            Assert.InRange(Math.Sqrt(plain.Sum(t => Math.Pow(t.Logit - whole[t.Id], 2))) / size, 1e-9, most);
            foreach (string kernels in Kernels.Available) Assert.Equal(plain, Top(kv, kernels, 7));
        }
    }

    [Fact]
    public void With_experts_only_those_that_the_router_chose_are_read()
    {
        using var imported = Import("mixtral", "f32");
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 1, Prefetch = false });
        using var session = engine.OpenSession();
        session.Timeline.Append([5]);
        session.Run(Sampling.Greedy);
        foreach (var layer in engine.Layers)
        {
            Assert.Equal(2, layer.Stats.UnitsNeeded);
            Assert.Equal(2 * 64, layer.Stats.NeuronsComputed);
        }
    }

    private static (int, float)[] Logits(FlashPackage package, int[] ids, string kernels, FeedForwardMode mode, double window, int chunk, bool company, int threads = 2)
    {
        using var engine = new LocalEngine(package, new() { Kernels = kernels, Threads = threads }, new() { Mode = mode, Window = window });
        using var other = engine.OpenSession();
        using var session = engine.OpenSession();
        session.Timeline.Append(ids);
        if (company)
        {
            other.Timeline.Append(ids.AsSpan(0, ids.Length / 2));
            other.Submit(Sampling.Greedy, SlotFlags.Sample, 0, 64);
        }
        var top = session.Run(Sampling.Greedy, SlotFlags.Sample, package.Config.VocabSize, chunk).Top!;
        if (company) Assert.True(other.Wait(out _));
        return top;
    }

    private static double Nll(ReadOnlySpan<float> row, int target)
    {
        double max = float.MinValue, sum = 0;
        foreach (float v in row) max = Math.Max(max, v);
        foreach (float v in row) sum += Math.Exp(v - max);
        return max + Math.Log(sum) - row[target];
    }

    private static List<(int[] Ids, int[] Greedy)> Prompts(string family) =>
        [.. TestData.Json(Path.Combine(TestData.Golden(family), "golden.json")).GetProperty("prompts").EnumerateArray()
            .Select(p => (TestData.Ints(p.GetProperty("ids")), TestData.Ints(p.GetProperty("greedy"))))];

    private static float[] Floats(SafetensorsFile file, string name) => MemoryMarshal.Cast<byte, float>(file.ReadBytes(file.Tensors[name])).ToArray();

    private static ImportedPackage Import(string family, string quant) => ImportedPackage.Create(TestData.Golden(family), quant);
}
