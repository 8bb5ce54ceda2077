using System.Text.Json;

namespace FlashOrleans.Cli.Tests;

/// <summary>The verbs that make the engine checkable from outside.</summary>
public sealed class ToolTests(FlashHome home)
{
    [Fact]
    public async Task Logits_are_the_same_bits_through_grains_and_on_the_engine()
    {
        string[] args = ["logits", "emberling", "--tokens", "1,455,268,201,1049,377,261", "--generate", "12", "--top", "50", "--json"];
        var grains = await Flash.RunAsync(home, args);
        var engine = await Flash.RunAsync(home, [.. args, "--path", "engine", "--window", "2%", "--prefetch", "off", "--mode", "dense", "--threads", "1"]);
        var json = grains.Json;
        Assert.Equal([1, 455, 268, 201, 1049, 377, 261], TestData.Ints(json.GetProperty("tokens")));
        Assert.Equal(50, json.GetProperty("top").GetArrayLength());
        Assert.Equal(12, json.GetProperty("greedy").GetArrayLength());
        Assert.Equal(json.GetProperty("top")[0][0].GetInt32(), json.GetProperty("greedy")[0].GetInt32());
        Assert.Equal(grains.Out, engine.Out);
    }

    [Fact]
    public async Task Without_generate_there_are_logits_and_no_tokens()
    {
        var json = (await Flash.RunAsync(home, "logits", "emberling", "--tokens", "1,455", "--top", "3", "--json")).Json;
        Assert.Equal(3, json.GetProperty("top").GetArrayLength());
        Assert.Equal(0, json.GetProperty("greedy").GetArrayLength());
    }

    [Fact]
    public async Task The_bundled_model_in_f32_continues_as_the_golden_says()
    {
        var golden = TestData.Json(TestData.Repo("models", "emberling", "golden.json")).GetProperty("cases")[0];
        int[] prompt = TestData.Ints(golden.GetProperty("prompt_ids")), greedy = TestData.Ints(golden.GetProperty("greedy_ids"));
        int sure = golden.GetProperty("margins").EnumerateArray().TakeWhile(static m => m.GetDouble() > 1e-3).Count();
        Assert.True(sure > 10);
        var json = (await Flash.RunAsync(home, "logits", "emberling", "--quant", "f32", "--tokens", string.Join(',', prompt), "--generate", $"{sure}", "--json")).Json;
        Assert.Equal(greedy[..sure], TestData.Ints(json.GetProperty("greedy")));
        JsonElement best = json.GetProperty("top")[0], expected = golden.GetProperty("top5")[0];
        Assert.Equal(expected.GetProperty("id").GetInt32(), best[0].GetInt32());
        Assert.Equal(expected.GetProperty("logit").GetDouble(), best[1].GetDouble(), 2e-4);
        Assert.True(Directory.Exists(Path.Combine(home.Folder, "models", "emberling-f32.flash")));
    }

