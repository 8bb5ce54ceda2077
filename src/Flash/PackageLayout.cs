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
    public const string HashesSuffix = ".hashes";

    public static string SlicePath(int layer) => $"layers/{layer:D3}.slice";

    /// <summary>Bytes that a package of this shape takes on flash, manifest and side files apart. Throws <see cref="FlashException"/> for a shape no package can have.</summary>
    public static long EstimateBytes(ModelConfig config, WeightFormat format, int alignment = Page)
    {
        Validate(config, format);
        return FileBytes(Edge(config, format), alignment) + config.Layers * FileBytes(Slice(config, format), alignment);
    }

    /// <summary>Refuses shapes that are impossible, absurdly large (sizes below never overflow after this), or not divisible as the format needs.</summary>
    public static void Validate(ModelConfig config, WeightFormat format)
    {
        Range(nameof(config.VocabSize), config.VocabSize, 1, 1 << 24);
        Range(nameof(config.HiddenSize), config.HiddenSize, 1, 1 << 18);
        Range(nameof(config.Layers), config.Layers, 1, 1 << 12);
        Range(nameof(config.Heads), config.Heads, 1, 1 << 12);
        Range(nameof(config.KvHeads), config.KvHeads, 1, config.Heads);
        Range(nameof(config.HeadDim), config.HeadDim, 1, 1 << 12);
        Range(nameof(config.FfnSize), config.FfnSize, 1, 1 << 22);
        Range(nameof(config.MaxPositions), config.MaxPositions, 1, 1 << 24);
        Range(nameof(config.PositionOffset), config.PositionOffset, 0, 1 << 16);
        Demand(config.Heads % config.KvHeads == 0, $"{config.Heads} heads do not divide among {config.KvHeads} key heads");
        Demand(config.Positions != PositionKind.Rope || config.HeadDim % 2 == 0, $"rotary positions need an even head size, not {config.HeadDim}");
        Demand(float.IsFinite(config.NormEps) && config.NormEps >= 0, $"norm epsilon {config.NormEps} is not a number of use");
        Demand(double.IsFinite(config.RopeTheta) && config.RopeTheta > 0, $"rope base {config.RopeTheta} is not a number of use");
        Demand(Enum.IsDefined(config.Norm) && Enum.IsDefined(config.Positions) && Enum.IsDefined(config.Activation) && Enum.IsDefined(format),
            "the norm, positions, activation or quantisation is none this version knows");
        Demand(config.Architecture.Length is > 0 and <= 64, "the architecture's name must have 1 to 64 characters");
        Demand(config.BosToken is not { } bos || (uint)bos < (uint)config.VocabSize, $"token {config.BosToken} (begin) is outside the vocabulary of {config.VocabSize}");
        foreach (int eos in config.EosTokens) Demand((uint)eos < (uint)config.VocabSize, $"token {eos} (end) is outside the vocabulary of {config.VocabSize}");
        int multiple = WeightLayout.Multiple(format);
        Demand(config.HiddenSize % multiple == 0, Misfit("a hidden size", config.HiddenSize));
        Demand(config.Heads * config.HeadDim % multiple == 0, Misfit("heads times head size", config.Heads * config.HeadDim));

        // The nearest formats that take such rows: of form K's rows often the forms with smaller blocks.
        string Misfit(string what, int cols) =>
            $"{FormatName(format)} needs {what} in blocks of {multiple}, not {cols}: import with --quant {(multiple > WeightLayout.Block && cols % WeightLayout.Block == 0 ? "q4, q8, " : "")}bf16 or f32";
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

    internal static IReadOnlyList<SectionEntry> Edge(ModelConfig config, WeightFormat format)
    {
        List<SectionEntry> sections = [];
        int d = config.HiddenSize;
        Panels(sections, "embed", format, config.VocabSize, d);
        Hashes(sections, "embed", EmbedUnits(format, config.VocabSize), 1);
        if (config.Positions == PositionKind.Learned) Plain(sections, "positions", config.MaxPositions + config.PositionOffset, d);
        Norm(sections, "final_norm", config);
        if (!config.TiedHead) Panels(sections, "head", format, config.VocabSize, d);
        return sections;
    }

    internal static IReadOnlyList<SectionEntry> Slice(ModelConfig config, WeightFormat format)
    {
        List<SectionEntry> sections = [];
        int d = config.HiddenSize;
        Norm(sections, "attn_norm", config);
        Panels(sections, "attn.qkv", format, config.QkvRows, d);
        if (config.AttentionBias) Plain(sections, "attn.qkv.bias", 1, config.QkvRows);
        Panels(sections, "attn.o", format, d, config.Heads * config.HeadDim);
        if (config.AttentionBias) Plain(sections, "attn.o.bias", 1, d);
        Norm(sections, "ffn_norm", config);
        if (HasSelector(config)) Panels(sections, "ffn.selector", format, config.FfnSize, d);
        if (config.FfnBias)
        {
            Plain(sections, "ffn.up.bias", 1, config.FfnSize);
            if (config.Gated) Plain(sections, "ffn.gate.bias", 1, config.FfnSize);
            Plain(sections, "ffn.down.bias", 1, d);
        }
        BundleLayout bundles = BundleLayout.For(config, format);
        Hashes(sections, Bundles, bundles.Units, 2);
        sections.Add(new SectionEntry
        {
            Name = Bundles,
            Kind = SectionKind.Bundles,
            Format = format,
            Rows = bundles.Neurons,
            Cols = d,
            Bytes = bundles.Bytes,
            Group = bundles.Group,
            Stride = bundles.Stride,
            RowsPerNeuron = bundles.Rows,
        });
        return sections;
    }

    /// <summary>`exact` finds the active neurons of ReLU models with a resident copy of the rows that decide.</summary>
    internal static bool HasSelector(ModelConfig config) => config.Activation == Activation.Relu;

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

    private static void Norm(List<SectionEntry> to, string name, ModelConfig config)
    {
        Plain(to, name + ".weight", 1, config.HiddenSize);
        if (config.Norm == NormKind.Layer) Plain(to, name + ".bias", 1, config.HiddenSize);
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
