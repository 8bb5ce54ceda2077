using System.Globalization;

namespace FlashOrleans.Grains;

/// <summary>Where a silo keeps sessions, for how long and how many.</summary>
public sealed record SessionStoreOptions
{
    /// <summary>The database: a file, which several silos of one machine may share, or an address of Redis (<see cref="RedisAddress"/>), which silos of many machines may; null: one in memory, which ends with the silo.</summary>
    public string? Path { get; init; }
    /// <summary>A session that nobody used for so long is forgotten.</summary>
    public TimeSpan TimeToLive { get; init; } = TimeSpan.FromDays(7);
    /// <summary>Where there are more, those that were used longest ago are forgotten.</summary>
    public int MaxSessions { get; init; } = 10_000;
    /// <summary>What a message calls the database: never with a password.</summary>
    public string Place => Path is null ? "memory" : RedisAddress.Is(Path) ? RedisAddress.TryParse(Path, out RedisAddress? address) ? address.ToString() : "redis" : Path;
    /// <summary>A <see cref="Path"/> that holds a password is better not an argument, which every user of the machine can read.</summary>
    public const string Variable = "FLASH_SESSIONS_DB";
    public const string TimeRule = "a time like 7d, 12h or 30m";

    /// <summary>What <see cref="Variable"/> says; null: nothing.</summary>
    public static string? FromEnvironment() => Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } path ? path : null;

    /// <summary>A number of days, hours or minutes.</summary>
    public static bool TryParseTime(string text, out TimeSpan time)
    {
        ArgumentNullException.ThrowIfNull(text);
        time = default;
        if (text.Length < 2 || !int.TryParse(text.AsSpan(0, text.Length - 1), NumberStyles.None, CultureInfo.InvariantCulture, out int count) || count is < 1 or > 1_000_000) return false;
        time = text[^1] switch { 'd' => TimeSpan.FromDays(count), 'h' => TimeSpan.FromHours(count), 'm' => TimeSpan.FromMinutes(count), _ => default };
        return time > TimeSpan.Zero;
    }

    /// <summary>As a record's, without <see cref="Path"/>.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{nameof(SessionStoreOptions)} {{ {nameof(Place)} = {Place}, {nameof(TimeToLive)} = {TimeToLive}, {nameof(MaxSessions)} = {MaxSessions} }}");

    /// <summary>Pages the database may have (tests: a full disk).</summary>
    internal int? MaxPages { get; init; }
    /// <summary>How long Redis may be away before a write fails (tests).</summary>
    internal int? PatienceMilliseconds { get; init; }
    /// <summary>Called on the writer's thread before every commit (tests: a slow disk, a failing one).</summary>
    internal Action? Committing { get; init; }
}
