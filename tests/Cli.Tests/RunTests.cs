using System.Text.RegularExpressions;

namespace FlashOrleans.Cli.Tests;

public sealed class RunTests(FlashHome home)
{
    private const string Prompt = "Tell me a story about a fox and a lantern";
    private const int SigInt = 2;

    [Fact]
    public async Task A_story_is_all_of_stdout_and_one_line_of_figures_follows_on_stderr()
    {
        var outcome = await Flash.RunAsync(home, "run", "emberling", Prompt, "--seed", "1", "--max-tokens", "24");
        Assert.Equal(0, outcome.Code);
        Assert.True(outcome.Out.Trim().Length > 40, outcome.Out);
        string figures = outcome.Error.TrimEnd('\n').Split('\n')[^1];
        Assert.Matches(new Regex(@"^24 tokens \(limit\) · [\d.]+ tok/s · first token .+ · flash .+B/token( \(buffered\))? · window hits [\d.]+ %( · drafts right \d+ of \d+)? · DRAM [\d.]+ [kMG]?B$"), figures);
    }

    [Fact]
    public async Task Predicted_without_predictors_is_one_line_that_says_what_to_do()
    {
        var outcome = await Flash.RunAsync(home, "run", "emberling", Prompt, "--mode", "predicted");
        Assert.Equal(1, outcome.Code);
        Assert.EndsWith("mode predicted needs predictors; emberling has none: import it again with --predictors DIR (trained ones) or --predictors sketch4, or take --mode exact\n", outcome.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Nothing_redirected_holds_an_escape_sequence()
    {
        foreach (string[] args in new[] { new[] { "run", "emberling", Prompt, "--max-tokens", "4" }, ["show", "emberling"], ["list"], ["bench", "emberling", "--generate", "4"] })
        {
            var outcome = await Flash.RunAsync(home, args);
            Assert.Equal(0, outcome.Code);
            Assert.DoesNotContain('\e', outcome.Out);
            Assert.DoesNotContain('\e', outcome.Error);
            Assert.DoesNotContain('\r', outcome.Out + outcome.Error);
        }
    }

    [Fact]
    public async Task A_pipe_on_stdin_is_the_prompt()
    {
        string[] args = ["--seed", "5", "--max-tokens", "16"];
        var said = await Flash.RunAsync(home, ["run", "emberling", Prompt, .. args]);
        using var flash = Flash.Start(home, ["run", "emberling", .. args]);
        await flash.In.WriteLineAsync(Prompt);
        flash.In.Close();
        var piped = await flash.EndAsync();
        Assert.Equal(0, piped.Code);
        Assert.Equal(said.Out, piped.Out);
    }

    [Fact]
    public async Task A_pipe_with_commands_among_its_lines_is_a_chat()
    {
        using var flash = Flash.Start(home, "run", "emberling", "--seed", "5", "--max-tokens", "8");
        foreach (string line in new[] { Prompt, "/set window 10%", "/stats", "/clear", "Tell me about a bear", "/bye", "never said" }) await flash.In.WriteLineAsync(line);
        flash.In.Close();
        var chat = await flash.EndAsync();
        Assert.Equal(0, chat.Code);
        Assert.Contains("window 10.0 %", chat.Error, StringComparison.Ordinal);
        Assert.Contains("forgotten", chat.Error, StringComparison.Ordinal);
        Assert.Contains("the whole process", chat.Out, StringComparison.Ordinal);
        Assert.Equal(2, chat.Error.Split("8 tokens (limit)").Length - 1);
        Assert.DoesNotContain(">>>", chat.Out, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("run", "Hello", "--max-tokens", "2")]
    [InlineData("show")]
    [InlineData("tokenize", "--text", "fox")]
    [InlineData("logits", "--tokens", "1,2")]
    [InlineData("perplexity", "--file", "tale.txt", "--window", "16")]
    [InlineData("bench", "--prompt", "4", "--generate", "2")]
    public async Task Every_verb_that_takes_a_name_imports_the_bundled_model_on_first_use(string verb, params string[] args)
    {
        using var fresh = new FlashHome();
        await File.WriteAllTextAsync(Path.Combine(fresh.Folder, "tale.txt"), "Once upon a time there was a fox who lived by the sea and carried a lantern through the night.", TestContext.Current.CancellationToken);
        var outcome = await Flash.RunAsync(fresh, [verb, "emberling", .. args, "--json"]);
        _ = outcome.Json;
        Assert.Contains("importing emberling", outcome.Error, StringComparison.Ordinal);
        Assert.True(Directory.Exists(Path.Combine(fresh.Folder, "models", "emberling.flash")));
    }

    [Fact]
    public async Task A_seed_gives_the_same_story_whatever_the_window_and_name_may_be_a_path()
    {
        var narrow = (await Flash.RunAsync(home, "run", "emberling", Prompt, "--seed", "3", "--max-tokens", "48", "--window", "10%", "--json")).Json;
        string path = Path.Combine(home.Folder, "models", "emberling.flash");
        var wide = (await Flash.RunAsync(home, "run", path, Prompt, "--seed", "3", "--max-tokens", "48", "--window", "100%", "--json")).Json;
        Assert.Equal(48, narrow.GetProperty("tokens").GetArrayLength());
        Assert.Equal(TestData.Ints(wide.GetProperty("tokens")), TestData.Ints(narrow.GetProperty("tokens")));
        Assert.Equal(wide.GetProperty("text").GetString(), narrow.GetProperty("text").GetString());
        Assert.True(narrow.GetProperty("flash_bytes_per_token").GetDouble() > 0);
        Assert.InRange(narrow.GetProperty("hit_rate").GetDouble(), 0, 1);
        Assert.InRange(narrow.GetProperty("zero_neurons").GetDouble(), 0.8, 1);
        Assert.True(narrow.GetProperty("dram_bytes").GetInt64() < wide.GetProperty("process_bytes").GetInt64());
    }

    [Fact]
    public async Task Ctrl_C_ends_an_answer_with_130()
    {
        using var flash = Flash.Start(home, "run", "emberling", Prompt, "--temperature", "0");
        await flash.SeeAsync("Here");
        flash.Signal(SigInt);
        var outcome = await flash.EndAsync();
        Assert.Equal(130, outcome.Code);
        Assert.Contains("(stopped)", outcome.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Ctrl_C_ends_an_import_with_130_and_leaves_no_package()
    {
        string folder = Path.Combine(home.Folder, "endless");
        HugeCheckpoint.Create(folder);
        using var flash = Flash.Start(home, "import", folder, "--name", "endless");
        await flash.SeeAsync("importing endless");
        flash.Signal(SigInt);
        var outcome = await flash.EndAsync();
        Directory.Delete(folder, recursive: true);
        Assert.Equal(130, outcome.Code);
        Assert.Empty(outcome.Out);
        Assert.Empty(Directory.EnumerateFileSystemEntries(Path.Combine(home.Folder, "models"), "*endless*"));
    }

    [Fact]
    public async Task Ctrl_C_ends_a_tool_with_130_and_nothing_on_stdout()
    {
        using var flash = Flash.Start(home, "bench", "emberling", "--generate", "900", "--sessions", "1,2,4,8,8,8,8,8", "--json");
        await flash.SeeAsync("measuring");
        flash.Signal(SigInt);
        var outcome = await flash.EndAsync();
        Assert.Equal(130, outcome.Code);
        Assert.Empty(outcome.Out);
    }
}
