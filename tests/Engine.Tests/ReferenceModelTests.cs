using System.Runtime.InteropServices;
using System.Text.Json;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

/// <summary>The reference model against Hugging Face, on the golden folders of tests/data (their meaning: ../shared/golden/README.md).</summary>
public sealed class ReferenceModelTests
{
    private const float Tolerance = 2e-4f;
    public static readonly TheoryData<string, string> Families = new(
        from family in GoldenFamilies.All
        from config in new[] { "config.json", "config.v5.json" }
        where File.Exists(Path.Combine(TestData.Golden(family), config))
        select (family, config));

    [Theory, MemberData(nameof(Families))]
    public void Logits_hidden_states_and_active_neurons_equal_hugging_face(string family, string config)
    {
        ReferenceModel model = Load(TestData.Golden(family), config);
        using var golden = SafetensorsFile.Open(Path.Combine(TestData.Golden(family), "golden.safetensors"));
        int[] ids = Prompts(family)[^1].Ids;

        ReferenceModel.Trace trace = model.Run(ids);

        AssertNear(Floats(golden, "logits"), trace.Logits, Tolerance, "logits");
        for (int i = 0; i <= model.Config.Layers; i++)
            AssertNear(Floats(golden, $"hidden.{i}"), trace.Hidden[i], Tolerance, $"hidden.{i}");
        if (!model.Config.IsSparse) return;
        for (int i = 0; i < model.Config.Layers; i++)
        {
            AssertNear(Floats(golden, $"ffn_pre.{i}"), trace.FfnPre[i], Tolerance, $"ffn_pre.{i}");
            byte[] active = golden.ReadBytes(golden.Tensors[$"ffn_active.{i}"]);
            Assert.Equal(active, trace.FfnActive[i].SelectMany(row => row.Select(a => a ? (byte)1 : (byte)0)));
        }
    }

    [Theory, MemberData(nameof(Families))]
    public void Greedy_continuations_equal_hugging_face(string family, string config)
    {
        ReferenceModel model = Load(TestData.Golden(family), config);
        foreach ((int[] ids, int[] greedy) in Prompts(family))
            Assert.Equal(greedy, model.Greedy(ids, greedy.Length));
    }

    [Fact]
    public void A_longrope_sequence_that_outgrows_the_short_factors_continues_as_hugging_face_does()
    {
        JsonElement crossing = TestData.Json(Path.Combine(TestData.Golden("phi3-longrope"), "golden.json")).GetProperty("crossing");
        int[] ids = TestData.Ints(crossing.GetProperty("ids")), greedy = TestData.Ints(crossing.GetProperty("greedy"));
        Assert.NotEqual(greedy, TestData.Ints(crossing.GetProperty("greedy_if_old_keys_were_kept")));
        Assert.Equal(greedy, Load(TestData.Golden("phi3-longrope")).Greedy(ids, greedy.Length));
    }

    [Fact]
    public void A_sharded_checkpoint_computes_the_same()
    {
        string folder = TestData.Shared("golden", "models", "llama-relu-sharded");
        ReferenceModel model = Load(folder);
        foreach (JsonElement p in TestData.Json(Path.Combine(folder, "golden.json")).GetProperty("prompts").EnumerateArray())
            Assert.Equal(TestData.Ints(p.GetProperty("greedy")), model.Greedy(TestData.Ints(p.GetProperty("ids")), p.GetProperty("greedy").GetArrayLength()));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(4)]
    public void Emberling_continues_as_in_its_golden_file(int index)
    {
        ReferenceModel model = Load(TestData.Repo("models", "emberling"));
        JsonElement c = TestData.Json(TestData.Repo("models", "emberling", "golden.json")).GetProperty("cases")[index];
        int[] ids = TestData.Ints(c.GetProperty("prompt_ids")), greedy = TestData.Ints(c.GetProperty("greedy_ids"));
        double[] margins = [.. c.GetProperty("margins").EnumerateArray().Select(m => m.GetDouble())];

        // Beyond a near-tie two right programs may go different ways.
        int sure = Array.FindIndex(margins, m => m <= 1e-3);
        int count = sure < 0 ? greedy.Length : sure;
        Assert.True(count >= 16, $"only {count} steps to compare");
        Assert.Equal(greedy[..count], model.Greedy(ids, count));

        float[] last = model.Run(ids).Logits[^1];
        foreach (JsonElement pair in c.GetProperty("top5").EnumerateArray())
            Assert.Equal(pair.GetProperty("logit").GetSingle(), last[pair.GetProperty("id").GetInt32()], Tolerance);
    }

    [Fact]
    public void A_token_outside_the_vocabulary_and_a_position_beyond_the_last_are_refused()
    {
        ReferenceModel model = Load(TestData.Golden("opt"));
        var cache = new ReferenceModel.Cache(model.Config);
        Assert.Throws<ArgumentOutOfRangeException>(() => model.Forward(384, cache));
        Assert.Throws<ArgumentOutOfRangeException>(() => model.Forward(-1, cache));
        for (int i = 0; i < model.Config.MaxPositions; i++) model.Forward(5, cache);
        Assert.Throws<ArgumentOutOfRangeException>(() => model.Forward(5, cache));
    }

    [Fact]
    public void A_tensor_of_the_wrong_size_is_named()
    {
        using Checkpoint checkpoint = Checkpoint.Open(TestData.Golden("llama"));
        var e = Assert.Throws<ArgumentException>(() => new ReferenceModel(checkpoint.Config, name => name == "layers.1.ffn.down" ? new float[3] : checkpoint.Read(name)));
        Assert.Contains("layers.1.ffn.down", e.Message, StringComparison.Ordinal);
    }

    private static ReferenceModel Load(string folder, string config = "config.json")
    {
        using Checkpoint checkpoint = Checkpoint.Open(folder, config);
        return new ReferenceModel(checkpoint.Config, checkpoint.Read);
    }

    private static (int[] Ids, int[] Greedy)[] Prompts(string family) =>
        [.. TestData.Json(Path.Combine(TestData.Golden(family), "golden.json")).GetProperty("prompts").EnumerateArray()
            .Select(p => (TestData.Ints(p.GetProperty("ids")), TestData.Ints(p.GetProperty("greedy"))))];

    private static float[] Floats(SafetensorsFile file, string name) => MemoryMarshal.Cast<byte, float>(file.ReadBytes(file.Tensors[name])).ToArray();

    private static void AssertNear(float[] expected, List<float[]> actual, float tolerance, string what)
    {
        float[] flat = [.. actual.SelectMany(r => r)];
        Assert.Equal(expected.Length, flat.Length);
        for (int i = 0; i < flat.Length; i++)
        {
            float allowed = what == "logits" ? tolerance : tolerance * MathF.Max(1, MathF.Abs(expected[i]));
            if (!(MathF.Abs(expected[i] - flat[i]) <= allowed)) Assert.Fail($"{what}[{i}] is {flat[i]}, {expected[i]} expected");
        }
    }
}
