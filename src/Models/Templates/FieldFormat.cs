using System.Globalization;
using System.Numerics;

namespace FlashOrleans.Models.Templates;

/// <summary>One number or text in a field of Python's formatting, by percent signs or braces: sign, width, precision, alignment.</summary>
internal readonly record struct FieldFormat
{
    /// <summary>More than any template needs, and little memory.</summary>
    public const int MaxWidth = 10_000, MaxPrecision = 400;

    public char Fill { get; init; }
    /// <summary>&lt;, &gt;, ^, = (zeros behind the sign) or 0: by type.</summary>
    public char Align { get; init; }
    public char Sign { get; init; }
    public bool Alternate { get; init; }
    public bool Grouped { get; init; }
    public int Width { get; init; }
    /// <summary>-1: none.</summary>
    public int Precision { get; init; }
    /// <summary>d x X o b f F e E g G % s, or 0.</summary>
    public char Type { get; init; }

    public string Format(Number number)
    {
        string digits;
        bool negative;
        if (Type is 'd' or 'x' or 'X' or 'o' or 'b' || (Type == '\0' && !number.IsReal))
        {
            if (number.IsReal) throw new TemplateException($"the format '{Type}' needs a whole number");
            negative = number.Whole < 0;
            var size = BigInteger.Abs(number.Whole);
            digits = Type switch { 'x' => Radix(size, 16), 'X' => Radix(size, 16).ToUpperInvariant(), 'o' => Radix(size, 8), 'b' => Radix(size, 2), _ => Number.Print(size) };
            if (Alternate && Type is 'x' or 'X' or 'o' or 'b') digits = $"0{Type}{digits}";
        }
        else
        {
            double value = number.AsReal;
            negative = double.IsNegative(value) && !double.IsNaN(value);
            digits = Real(Math.Abs(value));
        }
        if (Grouped)
        {
            int end = digits.AsSpan().IndexOfAnyExceptInRange('0', '9');
            for (int at = (end < 0 ? digits.Length : end) - 3; at > 0; at -= 3) digits = digits.Insert(at, ",");
        }
        string sign = negative ? "-" : Sign is '+' or ' ' ? Sign.ToString() : "";
        int missing = Width - sign.Length - digits.Length;
        return Align == '=' && missing > 0 ? sign + new string(Fill == '\0' ? ' ' : Fill, missing) + digits : Pad(sign + digits, '>');
    }

    public string Pad(string text, char align)
    {
        int missing = Width - text.Length;
        if (missing <= 0) return text;
        char fill = Fill == '\0' ? ' ' : Fill;
        return (Align is '<' or '>' or '^' ? Align : align) switch
        {
            '<' => text + new string(fill, missing),
            '^' => new string(fill, missing / 2) + text + new string(fill, missing - missing / 2),
            _ => new string(fill, missing) + text,
        };
    }

    private string Real(double value)
    {
        int precision = Math.Min(Precision < 0 ? 6 : Precision, MaxPrecision);
        if (!double.IsFinite(value)) return PythonText.Real(value);
        switch (Type)
        {
            case 'f' or 'F': return PythonText.Fixed(value, precision);
            case '%': return PythonText.Fixed(value * 100, precision) + "%";
            case 'e' or 'E': return Exponent(value, precision, Type);
            case '\0' when Precision < 0: return PythonText.Real(value);
        }
        precision = Math.Max(precision, 1);
        string scientific = Exponent(value, precision - 1, Type == 'G' ? 'E' : 'e');
        int power = int.Parse(scientific.AsSpan(scientific.IndexOfAny(['e', 'E']) + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
        if (power < -4 || power >= precision)
        {
            int e = scientific.IndexOfAny(['e', 'E']);
            return Trim(scientific[..e]) + scientific[e..];
        }
        return Trim(PythonText.Fixed(value, precision - 1 - power));

        static string Trim(string digits) => digits.Contains('.', StringComparison.Ordinal) ? digits.TrimEnd('0').TrimEnd('.') : digits;
    }

    private static string Exponent(double value, int precision, char e)
    {
        string text = value.ToString((e == 'E' ? "E" : "e") + precision.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
        int at = text.IndexOf(e, StringComparison.Ordinal);
        int power = int.Parse(text.AsSpan(at + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
        return $"{text[..at]}{e}{(power < 0 ? '-' : '+')}{Math.Abs(power).ToString("00", CultureInfo.InvariantCulture)}";
    }

    private static string Radix(BigInteger value, int radix)
    {
        if (value.IsZero) return "0";
        var digits = new System.Text.StringBuilder();
        for (; !value.IsZero; value /= radix) digits.Insert(0, "0123456789abcdef"[(int)(value % radix)]);
        return digits.ToString();
    }
}
