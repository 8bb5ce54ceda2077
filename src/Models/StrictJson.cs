using System.Text.Json;
using System.Text.Unicode;

namespace FlashOrleans.Models;

/// <summary>
/// JSON of a small file that a stranger wrote, whose every name and string can be asked for. <see cref="JsonDocument"/> looks at the text of a string only then, and throws what
/// nobody expects of a file that was parsed. Any thread; failure is a <see cref="JsonException"/> with its place.
/// </summary>
internal static class StrictJson
{
    public static JsonDocument Parse(byte[] json, JsonDocumentOptions options = default)
    {
        // First: the parser itself trips over such a name where it looks for those given twice.
        DemandText(json);
        return JsonDocument.Parse(json, options);
    }

    private static void DemandText(byte[] json)
    {
        bool utf8 = Utf8.IsValid(json);
        var reader = new Utf8JsonReader(json);
        while (reader.Read())
        {
            if (reader.TokenType is not (JsonTokenType.String or JsonTokenType.PropertyName) || utf8 && !reader.ValueIsEscaped) continue;
            try
            {
                reader.GetString();
            }
            catch (InvalidOperationException e)
            {
                ReadOnlySpan<byte> before = json.AsSpan(0, (int)reader.TokenStartIndex);
                throw new JsonException("a string is no valid text", null, before.Count((byte)'\n'), before.Length - before.LastIndexOf((byte)'\n') - 1, e);
            }
        }
    }
}
