namespace FlashOrleans.Cli.Tests;

/// <summary>Verbs that handle packages and start no silo.</summary>
public sealed class PackageTests(FlashHome home)
{
    [Fact]
    public async Task A_GGUF_file_is_thought_through_imported_and_asked_for_logits()
    {
        string file = TestData.Repo("tests", "data", "gguf", "llama-Q4_0.gguf");
        var plan = (await Flash.RunAsync(home, "import", file, "--dry-run", "--json")).Json;
        Assert.Equal("q4", plan.GetProperty("quant").GetString());
        Assert.Equal(1, plan.GetProperty("sampled").GetDouble());
        Assert.Contains("ffn.down", plan.GetProperty("errors").EnumerateArray().Select(static e => e.GetProperty("kind").GetString()));
        Assert.False(Directory.Exists(Path.Combine(home.Folder, "models", "llama-Q4_0.flash")));

        var import = (await Flash.RunAsync(home, "import", file, "--json")).Json;
        Assert.Equal("llama-Q4_0", import.GetProperty("name").GetString());
        Assert.Equal(plan.GetProperty("quant").GetString(), import.GetProperty("quant").GetString());
        Assert.Contains("mode dense", import.GetProperty("mode").GetString(), StringComparison.Ordinal);
        Assert.True(import.GetProperty("bytes").GetInt64() >= plan.GetProperty("bytes").GetInt64());
        // The tokenizer of the file itself, and the one that went into the package.
        var bare = (await Flash.RunAsync(home, "tokenize", file, "--text", "the licence", "--json")).Json;
        var packed = (await Flash.RunAsync(home, "tokenize", "llama-Q4_0", "--text", "the licence", "--json")).Json;
        Assert.Equal(TestData.Ints(bare.GetProperty("ids")), TestData.Ints(packed.GetProperty("ids")));
        var logits = (await Flash.RunAsync(home, "logits", "llama-Q4_0", "--tokens", "1,2,3", "--generate", "2", "--json")).Json;
        Assert.Equal(2, logits.GetProperty("greedy").GetArrayLength());
        Assert.Equal(0, (await Flash.RunAsync(home, "rm", "llama-Q4_0")).Code);
    }

    [Fact]
    public async Task An_activation_can_be_named_where_the_configuration_is_wrong()
    {
        string folder = TestData.Repo("tests", "data", "golden", "models", "llama");
        var import = (await Flash.RunAsync(home, "import", folder, "--name", "asrelu", "--activation", "relu", "--json")).Json;
        Assert.Contains("mode exact", import.GetProperty("mode").GetString(), StringComparison.Ordinal);
        Assert.Equal(0, (await Flash.RunAsync(home, "rm", "asrelu")).Code);
        var wrong = await Flash.RunAsync(home, "import", folder, "--name", "asrelu", "--activation", "tanh");
        Assert.Equal(1, wrong.Code);
        Assert.Contains("relu, silu and fatrelu:THRESHOLD", wrong.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_checkpoint_is_imported_listed_shown_verified_and_removed()
    {
        string folder = TestData.Repo("models", "emberling");
        var import = (await Flash.RunAsync(home, "import", folder, "--name", "lantern", "--quant", "q4", "--json")).Json;
        Assert.Equal("lantern", import.GetProperty("name").GetString());
        Assert.Equal("q4k", import.GetProperty("quant").GetString());

        var listed = (await Flash.RunAsync(home, "list", "--json")).Json.EnumerateArray().Single(static m => m.GetProperty("name").GetString() == "lantern");
        Assert.Equal("q4k", listed.GetProperty("quant").GetString());
        Assert.Contains("lantern", (await Flash.RunAsync(home, "list")).Out, StringComparison.Ordinal);

        var show = (await Flash.RunAsync(home, "show", "lantern", "--json")).Json;
        Assert.Equal(import.GetProperty("hash").GetString(), show.GetProperty("hash").GetString());
        Assert.Equal(7, show.GetProperty("files").GetArrayLength());
        Assert.True(show.GetProperty("resident_bytes").GetInt64() + show.GetProperty("bundle_bytes").GetInt64() < show.GetProperty("bytes").GetInt64());
        Assert.Equal(6, show.GetProperty("measured").GetProperty("zeros").GetArrayLength());
        Assert.Contains("by layer), measured over", (await Flash.RunAsync(home, "show", "lantern")).Out, StringComparison.Ordinal);
        Assert.Contains("relu, as named", (await Flash.RunAsync(home, "show", "lantern")).Out, StringComparison.Ordinal);
        Assert.Contains("feed-forward 1024 (gated relu)", (await Flash.RunAsync(home, "show", "lantern")).Out, StringComparison.Ordinal);

        Assert.Equal(0, (await Flash.RunAsync(home, "verify", "lantern")).Code);
        var wrong = await Flash.RunAsync(home, "tokenize", "lantern", "--quant", "q8", "--text", "x");
        Assert.Equal(1, wrong.Code);
        Assert.Contains("is q4k, not q8", wrong.Error, StringComparison.Ordinal);

        Assert.Equal(0, (await Flash.RunAsync(home, "rm", "lantern")).Code);
        Assert.False(Directory.Exists(Path.Combine(home.Folder, "models", "lantern.flash")));
        Assert.Equal(1, (await Flash.RunAsync(home, "show", "lantern")).Code);
    }

    [Fact]
    public async Task A_damaged_package_is_one_line_with_file_and_offset()
    {
        Assert.Equal(0, (await Flash.RunAsync(home, "import", TestData.Repo("models", "emberling"), "--name", "damaged")).Code);
        string slice = Path.Combine(home.Folder, "models", "damaged.flash", "layers", "003.slice");
        await using (var file = File.OpenWrite(slice))
        {
            file.Position = file.Length / 2;
            file.Write([0x5A, 0xA5, 0x5A]);
        }
        foreach (string[] args in new[] { new[] { "verify", "damaged", "--json" }, ["run", "damaged", "hello"] })
        {
            var outcome = await Flash.RunAsync(home, args);
            Assert.Equal(1, outcome.Code);
            Assert.Empty(outcome.Out);
            Assert.Contains("003.slice", outcome.Error, StringComparison.Ordinal);
            Assert.Contains("at byte", outcome.Error, StringComparison.Ordinal);
        }
        Assert.Equal(0, (await Flash.RunAsync(home, "rm", "damaged")).Code);
    }
}
