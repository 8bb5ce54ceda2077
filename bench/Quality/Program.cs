using System.Globalization;
using System.Text.Json;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Quality.Bench;

/// <summary>
/// What quantisation costs, as the tables of docs/adr/0013-q4.md: each variant is imported, run over a text beside the same model in f32, and compared over the whole vocabulary.
/// <c>bench/Quality [forms|parts] CHECKPOINT TEXT [WINDOW [GOLDEN]]</c>. forms: the number formats, also by plain rounding where the importer searches. parts: what `keep` adds up from.
/// GOLDEN is a golden file of prompts with their greedy continuations, each run teacher-forced. TEXT may be -, for GOLDEN alone.
/// </summary>
internal static class Program
{
    private sealed record Variant(string Name, string Quant, RowPreparation? Prepare = null, (WeightFormat Format, string[] Matrices)? Except = null, KvType Kv = KvType.Auto);

    private static readonly string[] s_matrices = ["embed", "project_in", "project_out", "head", "attn.qkv", "attn.v", "attn.o", "ffn.up", "ffn.down", "ffn.gate"];

    private static readonly Variant[] s_forms =
    [
        new("q8", "q8"), new("keep", "keep"),
        new("q4 nearest", "q4", Nearest(Symmetric)), new("q4", "q4"), new("q4, embedding and head q8", "q4", Except: (WeightFormat.Q8, ["embed", "head"])),
        new("q4b nearest", "q4b", Nearest(Asymmetric)), new("q4b", "q4b"), new("q4b, embedding and head q8", "q4b", Except: (WeightFormat.Q8, ["embed", "head"])),
        new("q4k", "q4k"), new("q4k, embedding and head q8", "q4k", Except: (WeightFormat.Q8, ["embed", "head"])),
    ];

    private static readonly Variant[] s_parts =
    [
        new("keep", "keep"), new("keep, f32 keys and values", "keep", Kv: KvType.F32),
        new("f32, f16 keys and values", "f32", Kv: KvType.F16),
        new("f32, `down` rounded to q8", "f32", (kind, row) => { if (kind == "ffn.down") Through(WeightFormat.Q8, row); }),
        new("f32, all rounded to q8", "f32", (_, row) => Through(WeightFormat.Q8, row)),
        .. s_matrices.Where(static m => m is not ("project_in" or "project_out" or "attn.v")).Select(static m => new Variant($"keep, `{m}` in f32", "keep", Except: (WeightFormat.F32, m == "attn.qkv" ? ["attn.qkv", "attn.v"] : [m]))),
        new("keep, attention in f32", "keep", Except: (WeightFormat.F32, ["attn.qkv", "attn.v", "attn.o"])),
        new("keep, up and gate in f32", "keep", Except: (WeightFormat.F32, ["ffn.up", "ffn.gate"])),
        new("keep, `down` in bf16", "keep", Except: (WeightFormat.BF16, ["ffn.down"])),
        .. Enumerable.Range(0, 6).Select(static i => new Variant($"keep, `down` in bf16 in layers {5 * i} to {5 * i + 4}", "keep", Except: (WeightFormat.BF16, [.. Enumerable.Range(5 * i, 5).Select(static l => $"layers.{l}.ffn.down")]))),
    ];

    private static int Main(string[] args)
    {
        if (args.Length is < 3 or > 5 || args[0] is not ("forms" or "parts"))
        {
            Console.Error.WriteLine("bench/Quality forms|parts CHECKPOINT TEXT [WINDOW [GOLDEN]]");
            return 2;
        }
        string temporary = Directory.CreateTempSubdirectory("flash-quality-").FullName;
        try
        {
            Table(args[0] == "forms" ? s_forms : s_parts, args[1], args[2], args.Length > 3 ? int.Parse(args[3], CultureInfo.InvariantCulture) : 512, args.Length > 4 ? args[4] : null, temporary);
            return 0;
        }
        finally
        {
            Directory.Delete(temporary, recursive: true);
        }
    }

