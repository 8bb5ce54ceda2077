namespace FlashOrleans.Flash;

/// <summary>
/// What the files of a package must contain, computed from the model's shape alone: names, kinds, shapes, offsets, sizes.
/// The writer lays files out by it, the reader demands it, the importer asks it how much disk it will need. Pure functions, any thread.
/// </summary>
public static class PackageLayout
{
    /// <summary>Strides are multiples of this.</summary>
    public const int Sector = 512;
    /// <summary>The header's size, and what file lengths are multiples of.</summary>
    public const int Page = 4096;
    /// <summary>Below this, opening checks every byte.</summary>
    public const long CheckEverythingBelow = 1L << 30;

    public const string EdgePath = "edge.bin";
    public const string ManifestPath = "manifest.json";
    public const string Bundles = "bundles";
    /// <summary>Sections of a trained predictor: this and ".fc1", ".fc2".</summary>
    public const string Predictor = "predictor";
    /// <summary>Sections of predictors of the other kinds, and of neurons that are always computed.</summary>
    public const string Sketch = Predictor + ".sketch", Core = Predictor + ".core";
    /// <summary>Orders of the neurons, and the section that says where each came from.</summary>
    public const string Identity = "identity", Popularity = "popularity", Permutation = Bundles + ".permutation";
    /// <summary>The same for the predictor that looks ahead.</summary>
    public const string Lookahead = "lookahead";
    public const string HashesSuffix = ".hashes";
    /// <summary>What a bundle holds: all rows of a neuron, or, where a selector has it, all but the one that decides.</summary>
    public const string WholeBundles = "whole", LeanBundles = "lean";

    /// <summary>Resident matrices that not every model has: those of an expert that all tokens use, those that make queries, keys and values of latents. Their format is what <see cref="Fitting"/> makes of what is asked for.</summary>
    public static readonly IReadOnlyList<string> FittedMatrices = ["attn.q_b", "attn.k_b", "attn.v_b", "ffn.shared.gate", "ffn.shared.up", "ffn.shared.down"];

    public static string SlicePath(int layer) => $"layers/{layer:D3}.slice";

    /// <summary>Bytes that a package of this shape takes on flash, manifest and side files apart. Throws <see cref="FlashException"/> for a shape no package can have.</summary>
    public static long EstimateBytes(ModelConfig config, WeightFormats formats, int alignment = Page, PredictorConfig? predictors = null, bool permuted = false, bool lean = false)
    {
        Validate(config, formats);
        predictors?.Check(config);
        long bytes = FileBytes(Edge(config, formats), alignment);
        for (int i = 0; i < config.Layers; i++) bytes += FileBytes(Slice(config, formats, i, predictors, permuted, lean), alignment);
        return bytes;
    }

    /// <summary>Bytes of a package that are read as they are needed: the neuron bundles, and the embedding unless it is the head as well.</summary>
    public static long StreamedBytes(ModelConfig config, WeightFormats formats, bool lean = false)
    {
        long bytes = config.TiedHead ? 0 : WeightLayout.MatrixBytes(formats.Of("embed"), config.VocabSize, config.EmbeddingWidth);
        for (int i = 0; i < config.Layers; i++) bytes += BundleLayout.For(config, formats, i, lean).Bytes;
        return bytes;
    }

