using System.Globalization;
using System.Numerics;
using System.Text.Json;

namespace FlashOrleans.Models.Templates;

/// <summary>JSON to values, all of it foreign. Numbers with a point or exponent are real, the others whole, as Python's json reads them.</summary>
internal static class ValueReader
{
    /// <summary>Roles are words of the template's language, not of a user: some templates build a marker around them.</summary>
    private static readonly string[] s_roles = ["system", "user", "assistant", "tool", "developer", "function", "ipython", "model", "tool_results", "observation"];

    public static Value Read(JsonElement json)
    {
        switch (json.ValueKind)
        {
            case JsonValueKind.Object:
                var map = new MapValue();
                foreach (var property in json.EnumerateObject())
                    map.With(new TextValue(Text(() => property.Name), foreign: true), property.NameEquals("role") && property.Value.ValueKind == JsonValueKind.String ? Role(Text(property.Value.GetString)) : Read(property.Value));
                return map;
            case JsonValueKind.Array:
                var items = new List<Value>(json.GetArrayLength());
                foreach (var item in json.EnumerateArray()) items.Add(Read(item));
                return new ListValue(items);
            case JsonValueKind.String: return new TextValue(Text(json.GetString), foreign: true);
            case JsonValueKind.Number: return ReadNumber(json.GetRawText());
            case JsonValueKind.True: return BooleanValue.True;
            case JsonValueKind.False: return BooleanValue.False;
            default: return NoneValue.Instance;
        }
    }

    public static TextValue Role(string role) => new(role, foreign: !s_roles.Contains(role));

    private static Value ReadNumber(string raw) => raw.AsSpan().IndexOfAny('.', 'e', 'E') >= 0
        ? new RealValue(double.Parse(raw, NumberStyles.Float, CultureInfo.InvariantCulture))
        : raw.Length > 1200 ? throw new TemplateException("a number of the input has too many digits") : new IntegerValue(BigInteger.Parse(raw, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture));

    private static string Text(Func<string?> read)
    {
        try
        {
            return read() ?? "";
        }
        catch (InvalidOperationException e)
        {
            throw new TemplateException("a string of the input has half of a surrogate pair", e);
        }
    }
}
