using System.Globalization;

namespace FlashOrleans.Grains;

/// <summary>Where a silo keeps sessions, for how long and how many.</summary>
public sealed record SessionStoreOptions
{
    /// <summary>The database, which several silos of one machine may share; null: one in memory, which ends with the silo.</summary>
    public string? Path { get; init; }
    /// <summary>A session that nobody used for so long is forgotten.</summary>
    public TimeSpan TimeToLive { get; init; } = TimeSpan.FromDays(7);
    /// <summary>Where there are more, those that were used longest ago are forgotten.</summary>
    public int MaxSessions { get; init; } = 10_000;
    public const string TimeRule = "a time like 7d, 12h or 30m";

    /// <summary>A number of days, hours or minutes.</summary>
    public static bool TryParseTime(string text, out TimeSpan time)
    {
        ArgumentNullException.ThrowIfNull(text);
        time = default;
        if (text.Length < 2 || !int.TryParse(text.AsSpan(0, text.Length - 1), NumberStyles.None, CultureInfo.InvariantCulture, out int count) || count is < 1 or > 1_000_000) return false;
        time = text[^1] switch { 'd' => TimeSpan.FromDays(count), 'h' => TimeSpan.FromHours(count), 'm' => TimeSpan.FromMinutes(count), _ => default };
        return time > TimeSpan.Zero;
    }

    /// <summary>Pages the database may have (tests: a full disk).</summary>
    internal int? MaxPages { get; init; }
    /// <summary>Called on the writer's thread before every commit (tests: a slow disk, a failing one).</summary>
    internal Action? Committing { get; init; }
}
