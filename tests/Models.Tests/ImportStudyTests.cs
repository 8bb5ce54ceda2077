using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

/// <summary>What an import learns about neurons from a text: predictors made from the weights, thresholds that keep their word, and an order in which neurons are stored.</summary>
public sealed class ImportStudyTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory, InlineData("sketch4", "sketch"), InlineData("sketch2", "sketch"), InlineData("svd:100", "svd")]
    public void Predictors_that_are_made_find_as_much_as_was_stated_and_the_manifest_says_for_how_many(string what, string kind)
    {
        ImportResult result = Importer.Import(Emberling, Package(), new ImportOptions { Predictors = what, Recall = 0.95, Measure = false });
        using FlashPackage package = FlashPackage.Open(Package());
        PredictorConfig config = package.Manifest.Predictors!;
        Assert.Equal((kind, 0.95, what.StartsWith('s') && kind == "sketch" ? what[^1] - '0' : null), (config.Kind, config.Recall, config.Bits));
        Assert.True(config.Tokens > 100);
        Assert.All(config.Layers, static l => Assert.True(l.Recall is >= 0.95 and < 0.97 && l.Taken is > 1 and < 5, l.ToString()));
        Assert.Equivalent(config, result.Predictors, strict: true);
        PackageVerifier.Verify(Package());
        // How many neurons are in the core is known only then: a page a layer.
        Assert.InRange(Importer.Plan(Emberling, new ImportOptions { Predictors = what }).Bytes - package.Manifest.Files.Sum(static f => f.Bytes), 0, 6 * 4096);

        // The engine finds the same, on that text: what it counts is a 64th of the layer in turn.
        using var engine = new LocalEngine(package, null, new LayerOptions { Mode = FeedForwardMode.Predicted });
        (IReadOnlyList<int[]> texts, bool isText) = Calibration.StudyTexts(package, null);
        Assert.True(isText);
        foreach (int[] text in texts)
        {
            using EngineSession session = engine.OpenSession();
            session.Timeline.Append(text);
            session.Run(Sampling.Greedy, chunk: 1);
        }
        LayerStats[] all = [.. engine.Layers.Select(static l => l.Stats)];
        Assert.InRange((double)all.Sum(static s => s.AuditMissed) / all.Sum(static s => s.AuditActive), 0.02, 0.08);
        double right = (double)all.Sum(static s => s.NeuronsActive) / all.Sum(static s => s.NeuronsComputed);
        Assert.InRange(right * config.Layers.Average(static l => l.Taken!.Value / l.Recall!.Value), 0.9, 1.1);
    }

    [Fact]
    public void Trained_predictors_keep_their_thresholds_unless_a_recall_is_stated()
    {
        string trained = TestData.Shared("models", "emberling-predictor");
        ImportResult as_published = Importer.Import(Emberling, Package(), new ImportOptions { Predictors = trained, Measure = false });
        Assert.All(as_published.Predictors!.Layers, static l => Assert.Equal(new LowRank(128, 0), l));
        ImportResult calibrated = Importer.Import(Emberling, Package(), new ImportOptions { Predictors = trained, Measure = false, Recall = 0.9 });
        Assert.All(calibrated.Predictors!.Layers, static l => Assert.True(l.Threshold < 0 && l.Recall is >= 0.9 and < 0.93 && l.Taken > 1, l.ToString()));
        // What looks ahead is taken by rank, not by threshold.
        Assert.Equivalent(as_published.Predictors.Lookahead, calibrated.Predictors.Lookahead, strict: true);
        PackageVerifier.Verify(Package());
    }

    [Theory, InlineData("llama-relu", "svd:8"), InlineData("opt", "svd:16"), InlineData("emberling", "sketch3 with a core"), InlineData("emberling", null)]
    public void In_order_of_popularity_every_neuron_is_the_one_it_says_it_was(string model, string? predictors)
    {
        string source = model == "emberling" ? Emberling : TestData.Golden(model);
        bool core = predictors?.EndsWith("core", StringComparison.Ordinal) == true;
        var options = new ImportOptions { Quant = "f32", Predictors = predictors?.Split(' ')[0], CoreLeast = core ? 0 : ImportStudy.DefaultCoreLeast, Measure = false };
        Importer.Import(source, Package("identity"), options);
        Importer.Import(source, Package("popularity"), options with { Order = PackageLayout.Popularity });
        using FlashPackage plain = FlashPackage.Open(Package("identity")), ordered = FlashPackage.Open(Package("popularity"));
        Assert.Equal((PackageLayout.Identity, PackageLayout.Popularity), (plain.Manifest.Permutation, ordered.Manifest.Permutation));
        PackageTensors a = new(plain), b = new(ordered);
        ModelConfig c = plain.Config;
        bool moved = false;
        for (int layer = 0; layer < c.Layers; layer++)
        {
            string p = $"layers.{layer}.";
            int[] order = Array.ConvertAll(b.Read(p + PackageLayout.Permutation), static v => (int)v);
            Assert.Equal(Enumerable.Range(0, c.FfnSize), order.Order());
            moved |= !order.SequenceEqual(order.Order());
            foreach (string matrix in (string[])["ffn.up", "ffn.down", .. c.Gated ? ["ffn.gate"] : Array.Empty<string>(), "ffn.selector", .. predictors == null ? [] : predictors.StartsWith("svd") ? ["predictor.fc2"] : new[] { "predictor.sketch" }])
                Assert.Equal(Rows(a.Read(p + matrix), order, c.FfnSize), b.Read(p + matrix));
            if (c.FfnBias) Assert.Equal(Rows(a.Read(p + "ffn.up.bias"), order, c.FfnSize), b.Read(p + "ffn.up.bias"));
            if (predictors == null) continue;
            // The same neurons are always computed, under their new numbers, which are the first.
            if (core)
            {
                float[] always = b.Read(p + PackageLayout.Core);
                Assert.Equal(Enumerable.Range(0, 51).Select(static i => (float)i), always);
                Assert.Equal(a.Read(p + PackageLayout.Core), always.Select(i => (float)order[(int)i]).Order());
            }
            Assert.Equal(plain.Manifest.Predictors!.Layers[layer], ordered.Manifest.Predictors!.Layers[layer]);
        }
        Assert.True(moved, "nothing was moved");
        PackageVerifier.Verify(Package("popularity"));

        // The sums of down rows have another order, so only the last bits differ.
        int[] ids = [.. Enumerable.Range(3, 20)];
        var one = ReferenceModel.FromPackage(plain).Run(ids).Logits[^1];
        using var engine = new LocalEngine(ordered, null, new LayerOptions());
        using EngineSession session = engine.OpenSession();
        session.Timeline.Append(ids);
        foreach (var (id, logit) in session.Run(Sampling.Greedy, SlotFlags.Sample, topLogits: c.VocabSize).Top!) Assert.Equal(one[id], logit, 1e-3f);
    }

    private static float[] Rows(float[] matrix, int[] order, int neurons) => [.. order.SelectMany(i => matrix.Skip(i * (matrix.Length / neurons)).Take(matrix.Length / neurons))];

    [Fact]
    public void The_core_is_what_is_active_on_half_of_the_tokens_and_no_more_than_a_twentieth()
    {
        // Half of a random model's neurons are active: some on most tokens.
        ImportResult random = Importer.Import(TestData.Golden("llama-relu"), Package(), new ImportOptions { Predictors = "svd:8", Measure = false });
        Assert.Equal(random.Config.FfnSize / 20, random.Predictors!.Layers[0].Core);
        Assert.True(random.Predictors.Layers[1].Core < random.Config.FfnSize / 20);
        Assert.All(Importer.Import(Emberling, Package(), new ImportOptions { Predictors = "sketch4", Measure = false }).Predictors!.Layers, static l => Assert.True(l.Core is null or < 20, l.ToString()));
    }

    [Fact]
    public void A_text_of_the_users_own_is_studied_and_the_same_import_gives_the_same_bytes()
    {
        _folder.Write("mine.txt", [.. Enumerable.Repeat("A fox found a lantern in the snow. "u8.ToArray(), 40).SelectMany(static b => b)]);
        var options = new ImportOptions { Name = "m", Predictors = "sketch4", Order = PackageLayout.Popularity, Measure = false };
        string tale = Importer.Import(Emberling, Package(), options).Hash, mine = Importer.Import(Emberling, Package(), options with { Calibration = Path.Combine(_folder.Path, "mine.txt") }).Hash;
        Assert.NotEqual(tale, mine);
        Assert.Equal(mine, Importer.Import(Emberling, Package(), options with { Calibration = Path.Combine(_folder.Path, "mine.txt") }).Hash);
        Assert.Equal([Package()], Directory.GetDirectories(_folder.Path));
    }

    [Fact]
    public void What_cannot_be_studied_or_made_is_refused_with_one_line()
    {
        Refused(TestData.Golden("llama"), new() { Order = PackageLayout.Popularity }, "this is none: import it without --order");
        Refused(TestData.Golden("llama"), new() { Predictors = "sketch4" }, "activation Silu has no exact zeros");
        Refused(Emberling, new() { Predictors = "svd:257" }, "the rank must be 1 to 256");
        Refused(Emberling, new() { Predictors = "svd:x" }, "the rank must be 1 to 256");
        Refused(Emberling, new() { Predictors = "sketch4", Calibration = Path.Combine(_folder.Path, "none.txt") }, "none.txt");
        Refused(Emberling, new() { Predictors = "sketch4", Recall = 1.5 }, "a recall of 1.5 cannot be reached");
    }

    private void Refused(string source, ImportOptions options, string says)
    {
        var e = Assert.Throws<ModelFormatException>(() => Importer.Import(source, Package(), options));
        Assert.Contains(says, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
        Assert.Empty(Directory.GetDirectories(_folder.Path));
    }

    [Fact]
    public void A_threshold_is_the_highest_that_finds_enough_and_the_core_counts()
    {
        // Two tokens of four neurons; the last neuron is always taken.
        float[] scores = [3, 2, 1, 0, 0.5f, -1, 4, -9];
        bool[] active = [true, false, true, false, true, false, true, true], always = [false, false, false, true];
        // Truly active: 5; the core finds one; 0.8 of 5 are 4: three of the scores 4, 3, 1, 0.5.
        Assert.Equal(new LowRank(7, 1) { Core = 1, Recall = 0.8, Taken = 1.2 }, ImportStudy.Calibrate(scores, active, always, 0.8, 7, 1));
        Assert.Equal(new LowRank(7, 0.5f) { Core = 1, Recall = 1, Taken = 1.4 }, ImportStudy.Calibrate(scores, active, always, 0.99, 7, 1));
        Assert.Equal(new LowRank(0, 0), ImportStudy.Calibrate(scores, new bool[8], new bool[4], 0.9, 0, 0));
    }

    [Theory, InlineData(2), InlineData(3)]
    public void Rows_of_a_sketch_are_levels_of_one_spread_and_nearer_than_the_plain_choice_of_scale(int bits)
    {
        var random = new Random(bits);
        float[] row = [.. Enumerable.Range(0, 256).Select(_ => random.NextSingle() + random.NextSingle() + random.NextSingle() - 1.5f)], back = new float[256];
        byte[] stored = new byte[WeightLayout.RowBytes(WeightFormat.Q4, 256)];
        SketchRows.Quantize(bits, row, stored);
        Quantizer.DequantizeRow(WeightFormat.Q4, stored, 256, back);
        int most = (1 << bits) - 1;
        for (int b = 0; b < 8; b++)
        {
            float[] w = row[(32 * b)..(32 * b + 32)], q = back[(32 * b)..(32 * b + 32)];
            float scale = q.Min(MathF.Abs), plain = w.Max(MathF.Abs) / most;
            int[] levels = [.. q.Select(v => Math.Abs((int)MathF.Round(v / scale))).Distinct()];
            Assert.True(levels.All((bits == 2 ? new[] { 1, 3 } : [1, 3, 5, 7]).Contains) || (bits == 3 && levels.All(new[] { 1, 2, 4, 7 }.Contains)), string.Join(' ', levels));
            double error = w.Zip(q, static (x, y) => (double)(x - y) * (x - y)).Sum();
            double other = w.Sum(x => Math.Pow(x - Math.Clamp(2 * Math.Floor(x / plain / 2) + 1, -most, most) * plain, 2));
            Assert.True(error < other, $"{error} against {other}");
        }
        SketchRows.Quantize(bits, new float[256], stored);
        Quantizer.DequantizeRow(WeightFormat.Q4, stored, 256, back);
        Assert.All(back, static v => Assert.Equal(0, v));
    }

    [Fact]
    public void A_sketch_errs_where_its_numbers_are_multiplied_with_little()
    {
        var random = new Random(4);
        float[] row = [.. Enumerable.Range(0, 256).Select(_ => random.NextSingle() - random.NextSingle())], squares = [.. Enumerable.Range(0, 256).Select(static i => i % 4 == 0 ? 10f : 0.1f)];
        Assert.True(Error(squares) < Error([]));

        double Error(float[] weigh)
        {
            byte[] stored = new byte[WeightLayout.RowBytes(WeightFormat.Q4, 256)];
            float[] back = new float[256];
            SketchRows.Quantize(3, row, stored, weigh);
            Quantizer.DequantizeRow(WeightFormat.Q4, stored, 256, back);
            return row.Select((v, i) => squares[i] * (v - back[i]) * (v - back[i])).Sum();
        }
    }

    [Fact]
    public void Rows_are_made_orthonormal_and_what_depends_on_others_becomes_zero()
    {
        var random = new Random(5);
        float[] a = [.. Enumerable.Range(0, 6 * 40).Select(_ => random.NextSingle() - 0.5f)];
        // The last is a sum of the first two.
        for (int k = 0; k < 40; k++) a[5 * 40 + k] = a[k] + a[40 + k];
        FloatProducts.MakeOrthonormal(a, 40);
        for (int i = 0; i < 6; i++)
            for (int j = 0; j <= i; j++)
                Assert.Equal(i == j && i < 5 ? 1 : 0, FloatProducts.Dot(a.AsSpan(i * 40, 40), a.AsSpan(j * 40, 40)), 1e-5f);
    }

    private static string Emberling => TestData.Repo("models", "emberling");
    private string Package(string name = "m") => Path.Combine(_folder.Path, name + ".flash");
}
