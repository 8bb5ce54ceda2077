using System.Globalization;
using System.Text;

namespace FlashOrleans.Models.Templates;

/// <summary>The global <c>strftime_now(format)</c>: C's strftime in the C locale.</summary>
internal static class Clock
{
    public static Value Format(Call call)
    {
        string format = call.Text(call.Bind("format")[0], "format").Chars;
        call.Budget.Make(32L * format.Length);
        var now = call.Run.Now();
        var text = new StringBuilder();
        for (int i = 0; i < format.Length; i++)
        {
            if (format[i] != '%' || i + 1 == format.Length)
            {
                text.Append(format[i]);
                continue;
            }
            // A minus takes the leading zeros or blanks away.
            bool bare = format[i + 1] == '-' && i + 2 < format.Length;
            if (bare) i++;
            string? part = Part(format[++i], now);
            if (part is null) text.Append('%').Append(bare ? "-" : "").Append(format[i]);
            else text.Append(bare && part.Length > 1 ? part[..^1].TrimStart('0', ' ') + part[^1] : part);
        }
        return new TextValue(text.ToString(), foreign: true);
    }

    private static string In(this DateTimeOffset time, string format) => time.ToString(format, CultureInfo.InvariantCulture);

    private static string? Part(char letter, DateTimeOffset now) => letter switch
    {
        'Y' => now.In("yyyy"),
        'y' => now.In("yy"),
        'C' => now.In("yyyy")[..2],
        'm' => now.In("MM"),
        'd' => now.In("dd"),
        'e' => now.Day.ToString(CultureInfo.InvariantCulture).PadLeft(2),
        'H' => now.In("HH"),
        'I' => now.In("hh"),
        'M' => now.In("mm"),
        'S' => now.In("ss"),
        'f' => now.In("ffffff"),
        'p' => now.In("tt"),
        'b' or 'h' => now.In("MMM"),
        'B' => now.In("MMMM"),
        'a' => now.In("ddd"),
        'A' => now.In("dddd"),
        'j' => now.DayOfYear.ToString("000", CultureInfo.InvariantCulture),
        'u' => (now.DayOfWeek == DayOfWeek.Sunday ? 7 : (int)now.DayOfWeek).ToString(CultureInfo.InvariantCulture),
        'w' => ((int)now.DayOfWeek).ToString(CultureInfo.InvariantCulture),
        'U' => ((now.DayOfYear + 6 - (int)now.DayOfWeek) / 7).ToString("00", CultureInfo.InvariantCulture),
        'W' => ((now.DayOfYear + 6 - ((int)now.DayOfWeek + 6) % 7) / 7).ToString("00", CultureInfo.InvariantCulture),
        'V' => ISOWeek.GetWeekOfYear(now.DateTime).ToString("00", CultureInfo.InvariantCulture),
        'G' => ISOWeek.GetYear(now.DateTime).ToString(CultureInfo.InvariantCulture),
        'F' => now.In("yyyy-MM-dd"),
        'T' or 'X' => now.In("HH:mm:ss"),
        'R' => now.In("HH:mm"),
        'r' => now.In("hh:mm:ss tt"),
        'D' or 'x' => now.In("MM/dd/yy"),
        'c' => $"{now.In("ddd MMM")} {Part('e', now)} {now.In("HH:mm:ss yyyy")}",
        's' => now.ToUnixTimeSeconds().ToString(CultureInfo.InvariantCulture),
        // Python's local time knows no zone.
        'z' or 'Z' => "",
        'n' => "\n",
        't' => "\t",
        '%' => "%",
        _ => null,
    };
}
