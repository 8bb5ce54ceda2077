using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace FlashOrleans.Models.Hub;

/// <summary>A GGUF file's name: …-00002-of-00003.gguf is a part of a model, everything else a model.</summary>
internal readonly partial record struct GgufName(string Stem, int Part, int Parts)
{
    public static bool Is(string path) => path.EndsWith(".gguf", StringComparison.Ordinal);

    /// <summary>The stem keeps its folder and loses part number and ending.</summary>
    public static GgufName Parse(string path)
    {
        string stem = Is(path) ? path[..^5] : path;
        Match split = SplitName().Match(stem);
        if (!split.Success) return new GgufName(stem, 1, 1);
        int part = int.Parse(split.Groups[1].ValueSpan, CultureInfo.InvariantCulture), parts = int.Parse(split.Groups[2].ValueSpan, CultureInfo.InvariantCulture);
        return part >= 1 && part <= parts ? new GgufName(stem[..split.Index], part, parts) : new GgufName(stem, 1, 1);
    }

    public string PathOfPart(int part) => Parts == 1 ? $"{Stem}.gguf" : string.Create(CultureInfo.InvariantCulture, $"{Stem}-{part:00000}-of-{Parts:00000}.gguf");

    [GeneratedRegex(@"-(\d{5})-of-(\d{5})\z")]
    private static partial Regex SplitName();
}

/// <summary>What of a repository is downloaded: one model, in one format. A GGUF model has a <see cref="Gguf"/>, its first part; a safetensors one may have an index still to be read.</summary>
internal sealed record ModelFiles(IReadOnlyList<HubFile> Files, string? Gguf, HubFile? Index)
{
    /// <summary>Set for a GGUF model: tells its folder from that of another quantisation.</summary>
    public string? Variant { get; init; }
}

/// <summary>Chooses from the listing: safetensors where there are any and nothing else was asked for, else exactly one GGUF model.</summary>
internal static class FileChoice
{
    private const string Single = "model.safetensors", IndexName = "model.safetensors.index.json";
    private static readonly string[] s_beside = ["generation_config.json", "special_tokens_map.json", "chat_template.jinja"];
    /// <summary>Good for its size; and where that is missing, nearest to the source.</summary>
    private static readonly string[] s_preferred = ["Q4_K_M", "Q8_0"];

    public static ModelFiles Choose(HubReference reference, IReadOnlyList<HubFile> tree)
    {
        Dictionary<string, HubFile> byPath = tree.ToDictionary(static f => f.Path, StringComparer.Ordinal);
        List<GgufName> models = [.. tree.Where(static f => GgufName.Is(f.Path)).Select(static f => GgufName.Parse(f.Path)).Where(static n => n.Part == 1)];
        bool weights = byPath.ContainsKey(Single) || byPath.ContainsKey(IndexName);
        if (reference.Choice == null && weights && byPath.ContainsKey("config.json")) return Safetensors(byPath);
        if (models.Count > 0) return Gguf(reference, byPath, models);
        if (reference.Choice != null) throw new HubException($"{reference.Repository} has no GGUF files, so ':{reference.Choice}' chooses nothing{(weights ? "; leave it away for its safetensors" : "")}");
        if (weights) throw new HubException($"{reference.Repository} has safetensors but no config.json, which says how to compute them");
        string? other = tree.Select(static f => f.Path).FirstOrDefault(static p => Path.GetExtension(p) is ".bin" or ".pt" or ".pth" or ".safetensors" or ".h5" or ".msgpack" or ".onnx");
        throw new HubException($"{reference.Repository} holds neither {Single} nor GGUF files{(other == null ? "" : $", only such as {other}, which is not read")}; look for a repository with safetensors or GGUF");
    }

    /// <summary>The index's shards, each of which the listing must have.</summary>
    public static IEnumerable<HubFile> Shards(HubReference reference, IReadOnlyList<HubFile> tree, byte[] index)
    {
        string what = $"{reference.Repository}/{IndexName}";
        var names = new SortedSet<string>(StringComparer.Ordinal);
        try
        {
            using JsonDocument document = JsonDocument.Parse(index);
            if (document.RootElement.ValueKind != JsonValueKind.Object || !document.RootElement.TryGetProperty("weight_map", out JsonElement map) || map.ValueKind != JsonValueKind.Object)
                throw new HubException($"{what} has no weight_map");
            foreach (JsonProperty entry in map.EnumerateObject())
            {
                string? name = entry.Value.ValueKind == JsonValueKind.String ? entry.Value.GetString() : null;
                // A shard is a file beside its index, as the importer demands.
                if (name == null || !RemotePath.IsSafe(name) || name.Contains('/', StringComparison.Ordinal)) throw RemotePath.Refusal(name ?? entry.Value.ToString());
                names.Add(name);
            }
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new HubException($"{what} is not JSON", e);
        }
        Dictionary<string, HubFile> byPath = tree.ToDictionary(static f => f.Path, StringComparer.Ordinal);
        return names.Select(n => byPath.TryGetValue(n, out HubFile? file) ? file : throw new HubException($"{what} names the shard {n}, which the repository does not have"));
    }

