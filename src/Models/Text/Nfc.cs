using System.Globalization;
using System.Text;

namespace FlashOrleans.Models.Text;

/// <summary>
/// Unicode normalisation form C, from a table of our own: the program runs with invariant globalisation, where
/// <see cref="string.Normalize()"/> gives back its argument. The table (nfc.txt) is read when the first text needs it. Any thread.
/// </summary>
internal static class Nfc
{
    private const int HangulBase = 0xAC00, LeadBase = 0x1100, VowelBase = 0x1161, TailBase = 0x11A7, Vowels = 21, Tails = 28, Syllables = 11172;

    private static readonly Lazy<Table> s_table = new(Table.Load);

    private sealed class Table
    {
        public Dictionary<int, int> Classes { get; } = [];
        public Dictionary<int, (int First, int Second)> Decompositions { get; } = [];
        public Dictionary<(int, int), int> Compositions { get; } = [];

        public static Table Load()
        {
            var table = new Table();
            using var stream = typeof(Nfc).Assembly.GetManifestResourceStream("FlashOrleans.Models.Text.nfc.txt")!;
            using var reader = new StreamReader(stream, Encoding.ASCII);
            while (reader.ReadLine() is { } line)
            {
                if (line[0] == '#') continue;
                string[] parts = line.Split(' ');
                int[] code = parts[1..].Select(static p => int.Parse(p, NumberStyles.HexNumber, CultureInfo.InvariantCulture)).ToArray();
                if (parts[0] is "=" or ">")
                {
                    int second = code.Length > 2 ? code[2] : -1;
                    table.Decompositions[code[0]] = (code[1], second);
                    if (parts[0] == "=") table.Compositions[(code[1], second)] = code[0];
                }
                else
                {
                    for (int c = code[0]; c <= code[1]; c++) table.Classes[c] = int.Parse(parts[0], CultureInfo.InvariantCulture);
                }
            }
            return table;
        }
    }

    public static ReadOnlySpan<char> Normalize(ReadOnlySpan<char> text)
    {
        // Nothing below U+0300 combines, decomposes into something that would not compose back, or moves.
        if (text.IndexOfAnyInRange('\u0300', '\uFFFF') < 0) return text;
        var table = s_table.Value;
        var points = new List<int>(text.Length + 16);
        foreach (var rune in text.EnumerateRunes()) Decompose(table, rune.Value, points);
        Order(table, points);
        Compose(table, points);
        var result = new StringBuilder(points.Count + 16);
        foreach (int point in points) result.Append(new Rune(point).ToString());
        return result.ToString();
    }

    private static void Decompose(Table table, int point, List<int> to)
    {
        int s = point - HangulBase;
        if ((uint)s < Syllables)
        {
            to.Add(LeadBase + s / (Vowels * Tails));
            to.Add(VowelBase + s % (Vowels * Tails) / Tails);
            if (s % Tails != 0) to.Add(TailBase + s % Tails);
        }
        else if (table.Decompositions.TryGetValue(point, out var parts))
        {
            Decompose(table, parts.First, to);
            if (parts.Second >= 0) Decompose(table, parts.Second, to);
        }
        else
        {
            to.Add(point);
        }
    }

    /// <summary>Sorts every run of combining marks by class, stably.</summary>
    private static void Order(Table table, List<int> points)
    {
        for (int start = 0; start < points.Count; start++)
        {
            if (Class(table, points[start]) == 0) continue;
            int end = start + 1;
            while (end < points.Count && Class(table, points[end]) != 0) end++;
            if (end - start > 1)
            {
                int[] sorted = points.GetRange(start, end - start).OrderBy(p => Class(table, p)).ToArray();
                for (int i = 0; i < sorted.Length; i++) points[start + i] = sorted[i];
            }
            start = end;
        }
    }

    /// <summary>Joins each starter with what follows and is not blocked by a mark of the same or a higher class between them.</summary>
    private static void Compose(Table table, List<int> points)
    {
        int starter = -1, last = 0, kept = 0;
        for (int i = 0; i < points.Count; i++)
        {
            int point = points[i];
            int kind = Class(table, point);
            if (starter >= 0 && (last < kind || starter == kept - 1) && Pair(table, points[starter], point) is { } joined)
            {
                points[starter] = joined;
                continue;
            }
            if (kind == 0) starter = kept;
            last = kind;
            points[kept++] = point;
        }
        points.RemoveRange(kept, points.Count - kept);
    }

    private static int? Pair(Table table, int first, int second)
    {
        if ((uint)(first - LeadBase) < 19 && (uint)(second - VowelBase) < Vowels)
            return HangulBase + ((first - LeadBase) * Vowels + (second - VowelBase)) * Tails;
        if ((uint)(first - HangulBase) < Syllables && (first - HangulBase) % Tails == 0 && second is > TailBase and < TailBase + Tails)
            return first + second - TailBase;
        return table.Compositions.TryGetValue((first, second), out int joined) ? joined : null;
    }

    private static int Class(Table table, int point) => table.Classes.GetValueOrDefault(point);
}
