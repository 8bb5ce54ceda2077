using System.Text.Json;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Engine.Tests;

/// <summary>SmolLM2-135M-Instruct, a real checkpoint in Q4_1, against its golden file (../shared/models/README.md: oracle A is float32 on the dequantised weights).</summary>
public sealed class SmolLmTests
{
    private static string Model => TestData.Shared("models", "smollm2-135m-instruct-q4_1.gguf");
    private static IEnumerable<JsonElement> GoldenPrompts => TestData.Json(TestData.Shared("models", "smollm2-135m-instruct.golden.json")).GetProperty("prompts").EnumerateArray();

    [Fact]
    public void In_float_its_logits_and_continuations_are_those_of_the_oracle()
    {
        using var imported = ImportedPackage.Create(Model, "f32");
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 1 });
        foreach (var prompt in GoldenPrompts)
        {
            using var session = engine.OpenSession();
            int[] ids = TestData.Ints(prompt.GetProperty("ids")), greedy = TestData.Ints(prompt.GetProperty("greedy_ids"));
            double[] margins = Doubles(prompt.GetProperty("margins"));
            session.Timeline.Append(ids);
            var top = session.Run(Sampling.Greedy, topLogits: 64).Top!.ToDictionary(t => t.Id, t => t.Logit);
            foreach (var expected in prompt.GetProperty("top10").EnumerateArray())
                Assert.Equal(expected.GetProperty("logit").GetSingle(), top[expected.GetProperty("id").GetInt32()], 1e-3f);
            // Beyond a near-tie the two texts may go different ways.
            int sure = Array.FindIndex(margins, m => m <= 2e-3);
            if (sure < 0) sure = greedy.Length;
            using var other = engine.OpenSession();
            Assert.Equal(greedy[..sure], other.Generate(ids, sure, Sampling.Greedy).Select(r => r.Token));
        }
    }

    /// <summary>Of the steps, llama.cpp agrees in 96.5 %. All of the file goes over as it is, so that q4 has nothing to do.</summary>
    [Theory, InlineData("keep"), InlineData("q4")]
    public void In_its_own_bits_the_engine_stays_as_near_to_the_oracle_as_eight_bit_activations_let_it(string quant)
    {
        using var imported = ImportedPackage.Create(Model, quant);
        Assert.Equal((WeightFormat.Q4B, WeightFormat.Q4B, WeightFormat.Q4B, WeightFormat.Q8),
            (imported.Package.Manifest.Weights.Of(0, "attn.qkv"), imported.Package.Manifest.Weights.Of(29, "ffn.gate"), imported.Package.Manifest.Weights.Of(0, "ffn.down"), imported.Package.Manifest.Weights.Of("embed")));
        using var engine = new LocalEngine(imported.Package, null, new() { Window = 1 });
        double error = 0;
        int count = 0, steps = 0, agree = 0;
        foreach (var prompt in GoldenPrompts)
        {
            int[] ids = TestData.Ints(prompt.GetProperty("ids")), greedy = TestData.Ints(prompt.GetProperty("greedy_ids"));
            double[] margins = Doubles(prompt.GetProperty("margins"));
            using var session = engine.OpenSession();
            session.Timeline.Append(ids);
            for (int i = 0; i < greedy.Length; i++)
            {
                var result = session.Run(Sampling.Greedy, topLogits: i == 0 ? 64 : 0);
                if (i == 0)
                {
                    var top = result.Top!.ToDictionary(t => t.Id, t => t.Logit);
                    foreach (var expected in prompt.GetProperty("top10").EnumerateArray())
                    {
                        double d = Math.Abs(top[expected.GetProperty("id").GetInt32()] - expected.GetProperty("logit").GetDouble());
                        Assert.True(d <= 1.5, $"{prompt.GetProperty("id")}: a logit is off by {d}");
                        error += d;
                        count++;
                    }
                }
                Assert.True(result.Token == greedy[i] || margins[i] <= 0.4, $"{prompt.GetProperty("id")} step {i}: {result.Token} instead of {greedy[i]} with margin {margins[i]}");
                steps++;
                if (result.Token == greedy[i]) agree++;
                session.Timeline.Append([greedy[i]]);
            }
        }
        Assert.True(error / count <= 0.25, $"mean error of the ten best logits {error / count}");
        Assert.True(agree >= 0.97 * steps, $"{agree} of {steps} steps agree");
    }

    [Fact]
    public void Its_tokenizer_gives_the_ids_of_every_prompt()
    {
        using var imported = ImportedPackage.Create(Model, "keep");
        var codec = TextCodec.FromFiles(imported.Package.SideFile)!;
        foreach (var prompt in GoldenPrompts)
        {
            int[] ids = TestData.Ints(prompt.GetProperty("ids"));
            Assert.Equal(ids, codec.Encode(prompt.GetProperty("text").GetString()!, parseSpecial: true));
            if (prompt.GetProperty("kind").GetString() != "chat") continue;
            ChatMessage[] messages = [.. prompt.GetProperty("messages").EnumerateArray().Select(m => new ChatMessage(m.GetProperty("role").GetString()!, m.GetProperty("content").GetString()!))];
            Assert.Equal(ids, codec.ChatTemplate!.EncodeChat(messages, prompt.GetProperty("add_generation_prompt").GetBoolean()));
        }
    }

    private static double[] Doubles(JsonElement array) => [.. array.EnumerateArray().Select(e => e.GetDouble())];
}
