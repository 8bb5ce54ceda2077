using System.Text.Json;

namespace FlashOrleans.Cli.Tests;

/// <summary>`flash template`: the exact prompt on standard output.</summary>
public sealed class TemplateTests(FlashHome home)
{
    private static string Golden(string name) => TestData.Repo("tests", "data", "chat", $"{name}.json");

    private string Write(string text)
    {
        string path = Path.Combine(home.Folder, $"{Guid.NewGuid():N}.tmp");
        File.WriteAllText(path, text);
        return path;
    }

    [Fact]
    public async Task A_jinja_file_renders_a_golden_case_with_tools_tokens_and_a_fixed_clock()
    {
        var golden = TestData.Json(Golden("llama3"));
        string template = Path.ChangeExtension(Write(golden.GetProperty("template").GetString()!), ".jinja");
        await File.WriteAllTextAsync(template, golden.GetProperty("template").GetString());
        var c = golden.GetProperty("cases").EnumerateArray().First(static c => c.TryGetProperty("tools", out var t) && t.ValueKind == JsonValueKind.Array);
        string messages = Write(c.GetProperty("messages").GetRawText()), tools = Write(c.GetProperty("tools").GetRawText());
        string[] args = ["template", template, "--messages", messages, "--tools", tools, "--bos", golden.GetProperty("bos").GetString()!, "--eos", golden.GetProperty("eos").GetString()!];
        var made = await Flash.RunAsync(home, [.. args, "--now", "2025-03-07"]);
        Assert.Equal((0, c.GetProperty("expected").GetString(), ""), (made.Code, made.Out, made.Error));
        var other = await Flash.RunAsync(home, [.. args, "--now", "2026-01-31"]);
        Assert.Contains("31 Jan 2026", other.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_case_object_brings_its_own_variables_and_a_model_its_own_tokens()
    {
        string messages = Write("""{"messages":[{"role":"user","content":"Hi"}],"add_generation_prompt":true,"extra":{"x":"!"},"y":"?"}""");
        var made = await Flash.RunAsync(home, "template", "emberling", "--messages", messages);
        Assert.Equal("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", made.Out);
        var bare = await Flash.RunAsync(home, "template", TestData.Repo("models", "emberling"), "--messages", messages, "--no-generation-prompt");
        Assert.Equal("<|im_start|>user\nHi<|im_end|>\n", bare.Out);
        string template = Write("{{ x }}{{ y }}{{ bos_token }}");
        Assert.Equal("!?<b>", (await Flash.RunAsync(home, "template", template, "--messages", messages, "--bos", "<b>")).Out);
    }

    [Fact]
    public async Task What_goes_wrong_is_one_line_and_exit_code_1()
    {
        string messages = Write("""[{"role":"user","content":"Hi"}]""");
        foreach (string template in new[] { "{{ raise_exception('not like this') }}", "{% for", "{{ messages | frobnicate }}", "{{ 1 + 'a' }}" })
        {
            var made = await Flash.RunAsync(home, "template", Write(template), "--messages", messages);
            Assert.Equal((1, ""), (made.Code, made.Out));
            Assert.Equal(1, made.Error.Count(static c => c == '\n'));
            Assert.Contains("line 1 of the template", made.Error, StringComparison.Ordinal);
        }
        Assert.Equal(1, (await Flash.RunAsync(home, "template", "emberling", "--messages", Write("5"))).Code);
        Assert.Equal(1, (await Flash.RunAsync(home, "template", "emberling", "--messages", Write("["))).Code);
        Assert.Equal(2, (await Flash.RunAsync(home, "template", "emberling", "--messages", messages, "--now", "soon")).Code);
    }
}
