using System.Globalization;
using System.Numerics;

namespace FlashOrleans.Models.Templates;

/// <summary>Numbers out of strings as Python's int() and float() read them.</summary>
internal static class Numerals
{
    public static bool TryInteger(string text, RenderBudget budget, out BigInteger number)
    {
        number = default;
        return Clean(text, budget) is { } digits && BigInteger.TryParse(digits, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out number);
    }

    public static bool TryReal(string text, RenderBudget budget, out double number)
    {
        number = 0;
        if (Clean(text, budget) is not { } digits) return false;
        switch (digits.TrimStart('+', '-').ToUpperInvariant())
        {
            case "INF" or "INFINITY":
                number = digits[0] == '-' ? double.NegativeInfinity : double.PositiveInfinity;
                return true;
            case "NAN":
                number = double.NaN;
                return true;
        }
        return digits.AsSpan().IndexOfAny('n', 'N', 'i') < 0
            && double.TryParse(digits, NumberStyles.AllowLeadingSign | NumberStyles.AllowDecimalPoint | NumberStyles.AllowExponent, CultureInfo.InvariantCulture, out number);
    }

    /// <summary>Without white space around and underscores between digits; null for what is too long to be a number.</summary>
    private static string? Clean(string text, RenderBudget budget)
    {
        budget.Look(text.Length);
        text = text.Trim();
        if (text.Length is 0 or > 1000 || text[0] == '_' || text[^1] == '_' || text.Contains("__", StringComparison.Ordinal)) return null;
        return text.Replace("_", "", StringComparison.Ordinal);
    }
}