    private static void Table(Variant[] variants, string checkpoint, string textFile, int window, string? golden, string temporary)
    {
        using FlashPackage exact = Import(new Variant("f32", "f32"), checkpoint, temporary)!;
        using var reference = new LocalEngine(exact, null, new LayerOptions { Window = 1 });
        (string Name, (int[], int)[] Texts)[] sets = [.. textFile == "-" ? [] : new[] { ("text", Windows(exact, textFile, window)) }, .. golden == null ? [] : new[] { ("prompts", Prompts(golden)) }];
        Console.WriteLine($"| variant | bits a weight | error of the weights |{string.Concat(sets.Select(static s => $" {s.Name}: nll | − f32 | KL mean | KL 95 % | KL max | same best |"))}");
        Console.WriteLine($"|---|---|---|{string.Concat(sets.Select(static _ => "---|---|---|---|---|---|"))}");
        foreach (Variant variant in variants)
        {
            using FlashPackage? package = Import(variant, checkpoint, temporary, out double error);
            if (package == null) continue;
            using var engine = new LocalEngine(package, null, new LayerOptions { Window = 1, Kv = variant.Kv });
            string line = string.Create(CultureInfo.InvariantCulture, $"| {variant.Name} | {BitsPerWeight(package):0.00} | {100 * error:0.00} % |");
            foreach ((_, (int[] Ids, int First)[] texts) in sets)
            {
                var d = new Divergence();
                foreach ((int[] ids, int first) in texts) d.Run(reference, engine, ids, first);
                line += string.Create(CultureInfo.InvariantCulture,
                    $" {d.Nll:0.000000} | {d.Nll - d.ReferenceNll:+0.000000;-0.000000} | {d.Mean:0.000000} | {d.At95:0.00000} | {d.Most:0.000} | {100 * d.SameBest:0.0} % of {d.Positions} |");
            }
            Console.WriteLine(line);
        }
    }

    private static (int[], int)[] Windows(FlashPackage package, string file, int window)
    {
        int[] ids = TextCodec.FromFiles(package.SideFile)!.Encode(File.ReadAllText(file), parseSpecial: false);
        window = Math.Min(window, Math.Min(ids.Length, package.Config.MaxPositions));
        return [.. Enumerable.Range(0, ids.Length / window).Select(w => (ids[(w * window)..((w + 1) * window)], 0))];
    }

