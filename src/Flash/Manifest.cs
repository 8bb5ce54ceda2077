using System.IO.Hashing;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.RegularExpressions;

namespace FlashOrleans.Flash;

/// <summary>Where a package came from: for people and for bug reports. Part of the package's identity.</summary>
public sealed record Provenance
{
    /// <summary>What was imported: a path, a repository.</summary>
    public required string Source { get; init; }
    public IReadOnlyList<SourceFile> Files { get; init; } = [];
    /// <summary>The program that wrote the package: "flash 0.1.0".</summary>
    public required string Tool { get; init; }
    /// <summary>The weights are random, of this seed; null: they are a model's.</summary>
    public ulong? SyntheticSeed { get; init; }
}

/// <summary>A file of the checkpoint that was imported.</summary>
public sealed record SourceFile(string Name, long Bytes, string Sha256);

/// <summary>What the model did with a short text before it got its name. For people, and for choices; nothing that runs depends on it.</summary>
public sealed record Measured
{
    /// <summary>Tokens it was run on.</summary>
    public required int Tokens { get; init; }
    /// <summary>Per layer: share of feed-forward neurons, over tokens, that were exactly zero; with experts, of those the tokens used.</summary>
    public required IReadOnlyList<double> Zeros { get; init; }
    /// <summary>Mean negative log-likelihood of the text; null where there is no tokenizer: the tokens are no text then.</summary>
    public double? Nll { get; init; }
    /// <summary>The activation that was tried too (gated relu and silu are told apart by nothing but a name), and the text's mean negative log-likelihood with it.</summary>
    public Activation? Other { get; init; }
    public double? OtherNll { get; init; }
    /// <summary>With the other one the text is foretold clearly better: the model was trained with that.</summary>
    public bool OtherFits { get; init; }
}

/// <summary>edge.bin or a slice as the manifest knows it: <paramref name="Header"/> is XxHash128 of the first page, which holds every other checksum of the file.</summary>
public sealed record ManifestFile(string Path, long Bytes, string Header);

/// <summary>A file carried along unread, such as tokenizer.json.</summary>
public sealed record ManifestSideFile(string Name, long Bytes, string Xxh128);

