using System.Globalization;

namespace FlashOrleans.Engine;

/// <summary>How much memory a process may take: bytes ("1.8GiB", "800MB"), or a share of the package's bytes ("50%").</summary>
public readonly record struct BudgetSize
{
    private static readonly (string Suffix, double Bytes)[] s_units =
    [
        ("KiB", 1024), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1L << 40), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12),
        ("K", 1024), ("M", 1 << 20), ("G", 1 << 30), ("T", 1L << 40), ("B", 1),
    ];

    /// <summary>What a wrong one is told.</summary>
    public const string Rule = "an amount of memory such as 1.8GiB or 800MB, or a share of the package's bytes such as 50%";

    private BudgetSize(long bytes, double share) => (Bytes, Share) = (bytes, share);

    /// <summary>0 where it is a share.</summary>
    public long Bytes { get; }
    /// <summary>0 where it is in bytes.</summary>
    public double Share { get; }

    public static BudgetSize OfBytes(long bytes) => new(bytes, 0);

    public long Of(long packageBytes) => Share > 0 ? (long)Math.Min(Share * packageBytes, long.MaxValue / 2) : Bytes;

    public static bool TryParse(string text, out BudgetSize size)
    {
        size = default;
        text = text.Trim();
        if (text.EndsWith('%'))
        {
            if (!Number(text[..^1], out double percent) || percent > 10_000) return false;
            size = new(0, percent / 100);
            return true;
        }
        foreach ((string suffix, double bytes) in s_units)
        {
            if (!text.EndsWith(suffix, StringComparison.OrdinalIgnoreCase)) continue;
            if (!Number(text[..^suffix.Length], out double count) || count * bytes is < 1 or > 1e16) return false;
            size = new((long)(count * bytes), 0);
            return true;
        }
        // A bare number would be bytes or a share: nobody could tell.
        return false;
    }

    public override string ToString() => Share > 0 ? string.Create(CultureInfo.InvariantCulture, $"{100 * Share:0.##}%") : Text(Bytes);

    /// <summary>In binary units, as it may be given: rounded up, so that what is named as enough is enough.</summary>
    public static string Text(long bytes) => bytes >= 1 << 30
        ? string.Create(CultureInfo.InvariantCulture, $"{Math.Ceiling(bytes / (double)(1 << 30) * 100) / 100:0.00}GiB")
        : string.Create(CultureInfo.InvariantCulture, $"{Math.Ceiling(bytes / (double)(1 << 20)):0}MiB");

    private static bool Number(string text, out double number) =>
        double.TryParse(text.TrimEnd(), NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out number) && number > 0;
}
