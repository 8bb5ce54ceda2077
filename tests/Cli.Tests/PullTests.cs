using System.Text;

namespace FlashOrleans.Cli.Tests;

/// <summary>`flash pull` against a hub on this machine, in a FLASH_HOME of its own.</summary>
public sealed class PullTests : IDisposable
{
    private const int SigInt = 2;
    private readonly FlashHome _home = new();
    private readonly FakeHub _hub = new();

    public PullTests()
    {
        _home.Environment["HF_ENDPOINT"] = _hub.Url.AbsoluteUri;
        _hub.Add("fox/Lantern.v1", TestData.Golden("llama-relu"));
    }

    public void Dispose()
    {
        _hub.Dispose();
        _home.Dispose();
    }

    [Fact]
    public async Task A_pulled_model_is_in_the_store_and_its_download_gone()
    {
        _home.Environment["HF_TOKEN"] = "hf_secret";
        _hub.Answer = r => r.Token == "Bearer hf_secret" ? null : new FakeReply(401, []);
        var pull = await Flash.RunAsync(_home, "pull", "hf.co/fox/Lantern.v1", "--quant", "f32", "--json");
        Assert.Equal("Lantern.v1", pull.Json.GetProperty("name").GetString());
        Assert.Equal("f32", pull.Json.GetProperty("quant").GetString());
        Assert.Equal("fox/Lantern.v1", pull.Json.GetProperty("source").GetString());
        Assert.Contains("fox/Lantern.v1, downloading", pull.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("hf_secret", pull.Error, StringComparison.Ordinal);
        Assert.Equal(0, (await Flash.RunAsync(_home, "verify", "Lantern.v1")).Code);
        Assert.Empty(Downloads());
        var direct = await Flash.RunAsync(_home, "import", TestData.Golden("llama-relu"), "--name", "direct", "--quant", "f32", "--json");
        foreach (string file in Directory.EnumerateFiles(direct.Json.GetProperty("path").GetString()!, "*.slice", SearchOption.AllDirectories))
            Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(file.Replace("direct.flash", "Lantern.v1.flash", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task A_kept_download_is_used_by_the_next_pull()
    {
        var first = await Flash.RunAsync(_home, "pull", "fox/Lantern.v1", "--keep", "--name", "one");
        Assert.True(first.Code == 0, first.Error);
        Assert.StartsWith("one: ", first.Out, StringComparison.Ordinal);
        Assert.Contains(Path.Combine(_home.Folder, "downloads", "fox--Lantern.v1"), first.Error, StringComparison.Ordinal);
        Assert.Contains("model.safetensors", Downloads());
        int before = _hub.Requests.Count;
        Assert.Equal(0, (await Flash.RunAsync(_home, "pull", "fox/Lantern.v1", "--name", "two")).Code);
        Assert.Equal(before + 1, _hub.Requests.Count);
        Assert.Empty(Downloads());
    }

    [Fact]
    public async Task Ctrl_C_keeps_the_partial_download_says_so_and_the_same_command_goes_on()
    {
        byte[] weights = _hub.Repositories["fox/Lantern.v1"]["model.safetensors"];
        _hub.Answer = r => r.Path.EndsWith("/model.safetensors", StringComparison.Ordinal) ? new FakeReply(200, weights) { CutAfter = weights.Length / 2, FallSilent = true } : null;
        using (var flash = Flash.Start(_home, "pull", "fox/Lantern.v1"))
        {
            await _hub.Silent.WaitAsync(Flash.Patience);
            flash.Signal(SigInt);
            var stopped = await flash.EndAsync();
            Assert.Equal(130, stopped.Code);
            Assert.Empty(stopped.Out);
            Assert.Contains("the same command goes on from there", stopped.Error, StringComparison.Ordinal);
        }
        Assert.Contains("model.safetensors.part", Downloads());
        Assert.DoesNotContain("model.safetensors", Downloads());
        _hub.Answer = null;
        var again = await Flash.RunAsync(_home, "pull", "fox/Lantern.v1");
        Assert.True(again.Code == 0, again.Error);
        Assert.Equal(0, (await Flash.RunAsync(_home, "verify", "Lantern.v1")).Code);
    }

    [Theory]
    [InlineData("fox/nobody", "fox/nobody")]
    [InlineData("fox/Lantern.v1:Q4_K_M", "has no GGUF files")]
    public async Task A_pull_that_cannot_be_is_one_line_and_downloads_nothing(string model, string says)
    {
        var outcome = await Flash.RunAsync(_home, "pull", model, "--json");
        Assert.Equal(1, outcome.Code);
        Assert.Empty(outcome.Out);
        Assert.Contains(says, OneLine(outcome), StringComparison.Ordinal);
        Assert.Empty(Downloads());
    }

    [Fact]
    public async Task A_GGUF_file_is_pulled_and_imported_with_its_quantisation()
    {
        _hub.Add("fox/gguf").Add("a-Q4_0.gguf", await File.ReadAllBytesAsync(TestData.Repo("tests", "data", "gguf", "llama-Q4_0.gguf"), TestContext.Current.CancellationToken));
        var pulled = (await Flash.RunAsync(_home, "pull", "fox/gguf:Q4_0", "--name", "fromhub", "--json")).Json;
        Assert.Equal("q4", pulled.GetProperty("quant").GetString());
        Assert.Empty(Downloads());
        Assert.Equal(0, (await Flash.RunAsync(_home, "verify", "fromhub")).Code);
    }

    [Fact]
    public async Task A_GGUF_file_that_is_none_is_refused_when_it_is_there()
    {
        _hub.Add("fox/nogguf").Add("a-Q8_0.gguf", new byte[100]);
        var outcome = await Flash.RunAsync(_home, "pull", "fox/nogguf");
        Assert.Equal(1, outcome.Code);
        Assert.Contains("a-Q8_0.gguf", OneLine(outcome), StringComparison.Ordinal);
    }

    [Fact]
    public async Task An_architecture_that_cannot_be_imported_is_refused_before_its_weights_are_downloaded()
    {
        _hub.Repositories["fox/Lantern.v1"]["config.json"] = Encoding.UTF8.GetBytes("{\"model_type\": \"sundial\"}");
        var outcome = await Flash.RunAsync(_home, "pull", "fox/Lantern.v1");
        Assert.Equal(1, outcome.Code);
        Assert.StartsWith("flash: fox/Lantern.v1/config.json: architecture sundial is not supported", OneLine(outcome), StringComparison.Ordinal);
        Assert.DoesNotContain(_hub.Requests, static r => r.Path.EndsWith("/model.safetensors", StringComparison.Ordinal));
        Assert.Empty(Downloads());
    }

    [Fact]
    public async Task Lean_bundles_are_pulled_as_they_are_imported_and_refused_before_the_weights_of_a_model_without_zeros_are_downloaded()
    {
        var pull = await Flash.RunAsync(_home, "pull", "fox/Lantern.v1", "--quant", "f32", "--bundles", "lean", "--json");
        Assert.True(pull.Code == 0, pull.Error);
        Assert.Equal("lean", (await Flash.RunAsync(_home, "show", "Lantern.v1", "--json")).Json.GetProperty("bundles").GetString());
        var direct = await Flash.RunAsync(_home, "import", TestData.Golden("llama-relu"), "--name", "direct", "--quant", "f32", "--bundles", "lean", "--json");
        foreach (string file in Directory.EnumerateFiles(direct.Json.GetProperty("path").GetString()!, "*.slice", SearchOption.AllDirectories))
            Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(file.Replace("direct.flash", "Lantern.v1.flash", StringComparison.Ordinal)));
        int before = _hub.Requests.Count;
        byte[] config = _hub.Repositories["fox/Lantern.v1"]["config.json"];
        _hub.Repositories["fox/Lantern.v1"]["config.json"] = Encoding.UTF8.GetBytes(Encoding.UTF8.GetString(config).Replace("relu", "silu", StringComparison.Ordinal));
        var refused = await Flash.RunAsync(_home, "pull", "fox/Lantern.v1", "--name", "other", "--bundles", "lean");
        Assert.Equal(1, refused.Code);
        Assert.EndsWith("leave out --bundles lean", OneLine(refused).TrimEnd(), StringComparison.Ordinal);
        Assert.DoesNotContain(_hub.Requests.Skip(before), static r => r.Path.EndsWith("/model.safetensors", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_checkpoint_whose_weights_cannot_be_imported_says_so_and_where_its_files_are()
    {
        _hub.Repositories["fox/Lantern.v1"]["model.safetensors"] = new byte[9];
        var outcome = await Flash.RunAsync(_home, "pull", "fox/Lantern.v1");
        Assert.Equal(1, outcome.Code);
        string line = OneLine(outcome);
        Assert.Contains("model.safetensors: ", line, StringComparison.Ordinal);
        Assert.EndsWith($"the download stays in {Path.Combine(_home.Folder, "downloads", "fox--Lantern.v1")}", line, StringComparison.Ordinal);
        Assert.Contains("model.safetensors", Downloads());
    }

    /// <summary>The line that is not progress.</summary>
    private static string OneLine(Outcome outcome) => Assert.Single(outcome.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries), static l => l.StartsWith("flash:", StringComparison.Ordinal));

    private string[] Downloads()
    {
        string folder = Path.Combine(_home.Folder, "downloads");
        return Directory.Exists(folder) ? [.. Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories).Select(f => Path.GetFileName(f))] : [];
    }
}