    /// <summary>Each prompt with its greedy continuation: the steps that chose the continuation count.</summary>
    private static (int[], int)[] Prompts(string golden)
    {
        using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(golden));
        return [.. (document.RootElement.TryGetProperty("prompts", out JsonElement all) ? all : document.RootElement.GetProperty("cases")).EnumerateArray()
            .Select(static p => (Ids: Ints(p.TryGetProperty("ids", out JsonElement ids) ? ids : p.GetProperty("prompt_ids")), Greedy: Ints(p.GetProperty("greedy_ids"))))
            .Select(static p => ((int[])[.. p.Ids, .. p.Greedy], p.Ids.Length - 1))];
    }

    private static FlashPackage? Import(Variant variant, string checkpoint, string temporary) => Import(variant, checkpoint, temporary, out _);

    /// <summary>Null where the model's rows do not divide into the format's blocks. The error is that of all kinds that changed, by the numbers in them.</summary>
    private static FlashPackage? Import(Variant variant, string checkpoint, string temporary, out double error)
    {
        string path = Path.Combine(temporary, string.Concat(variant.Name.Where(char.IsAsciiLetterOrDigit)) + ".flash");
        error = 0;
        try
        {
            ImportResult result = Importer.Import(checkpoint, path, new ImportOptions { Name = "m", Quant = variant.Quant, Prepare = variant.Prepare, Formats = c => Formats(c, variant), Measure = false });
            error = result.Errors.Count == 0 ? 0 : Math.Sqrt(result.Errors.Average(static e => e.Mean * e.Mean));
        }
        catch (ModelFormatException e) when (variant.Quant == "q4k")
        {
            Console.Error.WriteLine($"{variant.Name}: {e.Message}");
            return null;
        }
        return FlashPackage.Open(path);
    }

    private static WeightFormats Formats(Checkpoint checkpoint, Variant variant)
    {
        // Here q4 is form A, whatever the rows.
        WeightFormats chosen = variant.Quant == "q4" ? WeightFormat.Q4 : ImportFormats.Choose(checkpoint, variant.Quant, []);
        if (variant.Except is not { } except) return chosen;
        var exceptions = chosen.Exceptions.ToDictionary(static e => e.Key, static e => e.Value);
        foreach (string matrix in except.Matrices.Where(m => !m.StartsWith("layers.", StringComparison.Ordinal) || checkpoint.Has(m))) exceptions[matrix] = except.Format;
        return new WeightFormats(chosen.Most, exceptions);
    }

    /// <summary>Bits on flash per number of a matrix; padding and what is stored twice for speed do not count.</summary>
    private static double BitsPerWeight(FlashPackage package)
    {
        ModelConfig c = package.Config;
        WeightFormats formats = package.Manifest.Weights;
        double bytes = 0, numbers = 0;
        void Add(WeightFormat format, double rows, int cols)
        {
            bytes += rows * WeightLayout.RowBytes(format, cols);
            numbers += rows * cols;
        }
        Add(formats.Of("embed"), c.VocabSize, c.EmbeddingWidth);
        if (!c.TiedHead) Add(formats.Of("head"), c.VocabSize, c.EmbeddingWidth);
        for (int i = 0; i < c.Layers; i++)
        {
            Add(formats.Of(i, "attn.qkv"), c.QkvRows, c.HiddenSize);
            Add(formats.Of(i, "attn.o"), c.HiddenSize, c.Heads * c.HeadDim);
            foreach (string matrix in (string[])["ffn.up", "ffn.down", .. c.Gated ? ["ffn.gate"] : Array.Empty<string>()]) Add(formats.Of(i, matrix), c.NeuronsOf(i), c.HiddenSize);
        }
        return 8 * bytes / numbers;
    }

    /// <summary>Plain rounding, block by block: what the importer's search then finds again without loss.</summary>
    private static RowPreparation Nearest(Action<Span<float>> block) => (_, row) =>
    {
        for (int at = 0; at < row.Length; at += WeightLayout.Block) block(row.Slice(at, WeightLayout.Block));
    };

    /// <summary>The largest number is −8 steps.</summary>
    private static void Symmetric(Span<float> block)
    {
        float largest = 0;
        foreach (float w in block) largest = MathF.Abs(w) > MathF.Abs(largest) ? w : largest;
        float scale = (float)(Half)(largest / -8);
        for (int i = 0; i < block.Length; i++) block[i] = scale == 0 ? 0 : Math.Clamp(MathF.Round(block[i] / scale), -8, 7) * scale;
    }

    /// <summary>The smallest number is step 0, the largest step 15.</summary>
    private static void Asymmetric(Span<float> block)
    {
        float low = block[0], high = block[0];
        foreach (float w in block) (low, high) = (MathF.Min(low, w), MathF.Max(high, w));
        float scale = (float)(Half)((high - low) / 15), minimum = (float)(Half)low;
        for (int i = 0; i < block.Length; i++) block[i] = scale == 0 ? minimum : Math.Clamp(MathF.Round((block[i] - minimum) / scale), 0, 15) * scale + minimum;
    }

    private static void Through(WeightFormat format, Span<float> row)
    {
        byte[] stored = new byte[WeightLayout.RowBytes(format, row.Length)];
        Quantizer.QuantizeRow(format, row, stored);
        Quantizer.DequantizeRow(format, stored, row.Length, row);
    }

    private static int[] Ints(JsonElement array) => [.. array.EnumerateArray().Select(e => e.GetInt32())];
}
