using System.Text.Json;

namespace FlashOrleans.Models.Text;

/// <summary>
/// What is read from the small JSON files beside tokenizer.json. All are optional, and so is every field; a field that is there with the
/// wrong kind, or a file that is no JSON object, is a <see cref="ModelFormatException"/>.
/// </summary>
internal static class SideFile
{
    public static JsonElement? Parse(string name, byte[]? json)
    {
        if (json is null) return null;
        try
        {
            using var document = StrictJson.Parse(json);
            return document.RootElement.ValueKind == JsonValueKind.Object
                ? document.RootElement.Clone()
                : throw new ModelFormatException(name, "the file is not a JSON object");
        }
        catch (JsonException e)
        {
            throw new ModelFormatException(name, $"line {e.LineNumber + 1}, byte {e.BytePositionInLine}: not valid JSON; download or copy the file again", e);
        }
    }

    /// <summary>eos_token_id: absent, one id or a list.</summary>
    public static List<int> EndTokens(string name, byte[]? json)
    {
        var ids = new List<int>();
        if (Parse(name, json) is not { } root || TokenizerFile.Get(root, "eos_token_id") is not { } end) return ids;
        if (end.ValueKind == JsonValueKind.Array) foreach (var item in end.EnumerateArray()) Add(item);
        else Add(end);
        return ids;

        void Add(JsonElement item)
        {
            if (item.ValueKind != JsonValueKind.Number || !item.TryGetInt32(out int id) || id < 0)
                throw new ModelFormatException(name, "eos_token_id is not a token id or a list of them");
            ids.Add(id);
        }
    }

    /// <summary>A token given by name or as an object with its content.</summary>
    public static string? Token(JsonElement? config, string field) =>
        config is { } root && TokenizerFile.Get(root, field) is { } token
            ? token.ValueKind == JsonValueKind.Object ? String(token, "content") : String(root, field)
            : null;

    /// <summary>The chat template: a string, which counts as "default", or a list of named ones.</summary>
    public static string? Template(JsonElement? config, string name)
    {
        if (config is not { } root || TokenizerFile.Get(root, "chat_template") is not { } template) return null;
        if (template.ValueKind != JsonValueKind.Array) return name == "default" ? String(root, "chat_template") : null;
        foreach (var item in template.EnumerateArray())
            if (String(item, "name") == name) return String(item, "template");
        return null;
    }

    private static string? String(JsonElement of, string name)
    {
        if (TokenizerFile.Get(of, name) is not { } value) return null;
        return value.ValueKind == JsonValueKind.String ? value.GetString() : throw new ModelFormatException("tokenizer_config.json", $"\"{name}\" is not a string");
    }
}
