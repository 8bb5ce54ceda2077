using System.Text.Json;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

/// <summary>GGUF files, imported and computed from flash, against the logits of their dequantised weights.</summary>
public sealed class GgufModelTests
{
    private const float Tolerance = 2e-4f;
    /// <summary>In the repository; the others lie beside it.</summary>
    public static readonly TheoryData<string> Own = ["llama-Q4_0", "qwen2-Q8_0", "llama-relu-Q8_0"];
    public static readonly TheoryData<string> Beside =
    [
        "llama-F32", "llama-F16", "llama-BF16", "llama-Q4_1", "llama-Q5_0", "llama-Q5_1", "llama-Q8_0", "llama-Q2_K", "llama-K_mix", "llama-Q4_K_M",
        "llama-relu-F16", "llama-relu-Q4_0", "llama-relu-Q5_1", "qwen2-F32", "qwen2-F16", "qwen2-BF16", "qwen2-Q4_0", "qwen2-Q4_1", "qwen2-Q5_0", "qwen2-Q5_1",
    ];

    [Theory, MemberData(nameof(Own))]
    public void Own_files_compute_what_their_weights_say(string name) => CheckFloat(TestData.Repo("tests", "data", "gguf", name + ".gguf"));

    [Theory, MemberData(nameof(Beside))]
    public void Files_beside_the_repository_compute_what_their_weights_say(string name) => CheckFloat(TestData.Shared("golden", "gguf", name + ".gguf"));

    [Theory, MemberData(nameof(Own))]
    public void Own_files_keep_their_quantisation(string name) => CheckKept(TestData.Repo("tests", "data", "gguf", name + ".gguf"));

    [Theory]
    [InlineData("llama-Q4_1")]
    [InlineData("llama-Q4_K_M")]
    [InlineData("llama-Q8_0")]
    public void Files_beside_the_repository_keep_their_quantisation(string name) => CheckKept(TestData.Shared("golden", "gguf", name + ".gguf"));

    private static void CheckFloat(string path)
    {
        using var imported = ImportedPackage.Create(path, "f32");
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 0.5 });
        foreach (var (ids, logits, _) in Prompts(path))
        {
            using var session = engine.OpenSession();
            session.Timeline.Append(ids);
            foreach (var (id, logit) in session.Run(Sampling.Greedy, topLogits: logits.Length).Top!)
                Assert.True(MathF.Abs(logit - logits[id]) <= Tolerance, $"token {id}: {logit} instead of {logits[id]}");
        }
    }

    /// <summary>Every matrix but the transposed down holds exactly the numbers of the file.</summary>
    private static void CheckKept(string path)
    {
        using var imported = ImportedPackage.Create(path, "keep");
        using Checkpoint source = Checkpoint.Open(path);
        var tensors = new PackageTensors(imported.Package);
        int kept = 0;
        foreach (string name in source.Tensors)
        {
            float[] expected = source.Read(name), actual = tensors.Read(name);
            if (source.Nearest(name, 0, source.Shape(name).Rows).All(n => n.Lossless))
            {
                Assert.Equal(expected, actual);
                kept++;
                continue;
            }
            double error = 0, size = 0;
            for (int i = 0; i < expected.Length; i++)
            {
                error += (actual[i] - expected[i]) * (double)(actual[i] - expected[i]);
                size += expected[i] * (double)expected[i];
            }
            double most = name.EndsWith("ffn.down", StringComparison.Ordinal) ? 0.003 : 0.01;
            Assert.True(size == 0 || Math.Sqrt(error / size) < most, $"{name}: relative error {Math.Sqrt(error / size)}");
        }
        Assert.True(kept >= 3 * imported.Package.Config.Layers, $"only {kept} tensors were kept");
    }

    private static IEnumerable<(int[] Ids, float[] Logits, JsonElement Golden)> Prompts(string path)
    {
        foreach (var p in TestData.Json(path.Replace(".gguf", ".golden.json", StringComparison.Ordinal)).GetProperty("prompts").EnumerateArray())
            yield return (TestData.Ints(p.GetProperty("ids")), [.. p.GetProperty("last_logits").EnumerateArray().Select(l => l.GetSingle())], p);
    }
}