/// <summary>
/// manifest.json: what the package is and a checksum of everything in it. Its last property is the XxHash128 of all bytes before it,
/// which is also the package's hash: one number stands for every byte of the package. Immutable; any thread.
/// </summary>
public sealed partial record Manifest
{
    public const int CurrentVersion = LeanVersion;
    /// <summary>Versions are those of what is in a package: nothing but neurons row by row; feed-forwards that are never sparse, which lie in slabs (<see cref="BundleLayout.Slabs"/>); lean bundles.</summary>
    internal const int RowsVersion = 2, SlabVersion = 4, LeanVersion = 5;
    /// <summary>Whether packages of a version open; there was a 3, of nothing but feed-forwards that lie otherwise today.</summary>
    internal static bool IsKnown(int version) => version is >= 1 and <= RowsVersion or SlabVersion or LeanVersion;
    /// <summary>Those, in words.</summary>
    internal const string KnownVersions = "1, 2, 4 and 5";
    public const string FormatTag = "flashorleans";
    public const int MaxBytes = 16 << 20;
    public const int MaxSideFileBytes = 256 << 20;
    private const string HashKey = "\"hash\": \"";
    private const string HashEnd = "\"\n}\n";
    private const int TailBytes = 9 + 32 + 4;

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        WriteIndented = true,
        NewLine = "\n",
        RespectNullableAnnotations = true,
        RespectRequiredConstructorParameters = true,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.CamelCase, allowIntegerValues: false) },
    };

    public string Format { get; init; } = FormatTag;
    public int FormatVersion { get; init; } = CurrentVersion;
    public required string Name { get; init; }
    public required ModelConfig Model { get; init; }
    /// <summary>"f32", "bf16", "q8", "q4", "q4b" or "q4k": the format of every matrix.</summary>
    public required string Quant { get; init; }
    /// <summary>Sections start at multiples of this.</summary>
    public required int Alignment { get; init; }
    /// <summary>Exceptions to <see cref="Quant"/>: matrix ("ffn.down", "layers.3.ffn.down") and format. Since version 2.</summary>
    public IReadOnlyDictionary<string, string>? Formats { get; init; }
    /// <summary>Neurons per unit of read, in layer 0; each slice says its own.</summary>
    public required int Group { get; init; }
    /// <summary>Distance of units, in layer 0.</summary>
    public required int Stride { get; init; }
    /// <summary>"selector": slices hold the deciding rows once more, resident (ReLU models). "none".</summary>
    public required string Predictor { get; init; }
    /// <summary>Trained predictors, or null. Readers that do not know them compute the same without them.</summary>
    public PredictorConfig? Predictors { get; init; }
    /// <summary>Random weights: the statistics that their sets of active neurons are drawn with; null where the weights decide.</summary>
    public ActivityConfig? Activity { get; init; }
    /// <summary>Random weights: the locality that their experts are drawn with; null where the router decides.</summary>
    public RoutingConfig? Routing { get; init; }
    /// <summary>Order of the neurons on flash: "identity", or "popularity": those that were active most often on a text first. Then each slice says which neuron of the checkpoint is where.</summary>
    public required string Permutation { get; init; }
    /// <summary>"lean": bundles lack the rows that decide, which are in the selector alone. Null: they hold every row. Since version 5.</summary>
    public string? Bundles { get; init; }
    public required IReadOnlyList<ManifestSideFile> SideFiles { get; init; }
    public required IReadOnlyList<ManifestFile> Files { get; init; }
    public required Provenance Provenance { get; init; }
    /// <summary>Null where it was not measured, as in packages of earlier builds.</summary>
    public Measured? Measured { get; init; }

    /// <summary>32 hex digits over the manifest: the identity of the package.</summary>
    [JsonIgnore] public string Hash { get; init; } = "";
    [JsonIgnore] public WeightFormats Weights => field ??= new WeightFormats(Parse(Quant), Formats?.Select(f => KeyValuePair.Create(f.Key, Parse(f.Value))));
    [JsonIgnore] public bool Lean => Bundles == PackageLayout.LeanBundles;
    [JsonIgnore] public long Bytes => Files.Sum(static f => f.Bytes) + SideFiles.Sum(static f => f.Bytes);

    /// <summary>The bytes of manifest.json, hash included.</summary>
    public byte[] Encode()
    {
        string body = JsonSerializer.Serialize(this, Json);
        byte[] hashed = Encoding.UTF8.GetBytes(string.Concat(body.AsSpan(0, body.LastIndexOf('}')).TrimEnd(), ",\n  "));
        string tail = HashKey + Convert.ToHexStringLower(XxHash128.Hash(hashed)) + HashEnd;
        return [.. hashed, .. Encoding.ASCII.GetBytes(tail)];
    }

    /// <summary>Parses and checks everything that can be checked without the other files.</summary>
    public static Manifest Decode(byte[] bytes, string file)
    {
        // The version first: another version may hash and name things differently, and must hear what to do, not that it is damaged.
        CheckVersion(bytes, file);
        string hash = CheckHash(bytes, file);
        try
        {
            Manifest manifest = (JsonSerializer.Deserialize<Manifest>(bytes, Json) ?? throw new FlashException(file, 0, "empty manifest")) with { Hash = hash };
            manifest.Check();
            return manifest;
        }
        catch (JsonException e)
        {
            throw new FlashException($"{file} line {e.LineNumber + 1}: {OneLine(e.Message)}", e);
        }
        catch (FlashException e)
        {
            throw new FlashException($"{file}: {e.Message}", e);
        }
    }

    private static void CheckVersion(byte[] bytes, string file)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(bytes);
            JsonElement root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty("format", out JsonElement format) || format.ValueKind != JsonValueKind.String || !format.ValueEquals(FormatTag))
                throw new FlashException($"{file}: not the manifest of a flash package (\"format\" is not \"{FormatTag}\")");
            if (!root.TryGetProperty("formatVersion", out JsonElement version) || version.ValueKind != JsonValueKind.Number || !version.TryGetInt32(out int number))
                throw new FlashException($"{file}: \"formatVersion\" is missing or no number");
            if (!IsKnown(number))
            {
                throw new FlashException($"{file}: the package has format version {number}, this build reads {KnownVersions}: "
                    + (number > CurrentVersion ? "use a newer flash, or import the model again" : "import the model again") + " (flash import PATH --name NAME)");
            }
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new FlashException($"{file}: not readable as JSON: {OneLine(e.Message)}", e);
        }
    }

    private static string CheckHash(byte[] bytes, string file)
    {
        int at = bytes.Length - TailBytes;
        ReadOnlySpan<byte> tail = at < 0 ? default : bytes.AsSpan(at);
        if (at < 0 || !tail[..9].SequenceEqual(Encoding.ASCII.GetBytes(HashKey)) || !tail[41..].SequenceEqual(Encoding.ASCII.GetBytes(HashEnd)))
            throw new FlashException(file, Math.Max(at, 0), "the manifest does not end with its \"hash\": it is truncated or was edited");
        string recorded = Encoding.ASCII.GetString(tail.Slice(9, 32)), actual = Convert.ToHexStringLower(XxHash128.Hash(bytes.AsSpan(0, at)));
        return recorded == actual ? actual : throw new FlashException(file, at, $"the manifest is damaged or was edited (hash {actual}, recorded {recorded})");
    }

    private static WeightFormat Parse(string name) =>
        PackageLayout.TryParseFormat(name, out WeightFormat format) ? format : throw new FlashException($"quantisation '{Printable(name)}' is none this version knows");

    private void Check()
    {
        if (!PackageStore.IsValidName(Name)) throw new FlashException($"the name '{Printable(Name)}' is not made of letters, digits, '.', '_' and '-'");
        WeightFormats formats = Weights;
        if (Formats?.Keys.FirstOrDefault(k => k is not { Length: > 0 and <= 64 }) is { } odd) throw new FlashException($"'{Printable(odd)}' is no matrix");
        PackageLayout.Validate(Model, formats);
        if (FormatVersion < SlabVersion && VersionOf(Model) == SlabVersion)
            throw new FlashException($"the package has format version {FormatVersion}, in which feed-forwards that use all of their neurons lay otherwise: import the model again (flash import PATH --name NAME)");
        if (Alignment is not (512 or 4096)) throw new FlashException($"alignment {Alignment} is neither 512 nor 4096");
        if (Bundles != null) CheckLean();
        else if (Model.Experts is { ByNeuron: true }) throw new FlashException("neurons of experts are read one by one from lean bundles; these are whole");
        BundleLayout bundles = BundleLayout.For(this, 0);
        if (Group != bundles.Group || Stride != bundles.Stride)
            throw new FlashException($"groups of {Group} with stride {Stride} do not fit the model, which needs {bundles.Group} and {bundles.Stride}");
        string predictor = PredictorOf(Model);
        if (Predictor != predictor) throw new FlashException($"predictor '{Printable(Predictor)}' where this model has '{predictor}'");
        Predictors?.Check(Model);
        Activity?.Check(Model);
        Routing?.Check(Model);
        if (Permutation is not (PackageLayout.Identity or PackageLayout.Popularity)) throw new FlashException($"neuron order '{Printable(Permutation)}' is none this version knows");
        if (Permutation != PackageLayout.Identity && (PredictorOf(Model) == "none" || Model.Experts != null)) throw new FlashException($"neuron order '{Permutation}' is of ReLU models without experts");
        if (Files.Count != Model.Layers + 1) throw new FlashException($"{Files.Count} files listed for an edge file and {Model.Layers} layers");
        long least = 0;
        for (int i = 0; i < Files.Count; i++)
        {
            ManifestFile file = Files[i] ?? throw new FlashException($"file {i} is null");
            string expected = i == 0 ? PackageLayout.EdgePath : PackageLayout.SlicePath(i - 1);
            if (file.Path != expected) throw new FlashException($"file {i} is '{Printable(file.Path)}', expected {expected}");
            // Without exceptions, experts and predictors every layer is like the first.
            if (i < 2 || formats.Exceptions.Count > 0 || Model.Experts != null || Predictors != null)
                least = PackageLayout.FileBytes(i == 0 ? PackageLayout.Edge(Model, formats) : PackageLayout.Slice(this, i - 1), Alignment);
            if (file.Bytes < least || file.Bytes % PackageLayout.Page != 0 || file.Bytes > 1L << 50)
                throw new FlashException($"{expected} is listed with {file.Bytes} bytes; a file of this model has at least {least}, in pages of {PackageLayout.Page}");
            if (!IsHash(file.Header)) throw new FlashException($"{expected} is listed without a header hash of 32 hex digits");
        }
        foreach (SourceFile? source in Provenance.Files)
        {
            if (source is null) throw new FlashException("a source file is null");
        }
        if (Measured is { } m && (m.Zeros.Count != Model.Layers || m.Zeros.Any(static z => !(z is >= 0 and <= 1)))) throw new FlashException($"measured zeros are listed that are not one share for each of {Model.Layers} layers");
        HashSet<string> names = new(StringComparer.OrdinalIgnoreCase) { PackageLayout.ManifestPath, PackageLayout.EdgePath, "layers" };
        foreach (ManifestSideFile? side in SideFiles)
        {
            if (side is null || !PackageStore.IsValidName(side.Name) || !names.Add(side.Name)) throw new FlashException($"'{Printable(side?.Name)}' cannot be the name of a side file");
            if (side.Bytes is < 0 or > MaxSideFileBytes) throw new FlashException($"side file {side.Name} is listed with {side.Bytes} bytes");
            if (!IsHash(side.Xxh128)) throw new FlashException($"side file {side.Name} is listed without a hash of 32 hex digits");
        }
    }

    /// <summary>The version that packages of such a model are written in: the oldest that can say what is in them.</summary>
    internal static int VersionOf(ModelConfig config, bool lean = false)
    {
        if (lean) return LeanVersion;
        for (int i = 0; i < config.Layers; i++)
            if (!config.HasSelector(i)) return SlabVersion;
        return RowsVersion;
    }

    /// <summary>Lean bundles need a selector in every layer, which has what they lack, and none who reads whole ones. Builds that know of no experts in them see a layer without a selector.</summary>
    private void CheckLean()
    {
        if (!Lean) throw new FlashException($"bundles '{Printable(Bundles)}' are none this version knows");
        if (FormatVersion < LeanVersion) throw new FlashException($"the package has format version {FormatVersion}, in which bundles hold every row of a neuron; lean ones came with version {LeanVersion}");
        for (int i = 0; i < Model.Layers; i++)
            if (!Model.HasSelector(i)) throw new FlashException("lean bundles are of ReLU models, whose deciding rows are resident");
        if (Predictors != null) throw new FlashException("lean bundles lack the rows that who goes by predictors reads");
    }

    internal static string PredictorOf(ModelConfig config) => config.HasSelector(0) ? "selector" : "none";

    internal static string OneLine(string text) => text.ReplaceLineEndings(" ");

    internal static string Printable(string? text) => text is null ? "" : OneLine(text.Length > 80 ? text[..80] : text);

    private static bool IsHash(string text) => HashPattern().IsMatch(text);

    [GeneratedRegex(@"\A[0-9a-f]{32}\z")]
    private static partial Regex HashPattern();
}
