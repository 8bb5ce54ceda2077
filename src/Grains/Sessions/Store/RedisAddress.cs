using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using StackExchange.Redis;

namespace FlashOrleans.Grains;

/// <summary>
/// Where a Redis is and how to enter: <c>redis://[user:password@]host[:port][/database]</c>, <c>rediss://</c> over TLS. Its text is for messages and has neither user nor password.
/// </summary>
public sealed class RedisAddress
{
    public const string Rule = "redis://[user:password@]host[:port][/database]";
    private const string Plain = "redis://", Encrypted = "rediss://";
    private const int DefaultPort = 6379;
    private readonly string _scheme, _host;
    private readonly string? _user, _password;
    private readonly int _port, _database;

    private RedisAddress(string scheme, Uri uri, string user, int database)
    {
        (_scheme, _host, _port, _database) = (scheme, uri.Host, uri.Port < 0 ? DefaultPort : uri.Port, database);
        int colon = user.IndexOf(':', StringComparison.Ordinal);
        _user = (colon < 0 ? user : user[..colon]) is { Length: > 0 } name ? Uri.UnescapeDataString(name) : null;
        _password = colon < 0 ? null : Uri.UnescapeDataString(user[(colon + 1)..]);
    }

    /// <summary>Meant as one, well written or not.</summary>
    public static bool Is([NotNullWhen(true)] string? text) =>
        text is not null && (text.StartsWith(Plain, StringComparison.OrdinalIgnoreCase) || text.StartsWith(Encrypted, StringComparison.OrdinalIgnoreCase));

    public static bool TryParse(string text, [NotNullWhen(true)] out RedisAddress? address)
    {
        ArgumentNullException.ThrowIfNull(text);
        address = null;
        if (!Is(text) || !Uri.TryCreate(text, UriKind.Absolute, out Uri? uri) || uri.Host.Length == 0 || uri.Query.Length > 0 || uri.Fragment.Length > 0) return false;
        string path = uri.AbsolutePath.Trim('/');
        int database = 0;
        if (path.Length > 0 && !int.TryParse(path, NumberStyles.None, CultureInfo.InvariantCulture, out database)) return false;
        address = new RedisAddress(text.StartsWith(Encrypted, StringComparison.OrdinalIgnoreCase) ? Encrypted : Plain, uri, uri.UserInfo, database);
        return true;
    }

    internal static RedisAddress Parse(string text) => TryParse(text, out RedisAddress? address) ? address : throw new FormatException($"expected {Rule}");

    internal ConfigurationOptions Options(int patienceMilliseconds) => new()
    {
        EndPoints = { { _host.Trim('[', ']'), _port } },
        User = _user,
        Password = _password,
        DefaultDatabase = _database,
        Ssl = _scheme == Encrypted,
        ClientName = "flashorleans",
        ConnectTimeout = patienceMilliseconds,
        ConnectRetry = 1,
        // What is asked while the connection is lost waits so long for it to come back.
        SyncTimeout = patienceMilliseconds,
        ReconnectRetryPolicy = new LinearRetry(250),
    };

    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{_scheme}{_host}:{_port}/{_database}");
}
