using System.Globalization;

namespace FlashOrleans.Bench;

/// <summary>A line of bench/results/peers.csv: a cell by the name of its column, empty where an older line lacks it.</summary>
internal sealed record Result(IReadOnlyDictionary<string, string> Cells)
{
    public string this[string column] => Cells.GetValueOrDefault(column, "");
    public double? Number(string column) => double.TryParse(this[column], NumberStyles.Float, CultureInfo.InvariantCulture, out double value) ? value : null;
}

/// <summary>What was measured again and again under the same conditions, in the order it first came; figures are medians.</summary>
internal sealed class Repeated(IReadOnlyList<Result> results)
{
    public string this[string column] => results[^1][column];
    public int Count => results.Count;

    /// <summary>The middle one, of an even number the lower of the two: a value that was measured.</summary>
    public double? Median(string column)
    {
        double[] values = [.. results.Select(r => r.Number(column)).OfType<double>().Order()];
        return values.Length == 0 ? null : values[(values.Length - 1) / 2];
    }

    /// <summary>Of bench/Peers: lines of one case, label, engine, share, mode, number of sessions, length and build.</summary>
    public static readonly string[] Peers = ["case", "label", "engine", "share", "mode", "sessions", "prompt", "machine", "commit"];
    /// <summary>Of bench/Serve: lines of the same requests to the same server.</summary>
    public static readonly string[] Serve = ["model", "share", "sessions", "engine", "prompt", "generate", "long_tokens", "machine", "command"];

    /// <summary>Lines that are alike in these columns.</summary>
    public static List<Repeated> Of(string csv, string[] alike) =>
        [.. Read(csv).GroupBy(r => string.Join('|', alike.Select(column => r[column]))).Select(static g => new Repeated([.. g]))];

    private static List<Result> Read(string csv)
    {
        string[] lines = File.ReadAllLines(csv);
        string[] names = [.. Split(lines[0])];
        return [.. lines.Skip(1).Where(static l => l.Length > 0).Select(l => new Result(names.Zip(Split(l)).ToDictionary(static p => p.First, static p => p.Second)))];
    }

    /// <summary>Commas outside quotes; the writer puts no quotes inside quotes.</summary>
    private static IEnumerable<string> Split(string line)
    {
        bool quoted = false;
        int from = 0;
        for (int i = 0; i <= line.Length; i++)
        {
            if (i < line.Length && line[i] == '"') quoted = !quoted;
            if (i < line.Length && (quoted || line[i] != ',')) continue;
            yield return line[from..i].Trim('"');
            from = i + 1;
        }
    }
}
