using System.Text.RegularExpressions;

namespace FlashOrleans.Cli.Tests;

public sealed class UsageTests(FlashHome home)
{
    [Theory]
    [InlineData("run")]
    [InlineData("import")]
    [InlineData("synth")]
    [InlineData("pull")]
    [InlineData("list")]
    [InlineData("show")]
    [InlineData("rm")]
    [InlineData("verify")]
    [InlineData("tokenize")]
    [InlineData("logits")]
    [InlineData("perplexity")]
    [InlineData("bench")]
    [InlineData("plan")]
    [InlineData("serve")]
    [InlineData("sessions")]
    public async Task Help_of_a_verb_shows_options_and_examples(string verb)
    {
        var outcome = await Flash.RunAsync(home, verb, "--help");
        Assert.Equal(0, outcome.Code);
        Assert.Contains("Usage:", outcome.Out, StringComparison.Ordinal);
        Assert.Contains($"Examples:\n  flash {verb}", outcome.Out, StringComparison.Ordinal);
        Assert.Empty(outcome.Error);
    }

    [Fact]
    public async Task Version_is_one_line()
    {
        var outcome = await Flash.RunAsync(home, "--version");
        Assert.Equal(0, outcome.Code);
        Assert.Matches(new Regex(@"\A\d+\.\d+\.\d+\S*\n\z"), outcome.Out);
    }

    [Theory]
    [InlineData("")]
    [InlineData("conjure")]
    [InlineData("run")]
    [InlineData("run emberling one two")]
    [InlineData("run emberling hello --window 25")]
    [InlineData("run emberling hello --window 0%")]
    [InlineData("run emberling hello --temperature hot")]
    [InlineData("run emberling hello --top-p 1.5")]
    [InlineData("run emberling hello --mode sometimes")]
    [InlineData("run emberling hello --prefetch maybe")]
    [InlineData("run emberling hello --threads 0")]
    [InlineData("run emberling hello --seed -1")]
    [InlineData("serve --port 70000")]
    [InlineData("serve --host nowhere")]
    [InlineData("run emberling")]
    [InlineData("run emberling --json")]
    [InlineData("import")]
    [InlineData("import . --name ../escape")]
    [InlineData("import . --recall 100%")]
    [InlineData("import . --recall most")]
    [InlineData("import . --bundles thin")]
    [InlineData("synth --shape opt-6.7b --bundles thin")]
    [InlineData("import . --order alphabet")]
    [InlineData("pull")]
    [InlineData("pull emberling")]
    [InlineData("pull ./models/emberling")]
    [InlineData("pull fox/lantern:")]
    [InlineData("pull fox/lantern --name ../escape")]
    [InlineData("pull fox/lantern --quant q5")]
    [InlineData("tokenize emberling")]
    [InlineData("tokenize emberling --text a --decode 1")]
    [InlineData("tokenize emberling --text a --input x --json")]
    [InlineData("tokenize emberling --input x")]
    [InlineData("tokenize emberling --decode 1,x")]
    [InlineData("tokenize emberling --decode 4096")]
    [InlineData("logits emberling")]
    [InlineData("logits emberling --tokens 1,4096")]
    [InlineData("logits emberling --tokens 1 --generate 1024")]
    [InlineData("perplexity emberling")]
    [InlineData("perplexity emberling --file x --window 0")]
    [InlineData("run emberling hello --budget 200MiB --window 10%")]
    [InlineData("run emberling hello --budget 0.5")]
    [InlineData("run emberling hello --sessions 2")]
    [InlineData("plan emberling")]
    [InlineData("plan emberling --budget lots")]
    [InlineData("plan emberling --budget 50% --sessions 0")]
    [InlineData("logits emberling --tokens 1 --budget 200MiB --window 10%")]
    [InlineData("bench emberling --budget 300MiB --path both")]
    [InlineData("serve --context 100")]
    [InlineData("run emberling hello --budget 200MiB,300MiB")]
    [InlineData("run emberling hello --window 10%,25%")]
    [InlineData("logits emberling --tokens 1 --mode exact,dense")]
    [InlineData("plan emberling --budget 200MiB,300MiB")]
    [InlineData("bench emberling --budget 200MiB,lots")]
    [InlineData("bench emberling --window 10%,")]
    [InlineData("bench emberling --mode exact,sometimes")]
    [InlineData("bench emberling --budget 200MiB,300MiB --window 10%")]
    [InlineData("bench emberling --sessions 1,0")]
    [InlineData("bench emberling --prompt 0")]
    [InlineData("bench emberling --prompt 1000 --generate 100")]
    public async Task Wrong_usage_is_one_line_on_stderr_and_2(string line)
    {
        var outcome = await Flash.RunAsync(home, line.Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.True(outcome.Code == 2, $"exit code {outcome.Code}, {outcome.Error}");
        Assert.Empty(outcome.Out);
        OneLine(outcome.Error);
    }

    [Theory]
    [InlineData("run nobody hello", "nobody")]
    [InlineData("show nobody", "nobody")]
    [InlineData("verify ./nowhere.flash", "nowhere.flash")]
    [InlineData("rm nobody", "nobody")]
    [InlineData("import ./nowhere", "nowhere")]
    [InlineData("import . --name empty", "config.json")]
    [InlineData("perplexity emberling --file ./nothing.txt --json", "nothing.txt")]
    [InlineData("logits nobody --tokens 1 --json", "nobody")]
    [InlineData("bench nobody --json", "nobody")]
    public async Task A_failure_is_one_line_that_names_what_is_wrong_and_1(string line, string named)
    {
        var outcome = await Flash.RunAsync(home, line.Split(' '));
        Assert.True(outcome.Code == 1, $"exit code {outcome.Code}, {outcome.Error}");
        Assert.Empty(outcome.Out);
        OneLine(outcome.Error);
        Assert.Contains(named, outcome.Error, StringComparison.Ordinal);
    }

    /// <summary>One line that is not progress, and no stack trace.</summary>
    private static void OneLine(string error)
    {
        string[] lines = [.. error.Split('\n', StringSplitOptions.RemoveEmptyEntries).Where(static l => !l.StartsWith("importing", StringComparison.Ordinal))];
        Assert.StartsWith("flash", Assert.Single(lines), StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", error, StringComparison.Ordinal);
        Assert.DoesNotContain("unexpected", error, StringComparison.Ordinal);
    }
}
