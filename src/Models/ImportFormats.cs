using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// Which format each matrix of a package gets. One for all, or `keep`: for each matrix the format that is nearest to how the checkpoint stores it. Rows along
/// the model's width go over without loss where a format holds them (q8_0, q4_0, q4_1, q4_K), and so does <c>ffn.down</c> in slabs (q8_0, q4_0, q4_1). Neuron by neuron it is stored the other way round, where its
/// blocks mean nothing: it becomes bf16, since quantising it twice would cost more than everything else together (docs/adr/0011-keep.md).
/// </summary>
internal static class ImportFormats
{
    private static readonly string[] s_edge = ["embed", "project_in", "project_out", "head"];
    private static readonly string[] s_layer = ["attn.qkv", "attn.v", "attn.o", "ffn.up", "ffn.down", "ffn.gate", .. PackageLayout.FittedMatrices];

    public static WeightFormats Choose(Checkpoint checkpoint, string quant, List<string> notes)
    {
        ModelConfig c = checkpoint.Config;
        WeightFormats formats;
        if (quant == "keep" || (quant == "auto" && checkpoint.IsGguf)) formats = Each(checkpoint, static (matrix, nearest) => matrix == "ffn.down" ? Turned(nearest) : nearest);
        else if (quant == "auto")
        {
            bool blocks = c.HiddenSize % WeightLayout.Block == 0 && c.AttendedSize % WeightLayout.Block == 0 && c.EmbeddingWidth % WeightLayout.Block == 0;
            formats = blocks ? WeightFormat.Q8 : WeightFormat.F32;
            if (!blocks) notes.Add($"stored as f32: rows of {c.HiddenSize} and {c.AttendedSize} numbers do not divide into the blocks of {WeightLayout.Block} that q8 needs");
        }
        else if (quant == "q4")
        {
            // A file of four bits has been paid for: nothing of it loses a second time what it lost once, so what cannot stay as it is gets eight.
            WeightFormats stored = Each(checkpoint, static (matrix, nearest) => matrix == "ffn.down" && WeightLayout.IsQuantized(nearest) ? WeightFormat.Q8 : nearest);
            formats = stored.Most is WeightFormat.Q4 or WeightFormat.Q4B or WeightFormat.Q4K ? stored : FourBits(c);
        }
        else if (PackageLayout.TryParseFormat(quant, out WeightFormat one)) formats = one;
        else throw new ModelFormatException($"quantisation \"{quant}\" is none this version knows; there are auto, keep, f32, bf16, q8, q4, q4b and q4k");
        try
        {
            PackageLayout.Validate(c, formats);
        }
        catch (FlashException e)
        {
            throw new ModelFormatException(checkpoint.Path, e.Message, e);
        }
        return formats;
    }

    /// <summary>4.5 bits a weight: in super-blocks where rows come in 256, which lose less than blocks of the same size do (docs/adr/0013-q4.md), else in blocks.</summary>
    private static WeightFormats FourBits(ModelConfig c)
    {
        WeightFormat most = Of(c.HiddenSize);
        return new WeightFormats(most, new[] { ("attn.o", c.AttendedSize), ("embed", c.EmbeddingWidth), ("head", c.EmbeddingWidth), ("project_in", c.EmbeddingWidth) }
            .Where(m => Of(m.Item2) != most).Select(m => KeyValuePair.Create(m.Item1, Of(m.Item2))));

        static WeightFormat Of(int cols) => cols % WeightLayout.SuperBlock == 0 ? WeightFormat.Q4K : WeightFormat.Q4;
    }

    /// <summary>All rows of a tensor are stored as this format stores them.</summary>
    public static bool IsKept(IReadOnlyList<(WeightFormat Format, bool Lossless)> rows, WeightFormat format) => rows.All(r => r.Lossless && r.Format == format);

    /// <summary>A format for every matrix, chosen by the one that is nearest to how the checkpoint stores it.</summary>
    private static WeightFormats Each(Checkpoint checkpoint, Func<string, WeightFormat, WeightFormat> choose)
    {
        ModelConfig c = checkpoint.Config;
        var all = new Dictionary<string, WeightFormat>(StringComparer.Ordinal);
        foreach (string matrix in s_edge)
            if (checkpoint.Has(matrix)) Add(-1, matrix, matrix, matrix, 0, int.MaxValue);
        for (int i = 0; i < c.Layers; i++)
        {
            int values = c.Latent == null ? c.ValueRows : 0;
            foreach (string matrix in s_layer)
            {
                string tensor = $"layers.{i}.{(matrix == "attn.v" ? "attn.qkv" : matrix)}";
                if (!checkpoint.Has(tensor) || (matrix == "attn.v" && values == 0)) continue;
                (int first, int count) = matrix switch
                {
                    "attn.qkv" => (0, c.ProjectedRows - values),
                    "attn.v" => (c.QkvRows - values, values),
                    _ => (0, int.MaxValue),
                };
                Add(i, $"layers.{i}.{matrix}", matrix, tensor, first, count);
            }
        }
        return Shortest(all, c.Layers);

        void Add(int layer, string key, string matrix, string tensor, int first, int count)
        {
            (int rows, int cols) = checkpoint.Shape(tensor);
            IReadOnlyList<(WeightFormat Format, bool Lossless)> stored = checkpoint.Nearest(tensor, first, Math.Min(count, rows - first));
            WeightFormat[] found = [.. stored.Select(static n => n.Format).Distinct()];
            // One format for all rows: theirs where they agree, else 8 bits.
            WeightFormat nearest = found.Length == 1 ? found[0] : WeightFormat.Q8;
            if (cols % WeightLayout.Multiple(nearest) != 0) nearest = WeightFormat.BF16;
            // Of columns that become rows.
            if (matrix != "ffn.down" && checkpoint.IsTurned(tensor)) nearest = Turned(nearest);
            all[key] = (matrix == "ffn.down" && !c.HasSelector(layer) ? checkpoint.KeptInSlabs(tensor, c.ExpertsOf(layer)?.Size ?? c.NeuronsOf(layer)) : null) ?? choose(matrix, nearest);
        }
    }

    /// <summary>Of columns that become rows.</summary>
    private static WeightFormat Turned(WeightFormat format) => WeightLayout.IsQuantized(format) ? WeightFormat.BF16 : format;

    /// <summary>The same assignment in few words: the commonest format, kinds that differ, layers that differ from their kind.</summary>
    private static WeightFormats Shortest(Dictionary<string, WeightFormat> all, int layers)
    {
        WeightFormat most = Commonest(all.Values);
        var exceptions = new Dictionary<string, WeightFormat>(StringComparer.Ordinal);
        foreach (string matrix in s_edge)
            if (all.TryGetValue(matrix, out WeightFormat format) && format != most) exceptions[matrix] = format;
        foreach (string matrix in s_layer)
        {
            (string Key, WeightFormat Format)[] each = [.. Enumerable.Range(0, layers).Select(i => $"layers.{i}.{matrix}").Where(all.ContainsKey).Select(k => (k, all[k]))];
            if (each.Length == 0) continue;
            WeightFormat kind = Commonest(each.Select(static e => e.Format));
            if (kind != most) exceptions[matrix] = kind;
            foreach ((string key, WeightFormat format) in each)
                if (format != kind) exceptions[key] = format;
        }
        return new WeightFormats(most, exceptions);
    }

    private static WeightFormat Commonest(IEnumerable<WeightFormat> formats) => formats.GroupBy(static f => f).OrderByDescending(static g => g.Count()).ThenBy(static g => g.Key).First().Key;
}
