using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;

namespace FlashOrleans.Cli.Options;

/// <summary>Options and arguments whose wrong values are one line that says what is right.</summary>
internal static class Flags
{
    public static Argument<string> Name(string description = "Model name, or path to a package (a NAME.flash folder)") => new("NAME") { Description = description };

    public static Option<bool> Json() => new("--json") { Description = "JSON alone on stdout" };

    /// <summary>Absent: null.</summary>
    public static Option<string?> Text(string name, string help, string description) => new(name) { HelpName = help, Description = description };

    public static Option<int?> Int(string name, string help, string description, int least, int most = int.MaxValue) => new(name)
    {
        HelpName = help,
        Description = description,
        CustomParser = result => int.TryParse(Token(result), NumberStyles.None, CultureInfo.InvariantCulture, out int value) && value >= least && value <= most
            ? value
            : Wrong<int?>(result, name, most == int.MaxValue ? $"a whole number of at least {least}" : $"a whole number from {least} to {most}"),
    };

    public static Option<ulong?> Seed() => new("--seed")
    {
        HelpName = "N",
        Description = "The same seed gives the same answer; drawn when absent",
        CustomParser = result => ulong.TryParse(Token(result), NumberStyles.None, CultureInfo.InvariantCulture, out ulong value) ? value : Wrong<ulong?>(result, "--seed", "a whole number"),
    };

    public static Option<float?> Float(string name, string description, float least, float most) => new(name)
    {
        HelpName = "X",
        Description = description,
        CustomParser = result => TryFloat(Token(result), least, most, out float value)
            ? value
            : Wrong<float?>(result, name, string.Create(CultureInfo.InvariantCulture, $"a number from {least} to {most}")),
    };

    /// <summary>A share, or where <paramref name="several"/> some with commas between.</summary>
    public static Option<double[]> Shares(string name, string description, double otherwise, bool several) => new(name)
    {
        HelpName = several ? "SHARE,…" : "SHARE",
        Description = description,
        DefaultValueFactory = _ => [otherwise],
        CustomParser = result => List(result, name, "a share: 25% or 0.25", several, static text => (Units.TryShare(text, out double share), share)),
    };

    /// <summary>One of a few words, the first where there is none; or where <paramref name="several"/> some with commas between.</summary>
    public static Option<string[]> Choices(string name, string description, bool several, params string[] words) => new(name)
    {
        HelpName = string.Join('|', words) + (several ? ",…" : ""),
        Description = description,
        DefaultValueFactory = _ => [words[0]],
        CustomParser = result => List(result, name, $"one of {string.Join(", ", words)}", several, text => (words.Contains(text), text)),
    };

    /// <summary>One value, or where <paramref name="several"/> some with commas between; what is wrong is an error of the result.</summary>
    public static T[]? List<T>(ArgumentResult result, string name, string right, bool several, Func<string, (bool Right, T Value)> parse)
    {
        string[] parts = Token(result).Split(',', StringSplitOptions.TrimEntries);
        if (parts.Length > 1 && !several) return Wrong<T[]>(result, name, $"{right}; only flash bench takes several");
        T[] values = new T[parts.Length];
        for (int i = 0; i < parts.Length; i++)
        {
            (bool fits, values[i]) = parse(parts[i]);
            if (!fits) return Wrong<T[]>(result, name, several ? $"{right}, or several with commas between" : right);
        }
        return values;
    }

    /// <summary>One of a few words; the first is the default.</summary>
    public static Option<string> Choice(string name, string description, params string[] words) => new(name)
    {
        HelpName = string.Join('|', words),
        Description = description,
        DefaultValueFactory = _ => words[0],
        CustomParser = result => words.Contains(Token(result)) ? Token(result) : Wrong<string>(result, name, $"one of {string.Join(", ", words)}")!,
    };

    /// <summary>Token ids or counts: 1,2,3. Absent: empty.</summary>
    public static Option<int[]?> Ints(string name, string description, int least = 0) => new(name)
    {
        HelpName = "1,2,3",
        Description = description,
        CustomParser = result =>
        {
            string[] parts = Token(result).Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
            int[] values = new int[parts.Length];
            bool right = parts.Length > 0;
            for (int i = 0; i < parts.Length && right; i++)
                right = int.TryParse(parts[i], NumberStyles.None, CultureInfo.InvariantCulture, out values[i]) && values[i] >= least;
            return right ? values : Wrong<int[]?>(result, name, $"whole numbers of at least {least} with commas between: 1,2,3");
        },
    };

    public static bool TryFloat(string text, float least, float most, out float value) =>
        float.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out value) && value >= least && value <= most;

    private static string Token(ArgumentResult result) => result.Tokens.Count > 0 ? result.Tokens[0].Value : "";

    private static T? Wrong<T>(ArgumentResult result, string name, string right)
    {
        result.AddError($"{name}: '{Token(result)}' is not {right}");
        return default;
    }
}
