using System.Text.Json;
using System.Text.RegularExpressions;

namespace FlashOrleans.Cli.Tests;

public sealed partial class BudgetTests(FlashHome home)
{
    private static readonly string[] s_rates = ["--memory-rate", "10", "--read-rate", "50", "--flash-rate", "1", "--compute-rate", "40"];

    [Fact]
    public async Task A_plan_adds_up_and_says_what_to_expect_of_rates_that_are_given()
    {
        var plan = (await Flash.RunAsync(home, ["plan", "emberling", "--budget", "300MiB", "--sessions", "4", "--context", "500", .. s_rates, "--json"])).Json;
        Assert.True(plan.GetProperty("fits").GetBoolean());
        Assert.Equal(300L << 20, plan.GetProperty("budget_bytes").GetInt64());
        long sum = plan.GetProperty("lines").EnumerateArray().Sum(static l => l.GetProperty("bytes").GetInt64());
        Assert.Equal(sum, plan.GetProperty("sum_bytes").GetInt64());
        Assert.Equal(300L << 20, sum + plan.GetProperty("left_bytes").GetInt64());
        Assert.Equal("as given", plan.GetProperty("rates").GetProperty("source").GetString());
        Assert.Equal([1, 4], plan.GetProperty("expected").EnumerateArray().Select(static e => e.GetProperty("sessions").GetInt32()));
        Assert.All(plan.GetProperty("expected").EnumerateArray(), static e => Assert.True(e.GetProperty("tokens_per_second").GetDouble() > 1));
        var table = await Flash.RunAsync(home, ["plan", "emberling", "--budget", "300MiB", .. s_rates]);
        Assert.Equal(0, table.Code);
        foreach (string word in new[] { "resident", "windows", "kv", "buffers", "process", "heap", "margin", "sum", "tok/s" }) Assert.Contains(word, table.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_plan_with_a_model_that_drafts_counts_it()
    {
        string shape = Path.Combine(home.Folder, "drafts.json");
        await File.WriteAllTextAsync(shape, """
            {"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":512,"hidden_size":256,"intermediate_size":1024,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":4,"max_position_embeddings":256,"rms_norm_eps":1e-5}
            """, TestContext.Current.CancellationToken);
        foreach (string name in (string[])["plan-target", "plan-drafter"])
            Assert.Equal(0, (await Flash.RunAsync(home, "synth", "--shape", shape, "--name", name, "--seed", name == "plan-target" ? "1" : "2")).Code);
        string[] ask = ["plan", "plan-target", "--budget", "300MiB", .. s_rates, "--json"];
        var alone = Lines((await Flash.RunAsync(home, ask)).Json);
        var drafted = Lines((await Flash.RunAsync(home, [.. ask, "--draft", "plan-drafter"])).Json);
        Assert.DoesNotContain("draft", alone.Keys);
        Assert.True(drafted["draft"] > 1_000_000, $"{drafted["draft"]} bytes");

        static Dictionary<string, long> Lines(JsonElement plan) => plan.GetProperty("lines").EnumerateArray().ToDictionary(static l => l.GetProperty("kind").GetString()!, static l => l.GetProperty("bytes").GetInt64());
    }

    [Fact]
    public async Task What_does_not_fit_is_refused_with_a_minimum_that_does()
    {
        var refused = await Flash.RunAsync(home, "plan", "emberling", "--budget", "90%", "--path", "engine");
        Assert.Equal(1, refused.Code);
        var least = Least().Match(refused.Error);
        Assert.True(least.Success, refused.Error);
        var run = await Flash.RunAsync(home, "logits", "emberling", "--tokens", "1,2,3", "--budget", "20MiB", "--path", "engine");
        Assert.Equal(1, run.Code);
        Assert.Empty(run.Out);
        Assert.Single(run.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries), static l => !l.StartsWith("importing", StringComparison.Ordinal));
        var accepted = await Flash.RunAsync(home, ["plan", "emberling", "--budget", least.Groups[1].Value, "--path", "engine", .. s_rates]);
        Assert.True(accepted.Code == 0, accepted.Error);
    }

    [Theory, InlineData("grains"), InlineData("engine")]
    public async Task Logits_are_the_same_with_and_without_a_budget(string path)
    {
        string[] ask = ["logits", "emberling", "--tokens", "1,455,268,201", "--generate", "8", "--json", "--path", path];
        var without = (await Flash.RunAsync(home, ask)).Json;
        var with = await Flash.RunAsync(home, [.. ask, "--budget", "260MiB"]);
        Assert.Equal(JsonSerializer.Serialize(without), JsonSerializer.Serialize(with.Json));
        Assert.DoesNotContain("warning", with.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_chat_under_a_budget_has_no_window_to_set()
    {
        var flash = Flash.Start(home, "run", "emberling", "--budget", "300MiB", "--seed", "1", "--max-tokens", "4");
        using (flash)
        {
            await flash.In.WriteAsync("/set window 10%\n/set\n/bye\n");
            flash.In.Close();
            var outcome = await flash.EndAsync();
            Assert.Contains("the budget of 300MiB sizes the windows", outcome.Error, StringComparison.Ordinal);
            Assert.Contains("budget 300MiB, mode", outcome.Error, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task A_silo_whose_budget_no_model_fits_does_not_start()
    {
        var outcome = await Flash.RunAsync(home, "serve", "--budget", "30MiB", "--port", "0", "--silo-port", "0", "--gateway", "0");
        Assert.Equal(1, outcome.Code);
        Assert.Contains("emberling is not served", outcome.Error, StringComparison.Ordinal);
        Assert.Contains("at least", outcome.Error, StringComparison.Ordinal);
    }

    [GeneratedRegex(@"at least (\d+MiB)")]
    private static partial Regex Least();
}
