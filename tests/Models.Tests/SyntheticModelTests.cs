using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Synthetic;

namespace FlashOrleans.Models.Tests;

/// <summary>Models of random weights: one set of numbers in a package and in a GGUF file, the same for the same seed, and of a size that all layers can bear.</summary>
public sealed class SyntheticModelTests : IDisposable
{
    private const string Gated = """
        {"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"ACT","hidden_act_param":0.01,"vocab_size":320,"hidden_size":64,"intermediate_size":160,"num_hidden_layers":2,
         "num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":128,"rms_norm_eps":1e-5,"bos_token_id":1,"eos_token_id":2}
        """;
    private const string Opt = """
        {"architectures":["OPTForCausalLM"],"model_type":"opt","vocab_size":320,"hidden_size":64,"ffn_dim":256,"num_hidden_layers":2,"num_attention_heads":4,"max_position_embeddings":128,
         "activation_function":"relu","bos_token_id":2,"eos_token_id":2}
        """;

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("q4")]
    [InlineData("q8")]
    [InlineData("bf16")]
    [InlineData("f32")]
    public void A_package_and_the_GGUF_file_beside_it_hold_the_same_numbers_down_included(string quant)
    {
        string gguf = Path.Combine(_folder.Path, "m.gguf");
        Create("m", Shape(Gated), quant, gguf: gguf);
        using FlashPackage package = Open("m");
        using Checkpoint file = Checkpoint.Open(gguf);
        Assert.Equivalent(package.Config with { Architecture = "" }, file.Config with { Architecture = "" }, strict: true);
        var stored = new PackageTensors(package);
        foreach (string tensor in file.Tensors) Assert.Equal(file.Read(tensor), stored.Read(tensor));
    }

    [Theory]
    [InlineData("q4", "olmoe")]
    [InlineData("q8", "qwen3_moe")]
    [InlineData("bf16", "mixtral")]
    [InlineData("q4", "gpt_oss")]
    public void A_package_of_experts_and_the_GGUF_file_beside_it_hold_the_same_numbers(string quant, string type)
    {
        string gguf = Path.Combine(_folder.Path, "m.gguf");
        string architecture = type switch { "olmoe" => "OlmoeForCausalLM", "qwen3_moe" => "Qwen3MoeForCausalLM", "gpt_oss" => "GptOssForCausalLM", _ => "MixtralForCausalLM" };
        string window = type != "gpt_oss" ? "null" : """
            32,"layer_types":["sliding_attention","full_attention"],"attention_bias":true,"swiglu_limit":7.0,
             "rope_scaling":{"rope_type":"yarn","factor":4.0,"beta_fast":32.0,"beta_slow":1.0,"original_max_position_embeddings":32,"truncate":false}
            """;
        string shape = Path.Combine(_folder.Path, "experts.json");
        File.WriteAllText(shape, $$"""
            {"architectures":["{{architecture}}"],"model_type":"{{type}}","hidden_act":"silu","vocab_size":320,"hidden_size":64,"intermediate_size":96,"moe_intermediate_size":96,"num_hidden_layers":2,"head_dim":16,
             "num_attention_heads":4,"num_key_value_heads":2,"num_experts":6,"num_local_experts":6,"num_experts_per_tok":2,"norm_topk_prob":{{(type == "olmoe" ? "false" : "true")}},"sliding_window":{{window}},
             "max_position_embeddings":128,"rms_norm_eps":1e-5,"bos_token_id":1,"eos_token_id":2}
            """);
        Create("m", shape, quant, gguf: gguf);
        using FlashPackage package = Open("m");
        using Checkpoint file = Checkpoint.Open(gguf);
        Assert.Equivalent(package.Config with { Architecture = "", FfnSize = 0 }, file.Config with { Architecture = "", FfnSize = 0 }, strict: true);
        var stored = new PackageTensors(package);
        // A package keeps routers in bf16.
        foreach (string tensor in file.Tensors.Where(static t => !t.EndsWith("ffn.router", StringComparison.Ordinal))) Assert.Equal(file.Read(tensor), stored.Read(tensor));
    }

    /// <summary>An import turns `down` and quantises it anew. At the format of the file it finds the very scales and integers: the tiles see to that.</summary>
    [Theory]
    [InlineData("q4", "q4", "relu")]
    [InlineData("q8", "q8", "silu")]
    [InlineData("q8", "q8", "fatrelu")]
    public void Importing_the_GGUF_file_gives_the_same_bytes_and_logits_as_the_package_beside_it(string quant, string import, string activation)
    {
        string gguf = Path.Combine(_folder.Path, "m.gguf");
        Create("m", Shape(Gated, activation, bamboo: false), quant, gguf: gguf);
        // `q4` would give what cannot stay as it is eight bits.
        Importer.Import(gguf, Target("imported"), new ImportOptions { Quant = import, Formats = import == "q4" ? static _ => WeightFormat.Q4 : null });
        foreach (string file in (ReadOnlySpan<string>)["edge.bin", "layers/000.slice", "layers/001.slice"])
            Assert.Equal(File.ReadAllBytes(Path.Combine(Target("m"), file)), File.ReadAllBytes(Path.Combine(Target("imported"), file)));
        Assert.Equal(Logits("m"), Logits("imported"));
    }

    /// <summary>What `keep` does to `down` is a matter of its own (docs/adr/0011-keep.md); every other matrix stays as it is.</summary>
    [Fact]
    public void Keeping_a_file_stores_down_in_bf16_and_everything_else_as_it_is()
    {
        string gguf = Path.Combine(_folder.Path, "m.gguf");
        Create("m", Shape(Gated), "q4", gguf: gguf);
        ImportResult imported = Importer.Import(gguf, Target("imported"), new ImportOptions { Quant = "keep" });
        Assert.Equal(WeightFormat.BF16, imported.Formats.Of(0, "ffn.down"));
        using FlashPackage one = Open("m"), other = Open("imported");
        var (a, b) = (new PackageTensors(one), new PackageTensors(other));
        foreach (string tensor in (ReadOnlySpan<string>)["embed", "head", "layers.1.attn.qkv", "layers.1.attn.o", "layers.1.ffn.up", "layers.1.ffn.gate"]) Assert.Equal(a.Read(tensor), b.Read(tensor));
    }

    [Theory]
    [InlineData("q4")]
    [InlineData("q8")]
    public void Keeping_a_file_takes_the_blocks_of_down_over_where_it_lies_in_slabs(string quant)
    {
        string gguf = Path.Combine(_folder.Path, "m.gguf");
        Create("m", Shape(Gated.Replace("\"intermediate_size\":160", "\"intermediate_size\":256", StringComparison.Ordinal), "silu", bamboo: false), quant, gguf: gguf);
        ImportResult imported = Importer.Import(gguf, Target("imported"), new ImportOptions { Quant = "keep" });
        Assert.All(imported.Errors, e => Assert.Equal(0, e.Mean));
        foreach (string file in (ReadOnlySpan<string>)["layers/000.slice", "layers/001.slice"])
            Assert.Equal(File.ReadAllBytes(Path.Combine(Target("m"), file)), File.ReadAllBytes(Path.Combine(Target("imported"), file)));
    }

    /// <summary>An import would take super-blocks there, which cannot be made as fast as they are written.</summary>
    [Fact]
    public void Four_bits_are_made_in_blocks_where_rows_come_in_super_blocks_too()
    {
        Create("m", Shape(Gated.Replace("\"hidden_size\":64", "\"hidden_size\":256", StringComparison.Ordinal)), "q4");
        using FlashPackage package = Open("m");
        Assert.Equal(256, package.Config.HiddenSize);
        Assert.Equal("q4", package.Manifest.Quant);
        Assert.Null(package.Manifest.Formats);
    }

    [Fact]
    public void The_same_seed_gives_the_same_package_and_another_one_another()
    {
        string shape = Shape(Gated);
        string first = Hash(Create("m", shape, "q4", 7)), again = Hash(Create("m", shape, "q4", 7)), other = Hash(Create("m", shape, "q4", 8));
        Assert.Equal(first, again);
        Assert.NotEqual(first, other);
    }

    /// <summary>Activations neither explode nor vanish on their way through as many layers as a 7B model has.</summary>
    [Theory]
    [InlineData("silu", "q4")]
    [InlineData("fatrelu", "q8")]
    [InlineData("bamboo", "q4")]
    [InlineData("opt", "q4")]
    [InlineData("opt", "bf16")]
    public void Thirty_two_layers_keep_activations_within_bounds(string kind, string quant)
    {
        Create("m", kind == "opt" ? Shape(Opt) : Shape(Gated, kind, kind == "bamboo"), quant, layers: 32);
        using FlashPackage package = Open("m");
        Assert.Equal(32, package.Config.Layers);
        ReferenceModel.Trace trace = new ReferenceModel(package.Config, new PackageTensors(package).Read).Run([2, 70, 5, 311, 40]);
        Assert.All(trace.Logits, static row => Assert.All(row, static logit => Assert.True(float.IsFinite(logit))));
        Assert.All(trace.Logits, static row => Assert.InRange(Size(row), 0.1, 10));
        foreach (List<float[]> layer in trace.Hidden)
            foreach (float[] row in layer) Assert.InRange(Size(row), 0.05, 5);
    }

    [Fact]
    public void Provenance_says_that_the_weights_are_random_whichever_way_they_came()
    {
        string gguf = Path.Combine(_folder.Path, "m.gguf");
        Create("m", Shape(Gated), "q8", 42, gguf: gguf);
        Importer.Import(gguf, Target("imported"));
        using FlashPackage made = Open("m"), imported = Open("imported");
        Assert.Equal((42ul, 42ul), (made.Manifest.Provenance.SyntheticSeed, imported.Manifest.Provenance.SyntheticSeed));
        Assert.Contains("random weights of seed 42", made.Manifest.Provenance.Source, StringComparison.Ordinal);
        Assert.Empty(made.Manifest.Provenance.Files);
    }

    [Theory]
    [InlineData("gguf")]
    [InlineData("layer 1")]
    public void A_cancelled_one_leaves_neither_package_nor_file(string step)
    {
        using var stop = new CancellationTokenSource();
        string gguf = Path.Combine(_folder.Path, "out", "m.gguf");
        var progress = new Watch(p =>
        {
            if (p.Step.StartsWith(step, StringComparison.Ordinal)) stop.Cancel();
        });
        Assert.ThrowsAny<OperationCanceledException>(() => SyntheticModel.Create(Target("m"), new SyntheticOptions { Shape = Shape(Gated), Gguf = gguf }, progress, stop.Token));
        Assert.Empty(Directory.EnumerateFileSystemEntries(Path.GetDirectoryName(gguf)!));
        Assert.False(Directory.Exists(Target("m")));
        Assert.Single(Directory.EnumerateFileSystemEntries(_folder.Path), static path => Path.GetFileName(path) != "out");
    }

    [Theory]
    [InlineData("[1]", "q4", "not a JSON object")]
    [InlineData("{", "q4", "not valid JSON")]
    [InlineData("{}", "q4", "names neither architectures nor model_type")]
    [InlineData("""{"model_type":"llama","num_attention_heads":2,"hidden_size":0}""", "q4", "hidden_size is 0")]
    [InlineData("""{"model_type":"llama","vocab_size":320,"hidden_size":40,"intermediate_size":64,"num_hidden_layers":1,"num_attention_heads":2}""", "q4", "blocks of 32")]
    [InlineData(Gated, "q5", "there are q4, q8, bf16 and f32")]
    public void A_shape_that_makes_no_sense_is_one_line(string shape, string quant, string expected)
    {
        Exception e = Record.Exception(() => Create("m", Shape(shape), quant))!;
        Assert.True(e is ModelFormatException or FlashException, $"{e}");
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
        Assert.False(Directory.Exists(Target("m")));
    }

    [Fact]
    public void What_a_GGUF_file_cannot_say_and_what_lies_in_its_place_are_refused_before_anything_is_written()
    {
        string taken = _folder.Write("notes.gguf", "not a model"u8.ToArray());
        Assert.Contains("not a GGUF file", Assert.Throws<ModelFormatException>(() => Create("m", Shape(Gated), "q4", gguf: taken)).Message, StringComparison.Ordinal);
        Assert.Contains("leave it out", Assert.Throws<ModelFormatException>(() => Create("m", Shape(Opt), "q4", gguf: Path.Combine(_folder.Path, "m.gguf"))).Message, StringComparison.Ordinal);
        Assert.Contains("is none", Assert.Throws<ModelFormatException>(() => Create("m", "llama-99b", "q4")).Message, StringComparison.Ordinal);
        Assert.False(Directory.Exists(Target("m")));
        Assert.Equal("not a model", File.ReadAllText(taken));
    }

    [Fact]
    public void Every_named_shape_reads_and_has_the_size_of_its_name()
    {
        foreach (string name in SyntheticModel.Shapes)
        {
            ModelConfig c = SyntheticShapes.Read(name, null);
            // Mixtral's name counts what eight experts share eight times; "a3b" is what a token of it uses.
            double billions = name == "mixtral-8x7b" ? 47 : double.Parse(name.Split('-').Last(static p => p.EndsWith('b') && char.IsDigit(p[0]))[..^1], System.Globalization.CultureInfo.InvariantCulture);
            Assert.InRange(PackageLayout.EstimateBytes(c, WeightFormat.BF16) / 2e9, 0.9 * billions, 1.5 * billions);
        }
    }

    [Theory]
    [InlineData("paper", 2.3, 0.033)]
    [InlineData("oracle", 1, 0.033)]
    [InlineData("""{"mean":0.1,"predicted":3}""", 3, 0.1)]
    public void A_ReLU_model_gets_the_activity_that_is_asked_for_and_predictors_that_cost_what_they_cost(string activity, double predicted, double density)
    {
        if (activity.StartsWith('{')) activity = _folder.Write("activity.json", System.Text.Encoding.UTF8.GetBytes(activity));
        SyntheticModel.Create(Target("m"), new SyntheticOptions { Shape = Shape(Opt), Activity = activity });
        using FlashPackage package = Open("m");
        ActivityConfig drawn = package.Manifest.Activity!;
        Assert.Equal(predicted, drawn.Predicted);
        Assert.Equal(density, drawn.MeanDensity, 1e-4);
        Assert.Equal([128, 1024], package.Manifest.Predictors!.Layers.Select(static p => p.Rank));
        using PackageFile slice = package.OpenSlice(1);
        Assert.Equal((WeightFormat.Q4, 256, 1024), (slice.Section("predictor.fc2").Format, slice.Section("predictor.fc2").Rows, slice.Section("predictor.fc2").Cols));
        Assert.NotEmpty(SyntheticModel.Activity(package.Manifest));
    }

    [Theory]
    [InlineData(Gated, "paper", "ReLU")]
    [InlineData(Opt, """{"mean":0.1,"speed":3}""", "speed")]
    [InlineData(Opt, """{"mean":0.9}""", "outside")]
    [InlineData(Opt, "[]", "not a JSON object")]
    [InlineData(Opt, "nowhere", "neither paper nor oracle nor a file")]
    public void An_activity_that_makes_no_sense_is_one_line_and_leaves_nothing(string shape, string activity, string expected)
    {
        if (activity[0] is '{' or '[') activity = _folder.Write("activity.json", System.Text.Encoding.UTF8.GetBytes(activity));
        Exception e = Record.Exception(() => SyntheticModel.Create(Target("m"), new SyntheticOptions { Shape = shape == Gated ? Shape(Gated, "silu", bamboo: false) : Shape(shape), Activity = activity }))!;
        Assert.True(e is ModelFormatException or FlashException, $"{e}");
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
        Assert.False(Directory.Exists(Target("m")));
    }

    private static double Size(float[] row) => Math.Sqrt(row.Sum(static x => (double)x * x) / row.Length);

    private static string Hash(string package) => string.Join(' ', Directory.EnumerateFiles(package, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal)
        .Select(static f => Convert.ToHexString(System.Security.Cryptography.SHA256.HashData(File.ReadAllBytes(f)))));

    private string Target(string name) => Path.Combine(_folder.Path, name + ".flash");

    private FlashPackage Open(string name) => FlashPackage.Open(Target(name));

    private string Shape(string json, string activation = "silu", bool bamboo = false)
    {
        json = bamboo ? json.Replace("LlamaForCausalLM", "BambooForCausalLM", StringComparison.Ordinal).Replace("\"llama\"", "\"bamboo\"", StringComparison.Ordinal) : json;
        return _folder.Write("shape.json", System.Text.Encoding.UTF8.GetBytes(json.Replace("ACT", bamboo ? "relu" : activation, StringComparison.Ordinal)));
    }

    private string Create(string name, string shape, string quant, ulong seed = 0, int? layers = null, string? gguf = null)
    {
        SyntheticModel.Create(Target(name), new SyntheticOptions { Shape = shape, Quant = quant, Seed = seed, Layers = layers, Gguf = gguf });
        return Target(name);
    }

    private float[] Logits(string name)
    {
        using FlashPackage package = Open(name);
        return new ReferenceModel(package.Config, new PackageTensors(package).Read).Run([1, 70, 300]).Logits[^1];
    }

    private sealed class Watch(Action<ImportProgress> report) : IProgress<ImportProgress>
    {
        public void Report(ImportProgress value) => report(value);
    }
}