    /// <summary>What edge.bin (layer -1) or a layer's slice consists of, without opening it: names, kinds, offsets and sizes; no checksums.</summary>
    public static IReadOnlyList<Section> Sections(Manifest manifest, int layer)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        IReadOnlyList<SectionEntry> entries = layer < 0 ? Edge(manifest.Model, manifest.Weights) : Slice(manifest, layer);
        List<Section> sections = [];
        long end = Page;
        foreach (SectionEntry s in entries)
        {
            long offset = RoundUp(end, manifest.Alignment);
            sections.Add(new Section { Name = s.Name, Kind = s.Kind, Offset = offset, Bytes = s.Bytes, Format = s.Format, Rows = s.Rows, Cols = s.Cols, Hash = "" });
            end = offset + s.Bytes;
        }
        return sections;
    }

    /// <summary>Units of a layer's bundles and the bytes of a window slot for one, on a device of this alignment; <paramref name="whole"/> as in <see cref="PackageFile.BundleUnits"/>.</summary>
    /// <param name="manifest">The package.</param>
    /// <param name="layer">Which.</param>
    /// <param name="whole">Every row of a neuron.</param>
    /// <param name="alignment">The device's.</param>
    /// <param name="least">For who reads all of them: units joined until so few are left, else 0.</param>
    /// <param name="most">Neurons of a joined unit.</param>
    public static (int Units, int SlotBytes, int PartBytes, int Group) BundleSlots(Manifest manifest, int layer, bool whole, int alignment, int least = 0, int most = 0)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        BundleLayout b = BundleLayout.For(manifest, layer);
        if (least > 0) b = b.Joined(least, most);
        (int offset, int bytes) = b.Group > 1 || whole ? (0, b.UsedBytes) : b.Span(0);
        // Sections begin at multiples of the package's alignment, which the device's may exceed.
        long start = (alignment <= manifest.Alignment ? 0 : manifest.Alignment) + offset;
        return (b.Units, UnitRegion.SlotBytesOf(start, b.Stride, bytes, alignment), bytes, b.Group);
    }

    /// <summary>The same for rows of the embedding.</summary>
    public static (int Units, int SlotBytes) EmbeddingSlots(Manifest manifest, int alignment)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        WeightFormat format = manifest.Weights.Of("embed");
        int bytes = EmbedUnitBytes(format, manifest.Model.EmbeddingWidth);
        return (EmbedUnits(format, manifest.Model.VocabSize), UnitRegion.SlotBytesOf(alignment <= manifest.Alignment ? 0 : manifest.Alignment, bytes, bytes, alignment));
    }

    /// <summary>Scratch that opening and loading a package of this shape takes, beside what it loads.</summary>
    public static long LoadScratchBytes(Manifest manifest) => PackageFile.ScanChunk(manifest) + 2L * Page;

    /// <summary>Refuses shapes that are impossible, absurdly large (sizes below never overflow after this), or not divisible as the format needs.</summary>
    public static void Validate(ModelConfig config, WeightFormats formats)
    {
        Range(nameof(config.VocabSize), config.VocabSize, 1, 1 << 24);
        Range(nameof(config.HiddenSize), config.HiddenSize, 1, 1 << 18);
        Range(nameof(config.Layers), config.Layers, 1, 1 << 12);
        Range(nameof(config.Heads), config.Heads, 1, 1 << 12);
        Range(nameof(config.KvHeads), config.KvHeads, 1, config.Heads);
        Range(nameof(config.HeadDim), config.HeadDim, 1, 1 << 12);
        Range(nameof(config.ValueDim), config.ValueDim, 0, 1 << 12);
        Range(nameof(config.FfnSize), config.FfnSize, 1, 1 << 22);
        Range(nameof(config.MaxPositions), config.MaxPositions, 1, 1 << 24);
        Range(nameof(config.PositionOffset), config.PositionOffset, 0, 1 << 16);
        Demand(config.Heads % config.KvHeads == 0, $"{config.Heads} heads do not divide among {config.KvHeads} key heads");
        Demand(config.Positions != PositionKind.Rope || config.HeadDim % 2 == 0, $"rotary positions need an even head size, not {config.HeadDim}");
        Demand(float.IsFinite(config.NormEps) && config.NormEps >= 0, $"norm epsilon {config.NormEps} is not a number of use");
        Demand(double.IsFinite(config.RopeTheta) && config.RopeTheta > 0, $"rope base {config.RopeTheta} is not a number of use");
        Demand(Enum.IsDefined(config.Norm) && Enum.IsDefined(config.Positions) && Enum.IsDefined(config.Activation) && formats.All.All(Enum.IsDefined),
            "the norm, positions, activation or quantisation is none this version knows");
        Demand(Enum.IsDefined(config.NormPlacement) && Enum.IsDefined(config.QkNorm), "the placement of norms is none this version knows");
        Range(nameof(config.EmbeddingSize), config.EmbeddingSize, 0, 1 << 18);
        Range(nameof(config.SlidingWindow), config.SlidingWindow, 0, int.MaxValue);
        Demand(config.LayerTraits.Count == 0 || config.LayerTraits.Count == config.Layers, $"traits of {config.LayerTraits.Count} layers where the model has {config.Layers}");
        Demand(config.SlidingWindow > 0 || !config.LayerTraits.Any(t => t.HasFlag(LayerTraits.Sliding)), "layers slide over a window of 0 positions");
        Demand(!config.SharedNorm || (config.Parallel && config.NormPlacement == NormPlacement.Pre), "one norm can feed both branches only where they run side by side");
        Demand(config.Gated || config.Activation is not (Activation.DRelu or Activation.ClampedSwiglu), $"activation {config.Activation} needs a gate");
        foreach (float factor in (ReadOnlySpan<float>)[config.EmbeddingScale, config.ResidualScale, config.LogitScale, config.AttentionScale, config.AttentionSoftcap, config.LogitSoftcap, config.ActivationParameter])
            Demand(float.IsFinite(factor), "a factor of the model is not a number of use");
        if (config.Experts is { } e)
        {
            Range("experts", e.Count, 1, 1 << 12);
            Range("active experts", e.Active, 1, e.Count);
            Range("neurons of an expert", e.Size, 1, 1 << 20);
            Range("neurons of the shared expert", e.SharedSize, 0, 1 << 22);
            Demand(Enum.IsDefined(e.Score), "the scores of the router are none this version knows");
            if (e.Groups != 0 || e.UsedGroups != 0 || e.GroupBest != 0)
            {
                Demand(e.Groups is > 1 and <= 1 << 12 && e.Count % e.Groups == 0 && !e.Early, $"{e.Count} experts cannot be chosen in {e.Groups} groups");
                Demand(e.UsedGroups >= 1 && e.UsedGroups <= e.Groups && e.Active <= e.UsedGroups * (e.Count / e.Groups), $"{e.UsedGroups} of {e.Groups} groups do not have {e.Active} experts");
                Range("experts that a group is judged by", e.GroupBest, 1, e.Count / e.Groups);
            }
            Demand(!e.ByNeuron || (config.Activation == Activation.Relu && config.Gated && e.Size % WeightLayout.PanelRows == 0), $"neurons of experts are read one by one where their gates are ReLU and an expert has a multiple of {WeightLayout.PanelRows} of them");
            Demand(!e.SharedGate || e.SharedSize > 0, "there is no shared expert to gate");
            foreach (float number in (ReadOnlySpan<float>)[e.SumEps, e.SumFloor, e.Scale ?? 1]) Demand(float.IsFinite(number) && number >= 0, $"{number} among the numbers of the router is of no use");
            Range("neurons of all experts", (int)Math.Min(int.MaxValue, (long)e.Count * e.Size), 1, 1 << 24);
        }
        if (config.Latent is { } latent)
        {
            Range("numbers of the latent", latent.KvRank, 1, 1 << 16);
            Range("numbers of the queries' latent", latent.QueryRank, 0, 1 << 16);
            Range("rotated numbers of a key", latent.RopeDim, 2, config.HeadDim);
            Demand(latent.RopeDim % 2 == 0 && config.Positions == PositionKind.Rope, "the rotated numbers of a key do not make pairs");
            Demand(config.KvHeads == config.Heads, $"of a latent {config.Heads} heads need as many keys, not {config.KvHeads}");
            Demand(!config.AttentionBias && config.QkNorm == QkNorm.None, "queries and keys of a latent have neither biases nor norms here");
            Demand(float.IsFinite(latent.NormEps) && latent.NormEps >= 0, $"norm epsilon {latent.NormEps} is not a number of use");
        }
        foreach (RopeConfig? rope in (ReadOnlySpan<RopeConfig?>)[config.Rope, config.SlidingRope]) Validate(rope, config.HeadDim);
        Demand(config.Architecture.Length is > 0 and <= 64, "the architecture's name must have 1 to 64 characters");
        Demand(config.BosToken is not { } bos || (uint)bos < (uint)config.VocabSize, $"token {config.BosToken} (begin) is outside the vocabulary of {config.VocabSize}");
        foreach (int eos in config.EosTokens) Demand((uint)eos < (uint)config.VocabSize, $"token {eos} (end) is outside the vocabulary of {config.VocabSize}");
        Divides("embed", formats.Of("embed"), config.EmbeddingWidth, "hidden size");
        Divides("head", formats.Of("head"), config.EmbeddingWidth, "hidden size");
        if (config.EmbeddingSize != 0)
        {
            Divides("project_in", formats.Of("project_in"), config.EmbeddingWidth, "embedding size");
            Divides("project_out", formats.Of("project_out"), config.HiddenSize, "hidden size");
        }
        // Without exceptions every layer is like the first.
        int layers = formats.Exceptions.Count == 0 ? 1 : config.Layers;
        for (int i = 0; i < layers; i++)
        {
            foreach (string matrix in (ReadOnlySpan<string>)["attn.qkv", "attn.v", "ffn.up", "ffn.down", "ffn.gate"]) Divides(matrix, formats.Of(i, matrix), config.HiddenSize, "hidden size");
            Divides("attn.o", formats.Of(i, "attn.o"), config.AttendedSize, "heads times head size");
        }
        for (int i = 0; i < config.Layers; i++)
        {
            Demand((long)config.NeuronsOf(i) * config.HiddenSize <= 1L << 42, $"the feed-forward of layer {i} is more than this version supports");
            _ = BundleLayout.For(config, formats, i);
            if (layers == 1 && config.Experts == null) break;
        }
    }

    private static void Divides(string matrix, WeightFormat format, int cols, string what)
    {
        int multiple = WeightLayout.Multiple(format);
        // The nearest formats that take such rows: of form K's rows often the forms with smaller blocks.
        if (cols % multiple != 0)
            throw new FlashException($"{FormatName(format)} needs a {what} in blocks of {multiple}, not {cols} ({matrix}): import with --quant {(multiple > WeightLayout.Block && cols % WeightLayout.Block == 0 ? "q4, q8, " : "")}bf16 or f32");
    }

    private static void Validate(RopeConfig? rope, int headDim)
    {
        if (rope == null) return;
        Demand(Enum.IsDefined(rope.Scaling), "the scaling of rotary positions is none this version knows");
        Range("rotated numbers of a head", rope.Dims, 0, headDim);
        Demand(rope.Dims % 2 == 0, $"{rope.Dims} rotated numbers of a head do not make pairs");
        foreach (double number in (ReadOnlySpan<double>)[rope.Theta, rope.Factor, rope.AttentionFactor]) Demand(double.IsFinite(number) && number > 0, $"{number} among the numbers of rotary positions is of no use");
        int pairs = (rope.Dims == 0 ? headDim : rope.Dims) / 2;
        Demand(rope.Scaling is RopeScaling.None or RopeScaling.Linear || rope.OriginalPositions > 0, "scaled rotary positions lack the original number of positions");
        Demand(rope.Scaling != RopeScaling.LongRope || (rope.ShortFactors.Count == pairs && rope.LongFactors.Count == pairs && rope.ShortFactors.Concat(rope.LongFactors).All(f => double.IsFinite(f) && f > 0)),
            $"longrope needs {pairs} short and long factors above 0");
    }

    public static string FormatName(WeightFormat format) => format switch
    {
        WeightFormat.F32 => "f32",
        WeightFormat.BF16 => "bf16",
        WeightFormat.Q8 => "q8",
        WeightFormat.Q4 => "q4",
        WeightFormat.Q4B => "q4b",
        WeightFormat.Q4K => "q4k",
        _ => throw new FlashException($"quantisation {(int)format} is none this version knows"),
    };

    public static bool TryParseFormat(string name, out WeightFormat format)
    {
        foreach (WeightFormat known in Enum.GetValues<WeightFormat>())
        {
            format = known;
            if (FormatName(known) == name) return true;
        }
        format = default;
        return false;
    }

    internal static IReadOnlyList<SectionEntry> Edge(ModelConfig config, WeightFormats formats)
    {
        List<SectionEntry> sections = [];
        int d = config.HiddenSize, e = config.EmbeddingWidth;
        Panels(sections, "embed", formats.Of("embed"), config.VocabSize, e);
        Hashes(sections, "embed", EmbedUnits(formats.Of("embed"), config.VocabSize), 1);
        if (config.Positions == PositionKind.Learned) Plain(sections, "positions", config.MaxPositions + config.PositionOffset, d);
        if (e != d)
        {
            Panels(sections, "project_in", formats.Of("project_in"), d, e);
            Panels(sections, "project_out", formats.Of("project_out"), e, d);
        }
        if (config.FinalNorm) Norm(sections, "final_norm", config);
        if (!config.TiedHead) Panels(sections, "head", formats.Of("head"), config.VocabSize, e);
        if (config.HeadBias) Plain(sections, "head.bias", 1, config.VocabSize);
        return sections;
    }

    internal static IReadOnlyList<SectionEntry> Slice(Manifest m, int layer) => Slice(m.Model, m.Weights, layer, m.Predictors, m.Permutation != Identity, m.Lean);

    internal static IReadOnlyList<SectionEntry> Slice(ModelConfig config, WeightFormats formats, int layer, PredictorConfig? predictors = null, bool permuted = false, bool lean = false)
    {
        List<SectionEntry> sections = [];
        int d = config.HiddenSize, hd = config.HeadDim, neurons = config.NeuronsOf(layer);
        if (config.HasInputNorms) Norm(sections, "attn_norm", config);
        // Values apart where their format differs from that of queries and keys.
        bool apart = ValuesApart(config, formats, layer);
        Panels(sections, "attn.qkv", formats.Of(layer, "attn.qkv"), apart ? config.QkvRows - config.ValueRows : config.ProjectedRows, d);
        if (apart) Panels(sections, "attn.v", formats.Of(layer, "attn.v"), config.ValueRows, d);
        if (config.Latent is { } latent) OfLatent(sections, formats, layer, config, latent);
        if (config.AttentionBias) Plain(sections, "attn.qkv.bias", 1, config.QkvRows);
        if (config.QkNorm != QkNorm.None)
        {
            bool each = config.QkNorm == QkNorm.Head;
            Norm(sections, "attn.q_norm", config, each ? hd : config.Heads * hd);
            Norm(sections, "attn.k_norm", config, each ? hd : config.KvHeads * hd);
        }
        if (config.Sinks) Plain(sections, "attn.sinks", 1, config.Heads);
        Panels(sections, "attn.o", formats.Of(layer, "attn.o"), d, config.AttendedSize);
        if (config.HasOutputBias) Plain(sections, "attn.o.bias", 1, d);
        if (config.HasOutputNorms) Norm(sections, "attn_out_norm", config);
        if (config.HasFfnNorm) Norm(sections, "ffn_norm", config);
        if (config.HasOutputNorms) Norm(sections, "ffn_out_norm", config);
        if (config.HasSelector(layer)) Panels(sections, "ffn.selector", formats.Of(layer, config.Gated ? "ffn.gate" : "ffn.up"), neurons, d);
        if (config.ExpertsOf(layer) is { } experts)
        {
            // Which experts are chosen hangs on small differences: the router is never quantised.
            Panels(sections, experts.RouterSection, RouterFormat(formats), experts.Count, d);
            if (experts.RouterBias) Plain(sections, "ffn.router.bias", 1, experts.Count);
            if (experts.ChoiceBias) Plain(sections, "ffn.router.choice", 1, experts.Count);
            if (experts.SharedSize > 0) SharedExpert(sections, formats, layer, config, experts);
        }
        if (config.FfnBias)
        {
            Plain(sections, "ffn.up.bias", 1, neurons);
            if (config.Gated) Plain(sections, "ffn.gate.bias", 1, neurons);
            Plain(sections, "ffn.down.bias", config.ExpertsOf(layer)?.Count ?? 1, d);
        }
        if (predictors?.Kind == PredictorConfig.SketchKind) Panels(sections, Sketch, WeightFormat.Q4, neurons, d);
        else if (predictors != null) LowRank(sections, Predictor, formats, predictors, predictors.Layers[layer], neurons, d);
        if (predictors?.Layers[layer].Core is { } core) Plain(sections, Core, 1, core);
        if (predictors?.LookaheadOf(layer) is { } ahead) LowRank(sections, Lookahead, formats, predictors, ahead, neurons, d);
        if (permuted) Plain(sections, Permutation, 1, neurons);
        BundleLayout bundles = BundleLayout.For(config, formats, layer, lean);
        Hashes(sections, Bundles, bundles.Units, 2);
        sections.Add(new SectionEntry
        {
            Name = Bundles,
            Kind = SectionKind.Bundles,
            Format = bundles.Up,
            Down = bundles.Down,
            Gate = bundles.Gate,
            Rows = bundles.Neurons,
            Cols = d,
            Bytes = bundles.Bytes,
            Group = bundles.Group,
            Stride = bundles.Stride,
            RowsPerNeuron = bundles.Rows,
            Permutation = permuted ? 1 : 0,
        });
        return sections;
    }

    /// <summary>What makes queries, keys and values of latents.</summary>
    private static void OfLatent(List<SectionEntry> to, WeightFormats formats, int layer, ModelConfig config, LatentConfig latent)
    {
        void Matrix(string name, int rows, int cols) => Panels(to, name, Fitting(formats.Of(layer, name), cols), rows, cols);
        if (latent.QueryRank > 0)
        {
            Plain(to, "attn.q_latent_norm", 1, latent.QueryRank);
            Matrix("attn.q_b", config.Heads * config.HeadDim, latent.QueryRank);
        }
        Plain(to, "attn.kv_latent_norm", 1, latent.KvRank);
        Matrix("attn.k_b", config.Heads * (config.HeadDim - latent.RopeDim), latent.KvRank);
        Matrix("attn.v_b", config.ValueRows, latent.KvRank);
    }

    /// <summary>The expert that all tokens use: matrices that stay in memory, so that a row of down is one of the stream's numbers.</summary>
    private static void SharedExpert(List<SectionEntry> to, WeightFormats formats, int layer, ModelConfig config, ExpertConfig experts)
    {
        int d = config.HiddenSize, n = experts.SharedSize;
        if (config.Gated) Panels(to, "ffn.shared.gate", Fitting(formats.Of(layer, "ffn.shared.gate"), d), n, d);
        Panels(to, "ffn.shared.up", Fitting(formats.Of(layer, "ffn.shared.up"), d), n, d);
        Panels(to, "ffn.shared.down", Fitting(formats.Of(layer, "ffn.shared.down"), n), d, n);
        if (experts.SharedGate) Plain(to, "ffn.shared.mix", 1, d);
    }

    /// <summary>The format itself, or the nearest one that takes rows of so many numbers: of form K's rows often form A's blocks, else bf16.</summary>
    public static WeightFormat Fitting(WeightFormat format, int cols) =>
        cols % WeightLayout.Multiple(format) == 0 ? format : format == WeightFormat.Q4K && cols % WeightLayout.Block == 0 ? WeightFormat.Q4 : WeightFormat.BF16;

    /// <summary>The values' matrix is a section of its own.</summary>
    public static bool ValuesApart(ModelConfig config, WeightFormats formats, int layer) => config.Latent == null && formats.Exceptions.Count > 0 && formats.Of(layer, "attn.v") != formats.Of(layer, "attn.qkv");

    /// <summary>Routers of 16-bit checkpoints are stored without loss.</summary>
    public static WeightFormat RouterFormat(WeightFormats formats) => formats.Most == WeightFormat.F32 ? WeightFormat.F32 : formats.Of("ffn.router") == WeightFormat.F32 ? WeightFormat.F32 : WeightFormat.BF16;

    /// <summary>Format of a predictor's matrix with so many columns: what <see cref="PredictorConfig.Format"/> says, bf16 where rows do not divide into blocks; f32 where nothing is to be rounded.</summary>
    public static WeightFormat PredictorFormat(WeightFormats formats, PredictorConfig predictors, int cols) =>
        formats.Most == WeightFormat.F32 ? WeightFormat.F32 : cols % WeightLayout.Block != 0 ? WeightFormat.BF16 : predictors.Format == null ? WeightFormat.Q8 : WeightFormat.Q4;

    /// <summary>Units of a matrix that is read row by row from flash: panels where rows are interleaved, else rows.</summary>
    internal static int EmbedUnits(WeightFormat format, int rows) => WeightLayout.IsQuantized(format) ? WeightLayout.Panels(rows) : rows;

    internal static int EmbedUnitBytes(WeightFormat format, int cols) =>
        WeightLayout.IsQuantized(format) ? WeightLayout.PanelBytes(format, cols) : WeightLayout.RowBytes(format, cols);

    internal static long FileBytes(IReadOnlyList<SectionEntry> sections, int alignment)
    {
        long end = Page;
        foreach (SectionEntry section in sections) end = RoundUp(end, alignment) + section.Bytes;
        return RoundUp(end, Page);
    }

    internal static long RoundUp(long value, int multiple) => (value + multiple - 1) / multiple * multiple;

    private static void Norm(List<SectionEntry> to, string name, ModelConfig config, int length = 0)
    {
        Plain(to, name + ".weight", 1, length == 0 ? config.HiddenSize : length);
        if (config.HasNormBias) Plain(to, name + ".bias", 1, length == 0 ? config.HiddenSize : length);
    }

    private static void LowRank(List<SectionEntry> to, string name, WeightFormats formats, PredictorConfig config, LowRank predictor, int neurons, int hidden)
    {
        Panels(to, name + ".fc1", PredictorFormat(formats, config, hidden), predictor.Rank, hidden);
        Panels(to, name + ".fc2", PredictorFormat(formats, config, predictor.Rank), neurons, predictor.Rank);
    }

    private static void Plain(List<SectionEntry> to, string name, int rows, int cols) =>
        to.Add(new SectionEntry { Name = name, Kind = SectionKind.Plain, Format = WeightFormat.F32, Rows = rows, Cols = cols, Bytes = (long)rows * cols * 4 });

    private static void Panels(List<SectionEntry> to, string name, WeightFormat format, int rows, int cols) =>
        to.Add(new SectionEntry { Name = name, Kind = SectionKind.Panels, Format = format, Rows = rows, Cols = cols, Bytes = WeightLayout.MatrixBytes(format, rows, cols) });

    private static void Hashes(List<SectionEntry> to, string of, int units, int each) =>
        to.Add(new SectionEntry { Name = of + HashesSuffix, Kind = SectionKind.Hashes, Format = WeightFormat.F32, Rows = units, Cols = each, Bytes = (long)units * each * 8 });

    private static void Range(string what, int value, int low, int high) =>
        Demand(value >= low && value <= high, $"{what} is {value}, which is outside {low}..{high}");

    private static void Demand(bool holds, string what)
    {
        if (!holds) throw new FlashException(what);
    }
}
