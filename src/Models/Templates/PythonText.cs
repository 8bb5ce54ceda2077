using System.Globalization;
using System.Numerics;
using TextBuilder = FlashOrleans.Models.Templates.TextValue.TextBuilder;

namespace FlashOrleans.Models.Templates;

/// <summary>Values as Python prints them: <c>str()</c> outside, <c>repr()</c> inside lists and mappings. All but strings count as foreign text.</summary>
internal static class PythonText
{
    public static TextValue Print(Value value, RenderBudget budget)
    {
        if (value is TextValue text) return text;
        if (value is UndefinedValue) return TextValue.Empty;
        var builder = new TextBuilder(budget);
        Write(value, builder, budget);
        return builder.ToText();
    }

    public static TextValue Repr(Value value, RenderBudget budget)
    {
        var builder = new TextBuilder(budget);
        Write(value, builder, budget);
        return builder.ToText();
    }

    private static void Write(Value value, TextBuilder to, RenderBudget budget)
    {
        budget.Enter();
        switch (value)
        {
            case TextValue text:
                to.Append(Quote(text.Chars, budget), foreign: true);
                break;
            case ListValue list:
                bool tuple = list.Kind == ListKind.Tuple;
                to.Append(tuple ? "(" : "[", foreign: true);
                for (int i = 0; i < list.Items.Count; i++)
                {
                    if (i > 0) to.Append(", ", foreign: true);
                    Write(list.Items[i], to, budget);
                }
                to.Append(tuple ? list.Items.Count == 1 ? ",)" : ")" : "]", foreign: true);
                break;
            case MapValue map:
                to.Append("{", foreign: true);
                bool first = true;
                foreach (var (key, item) in map.Entries)
                {
                    if (!first) to.Append(", ", foreign: true);
                    first = false;
                    Write(key, to, budget);
                    to.Append(": ", foreign: true);
                    Write(item, to, budget);
                }
                to.Append("}", foreign: true);
                break;
            default:
                to.Append(Plain(value), foreign: true);
                break;
        }
        budget.Leave();
    }

    private static string Plain(Value value) => value switch
    {
        NoneValue => "None",
        BooleanValue flag => flag == BooleanValue.True ? "True" : "False",
        IntegerValue whole => Number.Print(whole.Number),
        RealValue real => Real(real.Number),
        UndefinedValue => "Undefined",
        FunctionValue function => $"<function {function.Name}>",
        _ => $"<{value.TypeName}>",
    };

    /// <summary>Shortest digits that read back the same, with an exponent below 1e-4 and from 1e16 on.</summary>
    public static string Real(double value)
    {
        if (double.IsNaN(value)) return "nan";
        if (double.IsInfinity(value)) return value > 0 ? "inf" : "-inf";
        string text = value.ToString("R", CultureInfo.InvariantCulture);
        string sign = text[0] == '-' ? "-" : "";
        string digits = text[sign.Length..];
        int exponent = 0, e = digits.IndexOf('E', StringComparison.Ordinal);
        if (e >= 0)
        {
            exponent = int.Parse(digits.AsSpan(e + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
            digits = digits[..e];
        }
        int dot = digits.IndexOf('.', StringComparison.Ordinal);
        int point = (dot < 0 ? digits.Length : dot) + exponent;
        digits = digits.Replace(".", "", StringComparison.Ordinal);
        int zeros = digits.Length - digits.TrimStart('0').Length;
        digits = digits[zeros..].TrimEnd('0');
        point -= zeros;
        if (digits.Length == 0) return sign + "0.0";
        if (point is > -4 and <= 16)
        {
            if (point <= 0) return $"{sign}0.{new string('0', -point)}{digits}";
            return digits.Length <= point ? $"{sign}{digits.PadRight(point, '0')}.0" : $"{sign}{digits[..point]}.{digits[point..]}";
        }
        int power = point - 1;
        string mantissa = digits.Length == 1 ? digits : $"{digits[0]}.{digits[1..]}";
        return $"{sign}{mantissa}e{(power < 0 ? '-' : '+')}{Math.Abs(power).ToString("00", CultureInfo.InvariantCulture)}";
    }

    /// <summary>With so many digits behind the point, correctly rounded from the exact value, ties to even.</summary>
    public static string Fixed(double value, int digits)
    {
        if (!double.IsFinite(value)) return Real(value);
        var scaled = Scale(value, digits);
        string text = Number.Print(BigInteger.Abs(scaled)).PadLeft(Math.Max(digits, 0) + 1, '0');
        string sign = double.IsNegative(value) ? "-" : "";
        return digits <= 0 ? sign + text + new string('0', scaled.IsZero ? 0 : -digits) : $"{sign}{text[..^digits]}.{text[^digits..]}";
    }

    /// <summary>Python's round(): digits may be negative.</summary>
    public static double Round(double value, int digits)
    {
        if (!double.IsFinite(value) || digits > 330) return value;
        if (digits < -330) return Math.CopySign(0, value);
        return double.Parse(Fixed(value, digits), NumberStyles.Float, CultureInfo.InvariantCulture);
    }

    /// <summary>value · 10^digits to the nearest whole number, exactly.</summary>
    private static BigInteger Scale(double value, int digits)
    {
        long bits = BitConverter.DoubleToInt64Bits(value);
        int exponent = (int)((bits >> 52) & 0x7FF);
        BigInteger numerator = exponent == 0 ? bits & 0xFFFFFFFFFFFFF : (bits & 0xFFFFFFFFFFFFF) | (1L << 52), denominator = BigInteger.One;
        exponent = Math.Max(exponent, 1) - 1075;
        if (exponent > 0) numerator <<= exponent;
        else denominator <<= -exponent;
        if (digits > 0) numerator *= BigInteger.Pow(10, digits);
        else denominator *= BigInteger.Pow(10, -digits);
        var whole = BigInteger.DivRem(numerator, denominator, out var rest);
        int half = (rest * 2).CompareTo(denominator);
        return half > 0 || (half == 0 && !whole.IsEven) ? whole + 1 : whole;
    }

    private static string Quote(string text, RenderBudget budget)
    {
        budget.Make(text.Length + 2);
        char quote = text.Contains('\'', StringComparison.Ordinal) && !text.Contains('"', StringComparison.Ordinal) ? '"' : '\'';
        var quoted = new System.Text.StringBuilder(text.Length + 2).Append(quote);
        for (int i = 0; i < text.Length; i++)
        {
            char c = text[i];
            if (c == quote || c == '\\') quoted.Append('\\').Append(c);
            else if (c is '\n' or '\r' or '\t') quoted.Append('\\').Append(c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
            else if (c is >= ' ' and < '\x7f') quoted.Append(c);
            else if (i + 1 < text.Length && char.IsSurrogatePair(c, text[i + 1]))
            {
                int point = char.ConvertToUtf32(c, text[++i]);
                if (IsPrintable(CharUnicodeInfo.GetUnicodeCategory(point))) quoted.Append(c).Append(text[i]);
                else quoted.Append(CultureInfo.InvariantCulture, $"\\U{point:x8}");
            }
            else if (IsPrintable(CharUnicodeInfo.GetUnicodeCategory(c))) quoted.Append(c);
            else if (c <= 0xFF) quoted.Append(CultureInfo.InvariantCulture, $"\\x{(int)c:x2}");
            else quoted.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}");
        }
        return quoted.Append(quote).ToString();
    }

    private static bool IsPrintable(UnicodeCategory category) => category is not (UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate
        or UnicodeCategory.PrivateUse or UnicodeCategory.OtherNotAssigned or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator or UnicodeCategory.SpaceSeparator);
}
