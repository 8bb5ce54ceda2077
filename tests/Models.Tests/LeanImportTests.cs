using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Synthetic;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

/// <summary>`--bundles lean`: the same numbers without a second copy of the rows that decide.</summary>
public sealed class LeanImportTests : IDisposable
{
    private const string Opt = """
        {"architectures":["OPTForCausalLM"],"model_type":"opt","vocab_size":320,"hidden_size":64,"ffn_dim":256,"num_hidden_layers":2,"num_attention_heads":4,"max_position_embeddings":128,
         "activation_function":"ACT","bos_token_id":2,"eos_token_id":2}
        """;

    private const string Experts = """
        {"architectures":["SmallThinkerForCausalLM"],"model_type":"smallthinker","vocab_size":320,"hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,
         "max_position_embeddings":128,"rms_norm_eps":1e-6,"rope_theta":10000.0,"rope_layout":[1,1],"sliding_window_layout":[0,0],"sliding_window_size":64,"moe_num_primary_experts":8,
         "moe_num_active_primary_experts":2,"moe_ffn_hidden_size":SIZE,"moe_primary_router_apply_softmax":false,"moe_enable_early_router":true,"bos_token_id":1,"eos_token_id":2}
        """;

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("llama-relu", "f32")]
    [InlineData("llama-relu", "q4")]
    [InlineData("opt", "q8")]
    [InlineData("bamboo", "q8")]
    public void A_lean_package_holds_every_number_of_the_whole_one_in_fewer_bytes(string model, string quant)
    {
        string source = TestData.Golden(model);
        var options = new ImportOptions { Quant = quant };
        ImportResult one = Importer.Import(source, Package("whole"), options), other = Importer.Import(source, Package("lean"), options with { Lean = true });
        using FlashPackage whole = FlashPackage.Open(Package("whole")), lean = FlashPackage.Open(Package("lean"));
        Assert.Equal((2, 5, "lean"), (whole.Manifest.FormatVersion, lean.Manifest.FormatVersion, lean.Manifest.Bundles));
        using Checkpoint checkpoint = Checkpoint.Open(source);
        PackageTensors a = new(whole), b = new(lean);
        foreach (string tensor in checkpoint.Tensors) Assert.Equal(a.Read(tensor), b.Read(tensor));
        PackageVerifier.Verify(Package("lean"));
        Assert.True(other.Bytes < one.Bytes && other.StreamedBytes < one.StreamedBytes, $"{other.Bytes} of {one.Bytes} bytes");
        Assert.Equal(one.Bytes - one.StreamedBytes, other.Bytes - other.StreamedBytes, 8192.0);
        ImportPlan plan = Importer.Plan(source, options with { Lean = true });
        Assert.Equal((lean.Manifest.Files.Sum(static f => f.Bytes), other.StreamedBytes), (plan.Bytes, plan.StreamedBytes));
        Assert.Equal(lean.Config.Layers, other.Measured!.Zeros.Count);
        Assert.All(other.Measured.Zeros, static z => Assert.InRange(z, 0.2, 0.95));
        // A neuron of dReLU whose gate is open is active, whatever its other factor says.
        if (lean.Config.Activation != Activation.DRelu) Assert.Equal(one.Measured!.Zeros, other.Measured.Zeros);
    }

    [Fact]
    public void What_a_text_shows_is_measured_but_no_other_activation_is_tried()
    {
        string source = TestData.Repo("models", "emberling");
        Measured whole = Importer.Import(source, Package("whole")).Measured!, lean = Importer.Import(source, Package("lean"), new ImportOptions { Lean = true }).Measured!;
        Assert.Equal(whole.Zeros, lean.Zeros);
        Assert.Equal((whole.Tokens, whole.Nll), (lean.Tokens, lean.Nll));
        Assert.Equal((Activation.Silu, null), (whole.Other, lean.Other));
    }

    [Fact]
    public void In_order_of_popularity_both_rows_of_a_neuron_go_to_its_new_place()
    {
        var options = new ImportOptions { Quant = "f32", Order = PackageLayout.Popularity, Measure = false };
        foreach (string model in (string[])["llama-relu", "opt"])
        {
            Importer.Import(TestData.Golden(model), Package("whole"), options);
            Importer.Import(TestData.Golden(model), Package("lean"), options with { Lean = true });
            using FlashPackage whole = FlashPackage.Open(Package("whole")), lean = FlashPackage.Open(Package("lean"));
            PackageTensors a = new(whole), b = new(lean);
            Assert.NotEqual(b.Read("layers.1.bundles.permutation"), b.Read("layers.1.bundles.permutation").Order());
            foreach (string tensor in (string[])["bundles.permutation", "ffn.up", "ffn.down", .. whole.Config.Gated ? ["ffn.gate"] : Array.Empty<string>(), "ffn.selector"])
                Assert.Equal(a.Read("layers.1." + tensor), b.Read("layers.1." + tensor));
        }
    }

    [Theory]
    [InlineData("llama", null, "this is none (activation Silu has no exact zeros): leave out --bundles lean")]
    [InlineData("mixtral", null, "this is none (activation Silu has no exact zeros): leave out --bundles lean")]
    [InlineData("llama-relu", "sketch4", "mode predicted needs whole bundles: import it without --bundles lean, or without --predictors")]
    [InlineData("llama-relu", "/nowhere", "mode predicted needs whole bundles: import it without --bundles lean, or without --predictors")]
    public void What_lean_bundles_have_no_rows_for_is_refused_with_one_line(string model, string? predictors, string says)
    {
        var options = new ImportOptions { Lean = true, Predictors = predictors };
        var e = Assert.Throws<ModelFormatException>(() => Importer.Import(TestData.Golden(model), Package("lean"), options));
        Assert.Contains(says, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
        Assert.False(Path.Exists(Package("lean")));
        Assert.Equal(e.Message, Assert.Throws<ModelFormatException>(() => Importer.Plan(TestData.Golden(model), options)).Message);
    }

    [Fact]
    public void A_model_of_random_weights_has_no_predictors_then_and_runs_with_its_drawn_activity()
    {
        string shape = _folder.Write("shape.json", System.Text.Encoding.UTF8.GetBytes(Opt.Replace("ACT", "relu", StringComparison.Ordinal)));
        var options = new SyntheticOptions { Shape = shape, Quant = "q8", Activity = "paper" };
        SyntheticModel.Create(Package("whole"), options);
        SyntheticModel.Create(Package("lean"), options with { Lean = true });
        using FlashPackage whole = FlashPackage.Open(Package("whole")), lean = FlashPackage.Open(Package("lean"));
        Assert.True(lean.Manifest is { Lean: true, Predictors: null, Activity: not null } && whole.Manifest is { Lean: false, Predictors: not null });
        int[] Tokens(FlashPackage package, bool prefetch)
        {
            using var engine = new LocalEngine(package, null, new LayerOptions { Mode = FeedForwardMode.Exact, Window = 0.1, Prefetch = prefetch });
            using EngineSession session = engine.OpenSession(new Guid(1, 2, 3, [4, 5, 6, 7, 8, 9, 10, 11]));
            return [.. session.Generate([2, 70, 5, 311], 12, Sampling.Greedy).Select(static r => r.Token)];
        }
        Assert.Equal(Tokens(whole, prefetch: false), Tokens(lean, prefetch: false));
        Assert.Equal(Tokens(whole, prefetch: true), Tokens(lean, prefetch: true));
        shape = _folder.Write("shape.json", System.Text.Encoding.UTF8.GetBytes(Opt.Replace("ACT", "gelu_new", StringComparison.Ordinal)));
        Assert.Contains("leave out --bundles lean", Assert.Throws<ModelFormatException>(() => SyntheticModel.Create(Package("other"), options with { Activity = "none", Lean = true })).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Neurons_of_ReLU_experts_become_units_and_every_number_is_where_it_was()
    {
        string shape = _folder.Write("shape.json", System.Text.Encoding.UTF8.GetBytes(Experts.Replace("SIZE", "128", StringComparison.Ordinal)));
        var options = new SyntheticOptions { Shape = shape, Quant = "f32" };
        ImportResult one = SyntheticModel.Create(Package("whole"), options), other = SyntheticModel.Create(Package("lean"), options with { Lean = true });
        using FlashPackage whole = FlashPackage.Open(Package("whole")), lean = FlashPackage.Open(Package("lean"));
        Assert.Equal((4, 5), (whole.Manifest.FormatVersion, lean.Manifest.FormatVersion));
        Assert.True(!whole.Config.Experts!.ByNeuron && lean.Config.Experts!.ByNeuron);
        PackageVerifier.Verify(Package("lean"));
        PackageTensors a = new(whole), b = new(lean);
        foreach (string tensor in (string[])["ffn.up", "ffn.down", "ffn.gate", "ffn.router.early", "attn.qkv"]) Assert.Equal(a.Read("layers.1." + tensor), b.Read("layers.1." + tensor));
        // A third of what was streamed stays in memory instead.
        Assert.InRange((double)other.StreamedBytes / one.StreamedBytes, 0.66, 0.68);
        Assert.Equal(one.Bytes, other.Bytes, 100_000.0);
        Assert.Equal(lean.Manifest.Files.Sum(static f => f.Bytes), SyntheticModel.Plan(shape, "f32", lean: true).Files.Sum(static f => f.Bytes));
    }

    [Fact]
    public void Experts_that_do_not_end_with_a_panel_and_an_order_of_their_neurons_are_refused_with_one_line()
    {
        string Why(string size, string order)
        {
            string shape = _folder.Write("shape.json", System.Text.Encoding.UTF8.GetBytes(Experts.Replace("SIZE", size, StringComparison.Ordinal)));
            var e = Assert.Throws<ModelFormatException>(() => SyntheticModel.Create(Package("lean"), new SyntheticOptions { Shape = shape, Quant = "f32", Lean = true, Order = order }));
            Assert.DoesNotContain('\n', e.Message);
            Assert.False(Path.Exists(Package("lean")));
            return e.Message;
        }
        Assert.Contains("its experts have 72 neurons, no multiple of 16", Why("72", PackageLayout.Identity), StringComparison.Ordinal);
        Assert.Contains("--order popularity is for neurons whose activity is drawn", Why("96", PackageLayout.Popularity), StringComparison.Ordinal);
    }

    private string Package(string name) => Path.Combine(_folder.Path, name + ".flash");
}
