using System.Globalization;
using System.Text.Json;
using FlashOrleans.Models.Templates;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Templates;

/// <summary>Chat templates as published ones are written, rendered by Hugging Face's own environment: every case must come out to the character.</summary>
public sealed class GoldenTemplateTests
{
    internal static readonly string[] Names =
        ["chatml", "deepseek", "functionary", "gemma", "kitchen-sink", "llama2", "llama3", "macros", "mistral", "phi3", "qwen3", "whitespace"];

    public static TheoryData<string> All => [.. Names];

    internal static JsonElement Golden(string name) => TestData.Json(TestData.Repo("tests", "data", "chat", $"{name}.json"));

    internal static Dictionary<string, string> Special(JsonElement golden) => new()
    {
        ["bos_token"] = golden.GetProperty("bos").GetString()!,
        ["eos_token"] = golden.GetProperty("eos").GetString()!,
    };

    internal static TemplateInput Input(JsonElement golden, JsonElement c) => new()
    {
        Messages = c.GetProperty("messages"),
        Tools = c.TryGetProperty("tools", out var tools) && tools.ValueKind == JsonValueKind.Array ? tools : null,
        Extra = c.TryGetProperty("extra", out var extra) ? extra : null,
        AddGenerationPrompt = c.GetProperty("add_generation_prompt").GetBoolean(),
        Now = DateTimeOffset.Parse(golden.GetProperty("now").GetString()!, CultureInfo.InvariantCulture),
    };

    [Theory]
    [MemberData(nameof(All))]
    public void Every_golden_case_comes_out_exactly_or_is_refused(string name)
    {
        var golden = Golden(name);
        var template = JinjaTemplate.Parse(golden.GetProperty("template").GetString()!);
        int compared = 0;
        foreach (var c in golden.GetProperty("cases").EnumerateArray())
        {
            if (c.TryGetProperty("error_message", out _)) Assert.Throws<TemplateException>(() => template.Render(Input(golden, c), Special(golden)));
            else Assert.Equal(c.GetProperty("expected").GetString(), template.Render(Input(golden, c), Special(golden)));
            compared++;
        }
        Assert.True(compared >= 6);
    }

    [Fact]
    public void The_whole_golden_set_is_here() => Assert.Equal(110, Names.Sum(static n => Golden(n).GetProperty("cases").GetArrayLength()));
}