    [Fact]
    public async Task An_import_makes_predictors_that_run_uses_and_says_what_they_miss()
    {
        string source = TestData.Repo("models", "emberling");
        var import = await Flash.RunAsync(home, "import", source, "--name", "sketched", "--predictors", "sketch4", "--recall", "98%", "--order", "popularity");
        Assert.Equal(0, import.Code);
        Assert.Matches(@"predictors: sketch of 4 bits, threshold [-0-9.e]+, recall 98\.0 % on \d+ tokens with [0-9.]+ times what is active(, [0-9.]+ neurons always)?; --mode predicted uses them", import.Out);
        var run = await Flash.RunAsync(home, "run", "sketched", "Tell me a story about a fox", "--mode", "predicted", "--max-tokens", "24", "--temperature", "0");
        Assert.Equal(0, run.Code);
        Assert.Matches(@"missed neurons [0-9.]+ %, chosen right [0-9.]+ %", run.Out + run.Error);
        var show = await Flash.RunAsync(home, "show", "sketched");
        Assert.Contains("by popularity", show.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Lean_bundles_give_the_logits_of_whole_ones_and_say_what_they_cannot_do()
    {
        string source = TestData.Repo("models", "emberling");
        Assert.Equal(0, (await Flash.RunAsync(home, "import", source, "--name", "lean", "--bundles", "lean")).Code);
        string[] args = ["--tokens", "1,455,268,201,1049,377,261", "--generate", "8", "--top", "50", "--json"];
        var whole = (await Flash.RunAsync(home, ["logits", "emberling", .. args])).Json;
        var lean = (await Flash.RunAsync(home, ["logits", "lean", .. args, "--window", "5%"])).Json;
        Assert.Equal(whole.GetProperty("top").GetRawText(), lean.GetProperty("top").GetRawText());
        Assert.Equal(whole.GetProperty("greedy").GetRawText(), lean.GetProperty("greedy").GetRawText());
        Assert.Contains("lean neuron bundles", (await Flash.RunAsync(home, "show", "lean")).Out, StringComparison.Ordinal);
        var show = (await Flash.RunAsync(home, "show", "lean", "--json")).Json;
        Assert.Equal(("lean", 5), (show.GetProperty("bundles").GetString(), show.GetProperty("format_version").GetInt32()));
        Assert.Equal("whole", (await Flash.RunAsync(home, "show", "emberling", "--json")).Json.GetProperty("bundles").GetString());
        Assert.Equal(0, (await Flash.RunAsync(home, "verify", "lean")).Code);
        Assert.Equal(0, (await Flash.RunAsync(home, "plan", "lean", "--budget", "400MiB", "--memory-rate", "10", "--read-rate", "50", "--flash-rate", "1", "--compute-rate", "50")).Code);
        string[] shape = ["plan", "prosparse-7b", "--budget", "3GB", "--kv", "q8", "--memory-rate", "10", "--read-rate", "50", "--flash-rate", "1", "--compute-rate", "50", "--json"];
        foreach (string mode in (string[])["exact", "dense"]) Assert.Equal(0, (await Flash.RunAsync(home, [.. shape, "--mode", mode])).Code);
        Assert.Equal(0, (await Flash.RunAsync(home, [.. shape, "--bundles", "lean", "--mode", "exact"])).Code);
        var scanned = await Flash.RunAsync(home, [.. shape, "--bundles", "lean", "--mode", "dense"]);
        Assert.Equal(1, scanned.Code);
        Assert.EndsWith("the bundles of prosparse-7b are lean: take --mode exact, or import it again with --bundles whole\n", scanned.Error, StringComparison.Ordinal);
        var asked = await Flash.RunAsync(home, "plan", "emberling", "--budget", "400MiB", "--bundles", "lean");
        Assert.Equal(1, asked.Code);
        Assert.EndsWith("has whole bundles; --bundles is for a shape that is not written yet, import with --bundles lean\n", asked.Error, StringComparison.Ordinal);
        var dense = await Flash.RunAsync(home, "run", "lean", "hello", "--mode", "dense");
        Assert.Equal(1, dense.Code);
        Assert.EndsWith("mode dense reads every row of a neuron; the bundles of lean are lean: take --mode exact, or import it again with --bundles whole\n", dense.Error, StringComparison.Ordinal);
        var predicted = await Flash.RunAsync(home, "import", source, "--name", "both", "--bundles", "lean", "--predictors", "sketch4");
        Assert.Equal(1, predicted.Code);
        Assert.EndsWith("mode predicted needs whole bundles: import it without --bundles lean, or without --predictors\n", predicted.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Tokenize_goes_there_and_back()
    {
        const string text = "Déjà vu: a fox & a lantern 🦊";
        int[] ids = TestData.Ints((await Flash.RunAsync(home, "tokenize", "emberling", "--text", text, "--json")).Json.GetProperty("ids"));
        var back = await Flash.RunAsync(home, "tokenize", "emberling", "--decode", string.Join(',', ids), "--json");
        Assert.Equal(text, back.Json.GetProperty("text").GetString());
    }

    [Fact]
    public async Task A_text_that_begins_with_an_at_sign_is_a_text()
    {
        int[] ids = TestData.Ints((await Flash.RunAsync(home, "tokenize", "emberling", "--text", "@fox", "--json")).Json.GetProperty("ids"));
        Assert.Equal("@fox", (await Flash.RunAsync(home, "tokenize", "emberling", "--decode", string.Join(',', ids), "--json")).Json.GetProperty("text").GetString());
    }

    [Fact]
    public async Task Names_of_special_tokens_are_text_unless_asked_for()
    {
        int[] special = TestData.Ints((await Flash.RunAsync(home, "tokenize", "emberling", "--text", "<|im_start|>", "--special", "--json")).Json.GetProperty("ids"));
        int[] plain = TestData.Ints((await Flash.RunAsync(home, "tokenize", "emberling", "--text", "<|im_start|>", "--json")).Json.GetProperty("ids"));
        Assert.Equal([1], special);
        Assert.True(plain.Length > 1);
    }

    [Fact]
    public async Task Tokenize_answers_every_line_of_a_file_from_a_folder_that_is_no_package()
    {
        string folder = TestData.Repo("tests", "data", "tokenizers", "sp-bpe-llama"), file = Path.Combine(home.Folder, "lines.jsonl");
        var cases = TestData.Json(Path.Combine(folder, "cases.json")).EnumerateArray().Where(static c => c.TryGetProperty("ids_no_special_parsing", out _)).ToArray();
        await File.WriteAllLinesAsync(file, cases.SelectMany(static c => new[]
        {
            $$"""{"text":{{c.GetProperty("text").GetRawText()}},"special":true}""",
            $$"""{"text":{{c.GetProperty("text").GetRawText()}}}""",
            $$"""{"ids":{{c.GetProperty("ids").GetRawText().ReplaceLineEndings("")}},"special":true}""",
        }));
        var outcome = await Flash.RunAsync(home, "tokenize", folder, "--input", file, "--json");
        string[] lines = outcome.Out.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(cases.Length * 3, lines.Length);
        for (int i = 0; i < cases.Length; i++)
        {
            Assert.Equal(TestData.Ints(cases[i].GetProperty("ids")), TestData.Ints(Line(i * 3, "ids")));
            Assert.Equal(TestData.Ints(cases[i].GetProperty("ids_no_special_parsing")), TestData.Ints(Line(i * 3 + 1, "ids")));
            Assert.Equal(cases[i].GetProperty("decoded").GetString(), Line(i * 3 + 2, "text").GetString());
        }

        JsonElement Line(int number, string name)
        {
            using var document = JsonDocument.Parse(lines[number]);
            return document.RootElement.GetProperty(name).Clone();
        }
    }

    [Theory]
    [InlineData("{\"text\":\"a\"}\nnothing", "line 2 is not valid JSON")]
    [InlineData("{\"txt\":\"a\"}", "line 1 has neither")]
    [InlineData("{\"ids\":[1,99999]}", "line 1 has an id outside the vocabulary of 1600")]
    public async Task A_line_that_cannot_be_answered_is_named(string lines, string says)
    {
        string file = Path.Combine(home.Folder, "wrong.jsonl");
        await File.WriteAllTextAsync(file, lines);
        var outcome = await Flash.RunAsync(home, "tokenize", TestData.Repo("tests", "data", "tokenizers", "sp-bpe-llama"), "--input", file, "--json");
        Assert.Equal(1, outcome.Code);
        Assert.Contains(says, outcome.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Perplexity_scores_all_but_the_first_token_of_whole_windows()
    {
        string file = Path.Combine(home.Folder, "text.txt");
        await File.WriteAllTextAsync(file, "Once upon a time there was a fox. The fox had a lantern, and the lantern had a crack.");
        int tokens = (await Flash.RunAsync(home, "tokenize", "emberling", "--text", await File.ReadAllTextAsync(file), "--json")).Json.GetProperty("ids").GetArrayLength();

        var grains = await Flash.RunAsync(home, "perplexity", "emberling", "--file", file, "--window", "6", "--json");
        var json = grains.Json;
        Assert.Equal(["tokens", "nll", "perplexity"], json.EnumerateObject().Select(static p => p.Name));
        Assert.Equal(tokens / 6 * 5, json.GetProperty("tokens").GetInt32());
        Assert.Equal(Math.Exp(json.GetProperty("nll").GetDouble()), json.GetProperty("perplexity").GetDouble(), 1e-9);
        var engine = await Flash.RunAsync(home, "perplexity", "emberling", "--file", file, "--window", "6", "--window", "5%", "--path", "engine", "--json");
        Assert.Equal(grains.Out, engine.Out);

        var whole = (await Flash.RunAsync(home, "perplexity", "emberling", "--file", file, "--json")).Json;
        Assert.Equal(tokens - 1, whole.GetProperty("tokens").GetInt32());
    }

    [Fact]
    public async Task Perplexity_against_another_package_tells_how_far_the_distributions_are_apart()
    {
        string file = TestData.Repo("tests", "data", "text", "harbour.txt");
        Assert.Equal(0, (await Flash.RunAsync(home, "logits", "emberling", "--quant", "f32", "--tokens", "1")).Code);
        var alone = (await Flash.RunAsync(home, "perplexity", "emberling", "--file", file, "--window", "64", "--json")).Json;
        var exact = (await Flash.RunAsync(home, "perplexity", "emberling-f32", "--file", file, "--window", "64", "--json")).Json;
        var json = (await Flash.RunAsync(home, "perplexity", "emberling", "--file", file, "--window", "64", "--against", "emberling-f32", "--json")).Json;
        var against = json.GetProperty("against");
        Assert.Equal(alone.GetProperty("tokens").GetInt32(), json.GetProperty("tokens").GetInt32());
        Assert.Equal(alone.GetProperty("nll").GetDouble(), json.GetProperty("nll").GetDouble(), 1e-6);
        Assert.Equal(exact.GetProperty("nll").GetDouble(), against.GetProperty("nll").GetDouble(), 1e-6);
        Assert.Equal("emberling-f32", against.GetProperty("name").GetString());
        Assert.InRange(against.GetProperty("kl_mean").GetDouble(), 1e-5, 0.01);
        Assert.True(against.GetProperty("kl_mean").GetDouble() < against.GetProperty("kl95").GetDouble() && against.GetProperty("kl95").GetDouble() < against.GetProperty("kl_max").GetDouble());
        Assert.InRange(against.GetProperty("same_best").GetDouble(), 0.9, 1);
        Assert.Contains("same best token", (await Flash.RunAsync(home, "perplexity", "emberling", "--file", file, "--against", "emberling-f32")).Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Models_of_different_vocabularies_are_not_compared()
    {
        string file = TestData.Repo("tests", "data", "text", "harbour.txt");
        Assert.Equal(0, (await Flash.RunAsync(home, "import", TestData.Repo("tests", "data", "gguf", "llama-Q4_0.gguf"), "--name", "stranger")).Code);
        var outcome = await Flash.RunAsync(home, "perplexity", "emberling", "--file", file, "--against", "stranger");
        Assert.Equal(1, outcome.Code);
        Assert.Contains("only models with the same vocabulary can be compared", outcome.Error, StringComparison.Ordinal);
        Assert.Equal(0, (await Flash.RunAsync(home, "rm", "stranger")).Code);
    }

    [Fact]
    public async Task Bench_has_a_row_per_number_of_sessions_and_path()
    {
        var json = (await Flash.RunAsync(home, "bench", "emberling", "--allow-buffered", "--prompt", "8", "--generate", "6", "--sessions", "1,2", "--path", "both", "--repeat", "1", "--json")).Json;
        Assert.Matches(@"^(direct \(\d+\)|buffered)$", json.GetProperty("access").GetString());
        var rows = json.GetProperty("rows").EnumerateArray().ToList();
        Assert.Equal([("grains", 1), ("engine", 1), ("grains", 2), ("engine", 2)], rows.Select(static r => (r.GetProperty("path").GetString()!, r.GetProperty("sessions").GetInt32())));
        foreach (var row in rows)
        {
            Assert.True(row.GetProperty("tok_s").GetDouble() > 0);
            Assert.True(row.GetProperty("session_tok_s").GetDouble() > 0);
            Assert.True(row.GetProperty("ttft_ms").GetDouble() > 0);
            Assert.True(row.GetProperty("p50_ms").GetDouble() <= row.GetProperty("p95_ms").GetDouble());
            Assert.True(row.GetProperty("p95_ms").GetDouble() <= row.GetProperty("p99_ms").GetDouble());
            Assert.True(row.GetProperty("flash_bytes_per_token").GetDouble() > 0);
            Assert.InRange(row.GetProperty("hit_rate").GetDouble(), 0, 1);
            double shares = row.GetProperty("compute_share").GetDouble() + row.GetProperty("flash_wait_share").GetDouble() + row.GetProperty("other_share").GetDouble();
            Assert.Equal(1, shares, 1e-6);
            Assert.Equal(6, row.GetProperty("layers").GetArrayLength());
            Assert.Equal(json.GetProperty("access").GetString(), row.GetProperty("access").GetString());
            var limits = row.GetProperty("limits");
            Assert.True(limits.GetProperty("steps").GetDouble() >= 1);
            double[] times = [.. new[] { "memory_ms", "compute_ms", "flash_ms" }.Select(n => limits.GetProperty(n).GetDouble())];
            Assert.All(times, static t => Assert.True(t > 0));
            Assert.Equal(times.Max(), limits.GetProperty("limit_ms").GetDouble(), 1e-9);
            Assert.Equal(times.Max() / limits.GetProperty("step_ms").GetDouble(), limits.GetProperty("fraction").GetDouble(), 1e-9);
        }
        Assert.True(rows[0].GetProperty("grains_over_engine").GetDouble() > 0);
    }

    [Fact]
    public async Task Bench_has_rows_for_every_window_with_every_mode_in_the_order_given()
    {
        var json = (await Flash.RunAsync(home, "bench", "emberling", "--allow-buffered", "--prompt", "8", "--generate", "4", "--sessions", "1,2", "--window", "50%,10%", "--mode", "exact,dense", "--path", "engine", "--json")).Json;
        var rows = json.GetProperty("rows").EnumerateArray().ToList();
        Assert.Equal([(0.5, "exact", 1), (0.5, "exact", 2), (0.5, "dense", 1), (0.5, "dense", 2), (0.1, "exact", 1), (0.1, "exact", 2), (0.1, "dense", 1), (0.1, "dense", 2)],
            rows.Select(static r => (r.GetProperty("window").GetDouble(), r.GetProperty("mode").GetString()!, r.GetProperty("sessions").GetInt32())));
        Assert.All(rows, static r => Assert.Equal(JsonValueKind.Null, r.GetProperty("budget").ValueKind));
        Assert.Equal(JsonValueKind.Null, json.GetProperty("window").ValueKind);
    }

    [Fact]
    public async Task Bench_says_the_budgets_it_was_given_and_measures_nothing_when_one_of_them_is_too_small()
    {
        var json = (await Flash.RunAsync(home, "bench", "emberling", "--allow-buffered", "--prompt", "4", "--generate", "3", "--budget", "160MiB,220MiB", "--path", "engine", "--json")).Json;
        Assert.Equal(["160MiB", "220MiB"], json.GetProperty("rows").EnumerateArray().Select(static r => r.GetProperty("budget").GetString()));
        var refused = await Flash.RunAsync(home, "bench", "emberling", "--allow-buffered", "--prompt", "4", "--generate", "3", "--budget", "220MiB,20MiB", "--path", "engine");
        Assert.Equal(1, refused.Code);
        Assert.Contains("does not fit a budget of 20MiB", refused.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("measuring", refused.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Bench_refuses_a_package_that_no_device_is_behind_unless_that_is_allowed()
    {
        Assert.SkipUnless(Directory.Exists("/dev/shm"), "needs a folder in memory");
        Assert.Equal(0, (await Flash.RunAsync(home, "logits", "emberling", "--tokens", "1")).Code);
        string source = Path.Combine(home.Folder, "models", "emberling.flash"), folder = Path.Combine("/dev/shm", $"flash-test-{Environment.ProcessId}"), copy = Path.Combine(folder, "emberling.flash");
        try
        {
            foreach (string file in Directory.GetFiles(source, "*", SearchOption.AllDirectories))
            {
                string to = Path.Combine(copy, Path.GetRelativePath(source, file));
                Directory.CreateDirectory(Path.GetDirectoryName(to)!);
                File.Copy(file, to);
            }
            var refused = await Flash.RunAsync(home, "bench", copy, "--generate", "2");
            Assert.Equal(1, refused.Code);
            Assert.Empty(refused.Out);
            Assert.Contains("page cache", Assert.Single(refused.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries)), StringComparison.Ordinal);
            var rows = (await Flash.RunAsync(home, "bench", copy, "--generate", "2", "--prompt", "4", "--path", "engine", "--sessions", "1,2", "--allow-buffered", "--json")).Json.GetProperty("rows");
            Assert.All(rows.EnumerateArray(), static r => Assert.Equal("buffered", r.GetProperty("access").GetString()));
        }
        finally
        {
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
        }
    }
}