    private static ModelFiles Safetensors(Dictionary<string, HubFile> byPath)
    {
        List<HubFile> files = [byPath["config.json"]];
        files.AddRange(byPath.Values.Where(static f => !f.Path.Contains('/', StringComparison.Ordinal)
            && (s_beside.Contains(f.Path) || (f.Path.StartsWith("tokenizer", StringComparison.Ordinal) && f.Path.EndsWith(".json", StringComparison.Ordinal))))
            .OrderBy(static f => f.Path, StringComparer.Ordinal));
        // As the importer: the single file, if there is one, comes before an index.
        bool single = byPath.TryGetValue(Single, out HubFile? weights);
        weights ??= byPath[IndexName];
        files.Add(weights);
        return new ModelFiles(files, null, single ? null : weights);
    }

    private static ModelFiles Gguf(HubReference reference, Dictionary<string, HubFile> byPath, List<GgufName> models)
    {
        GgufName model = Pick(reference, models);
        string name = model.Stem[(model.Stem.LastIndexOf('/') + 1)..];
        var files = new List<HubFile>();
        for (int part = 1; part <= model.Parts; part++)
        {
            string path = model.PathOfPart(part);
            files.Add(byPath.TryGetValue(path, out HubFile? file) ? file : throw new HubException($"{reference.Repository} lacks {path}, a part of the model"));
        }
        return new ModelFiles(files, files[0].Path, null) { Variant = name };
    }

    private static GgufName Pick(HubReference reference, List<GgufName> models)
    {
        if (reference.Choice is { } choice)
        {
            List<GgufName> chosen = GgufName.Is(choice)
                ? [.. models.Where(m => m.Stem == GgufName.Parse(choice).Stem || m.Stem.EndsWith("/" + GgufName.Parse(choice).Stem, StringComparison.Ordinal))]
                : [.. models.Where(m => HasWord(m.Stem, choice))];
            if (chosen.Count == 1) return chosen[0];
            throw new HubException($"{reference.Repository} has {(chosen.Count == 0 ? "no" : "more than one")} model '{choice}'; {Offer(reference, chosen.Count == 0 ? models : chosen)}");
        }
        // Projectors and importance matrices come beside models and are none.
        List<GgufName> usable = [.. models.Where(static m => !HasWord(m.Stem, "mmproj") && !HasWord(m.Stem, "imatrix"))];
        if (usable.Count == 1) return usable[0];
        foreach (string quant in s_preferred)
        {
            List<GgufName> fit = [.. usable.Where(m => HasWord(m.Stem, quant))];
            if (fit.Count == 1) return fit[0];
            if (fit.Count > 1) break;
        }
        throw new HubException($"{reference.Repository} has several models and none that is the obvious one; {Offer(reference, usable)}");
    }

    private static string Offer(HubReference reference, List<GgufName> models)
    {
        const int most = 12;
        IEnumerable<string> names = models.Select(static m => m.PathOfPart(1)).Order(StringComparer.Ordinal);
        return models.Count == 0 ? "it has no GGUF model" : $"choose with {reference.Repository}:FILE, FILE being one of {string.Join(", ", names.Take(most))}{(models.Count > most ? ", …" : "")}";
    }

    /// <summary>"Q4_K" is in model-Q4_K.gguf, and not in model-Q4_K_M.gguf or model-IQ4_K.gguf.</summary>
    private static bool HasWord(string stem, string word)
    {
        for (int at = 0; (at = stem.IndexOf(word, at, StringComparison.OrdinalIgnoreCase)) >= 0; at++)
        {
            int end = at + word.Length;
            if ((at == 0 || !char.IsAsciiLetterOrDigit(stem[at - 1])) && (end == stem.Length || !(char.IsAsciiLetterOrDigit(stem[end]) || stem[end] == '_'))) return true;
        }
        return false;
    }
}
