using System.Buffers;
using System.Text.Json;

namespace FlashOrleans.Models.Text;

/// <summary>
/// The tokenizer of a GGUF file as its metadata say it, filled by whoever reads the file; and the side file <c>tokenizer.gguf.json</c> in which a package keeps it,
/// which opens again to the same tokenizer. What is absent in the file is null or empty here; <see cref="GgufVocabulary"/> knows the defaults and does the checking.
/// </summary>
public sealed record VocabularySource
{
    public const string FileName = "tokenizer.gguf.json";
    private const int Format = 1;

    /// <summary>tokenizer.ggml.model: "llama" or "gpt2".</summary>
    public required string Model { get; init; }
    /// <summary>tokenizer.ggml.pre.</summary>
    public string? Pre { get; init; }
    /// <summary>general.name: Phi-3's tokens strip white space after them, and only the name tells.</summary>
    public string? Name { get; init; }
    public required IReadOnlyList<string> Tokens { get; init; }
    public IReadOnlyList<float> Scores { get; init; } = [];
    /// <summary>tokenizer.ggml.token_type: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. Empty: all normal.</summary>
    public IReadOnlyList<int> TokenTypes { get; init; } = [];
    /// <summary>Two parts with a space between.</summary>
    public IReadOnlyList<string> Merges { get; init; } = [];
    public int? Bos { get; init; }
    public int? Eos { get; init; }
    public int? Eot { get; init; }
    public int? Unknown { get; init; }
    public int? Padding { get; init; }
    public bool? AddBos { get; init; }
    public bool? AddEos { get; init; }
    public bool? AddSpacePrefix { get; init; }
    /// <summary>tokenizer.chat_template.</summary>
    public string? ChatTemplate { get; init; }

    public byte[] ToJson()
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer, new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            json.WriteNumber("format", Format);
            json.WriteString("model", Model);
            Texts(("pre", Pre), ("name", Name), ("chat_template", ChatTemplate));
            foreach (var (name, id) in (ReadOnlySpan<(string, int?)>)[("bos", Bos), ("eos", Eos), ("eot", Eot), ("unknown", Unknown), ("padding", Padding)])
                if (id is { } value) json.WriteNumber(name, value);
            foreach (var (name, flag) in (ReadOnlySpan<(string, bool?)>)[("add_bos", AddBos), ("add_eos", AddEos), ("add_space_prefix", AddSpacePrefix)])
                if (flag is { } value) json.WriteBoolean(name, value);
            List("tokens", Tokens, json.WriteStringValue);
            List("token_types", TokenTypes, json.WriteNumberValue);
            List("scores", Scores, json.WriteNumberValue);
            List("merges", Merges, json.WriteStringValue);
            json.WriteEndObject();

            void Texts(params ReadOnlySpan<(string, string?)> values)
            {
                foreach (var (name, value) in values)
                    if (value is not null) json.WriteString(name, value);
            }

            void List<T>(string name, IReadOnlyList<T> values, Action<T> write)
            {
                json.WriteStartArray(name);
                foreach (var value in values) write(value);
                json.WriteEndArray();
            }
        }
        return buffer.WrittenSpan.ToArray();
    }

    /// <summary>Reads what <see cref="ToJson"/> wrote.</summary>
    public static VocabularySource Parse(byte[] json)
    {
        ArgumentNullException.ThrowIfNull(json);
        try
        {
            using var document = JsonDocument.Parse(json);
            var root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object) throw Bad("the file is not a JSON object");
            if (Int(root, "format") is not Format) throw Bad($"the file is not of format {Format}; import the model again");
            return new()
            {
                Model = String(root, "model") ?? throw Bad("\"model\" is missing"),
                Pre = String(root, "pre"),
                Name = String(root, "name"),
                ChatTemplate = String(root, "chat_template"),
                Bos = Int(root, "bos"),
                Eos = Int(root, "eos"),
                Eot = Int(root, "eot"),
                Unknown = Int(root, "unknown"),
                Padding = Int(root, "padding"),
                AddBos = Flag(root, "add_bos"),
                AddEos = Flag(root, "add_eos"),
                AddSpacePrefix = Flag(root, "add_space_prefix"),
                Tokens = List(root, "tokens", JsonValueKind.String, static e => e.GetString()!),
                TokenTypes = List(root, "token_types", JsonValueKind.Number, static e => e.TryGetInt32(out int type) ? type : throw Bad("token_types holds a number that is no type")),
                Scores = List(root, "scores", JsonValueKind.Number, static e => e.TryGetSingle(out float score) ? score : throw Bad("scores holds a number that is no score")),
                Merges = List(root, "merges", JsonValueKind.String, static e => e.GetString()!),
            };
        }
        catch (JsonException e)
        {
            throw ModelFormatException.NotJson(FileName, "the file ", e);
        }
        catch (InvalidOperationException e)
        {
            // What JsonElement throws for a string that is no valid Unicode.
            throw new ModelFormatException(FileName, $"a value is no valid text ({e.Message})", e);
        }
    }

    private static ModelFormatException Bad(string what) => new(FileName, what);

    private static string? String(JsonElement root, string name) => TokenizerFile.Get(root, name) is not { } value ? null
        : value.ValueKind == JsonValueKind.String ? value.GetString() : throw Bad($"\"{name}\" is not a string");

    private static int? Int(JsonElement root, string name) => TokenizerFile.Get(root, name) is not { } value ? null
        : value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int number) ? number : throw Bad($"\"{name}\" is not a whole number");

    private static bool? Flag(JsonElement root, string name) => TokenizerFile.Get(root, name) is not { } value ? null
        : value.ValueKind is JsonValueKind.True or JsonValueKind.False ? value.GetBoolean() : throw Bad($"\"{name}\" is not true or false");

    private static T[] List<T>(JsonElement root, string name, JsonValueKind kind, Func<JsonElement, T> read)
    {
        if (TokenizerFile.Get(root, name) is not { } list) return [];
        if (list.ValueKind != JsonValueKind.Array) throw Bad($"\"{name}\" is not an array");
        var values = new T[list.GetArrayLength()];
        int next = 0;
        foreach (var element in list.EnumerateArray())
            values[next++] = element.ValueKind == kind ? read(element) : throw Bad($"\"{name}\"[{next - 1}] has the wrong kind");
        return values;
    }
}
