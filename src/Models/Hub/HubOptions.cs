namespace FlashOrleans.Models.Hub;

/// <summary>Which hub, as whom, and how hard it is asked. A class, not a record: a record would print the token.</summary>
public sealed class HubOptions
{
    public Uri Endpoint { get; init; } = new("https://huggingface.co");
    /// <summary>Sent to <see cref="Endpoint"/> and nowhere else.</summary>
    public string? Token { get; init; }
    public TimeProvider Time { get; init; } = TimeProvider.System;

    /// <summary>Requests at once.</summary>
    internal int Connections { get; init; } = 4;
    /// <summary>Bytes of one request: each costs the hub a redirect, and it counts those.</summary>
    internal int PieceBytes { get; init; } = 32 << 20;
    /// <summary>What a kill may cost, per connection.</summary>
    internal int JournalBytes { get; init; } = 8 << 20;
    /// <summary>A connection that says nothing for so long is given up.</summary>
    internal TimeSpan Silence { get; init; } = TimeSpan.FromSeconds(60);
    /// <summary>Free bytes where a path lies.</summary>
    internal Func<string, long> FreeBytes { get; init; } = static path => new DriveInfo(path).AvailableFreeSpace;

    /// <summary>HF_ENDPOINT and HF_TOKEN.</summary>
    public static HubOptions FromEnvironment()
    {
        string? endpoint = Environment.GetEnvironmentVariable("HF_ENDPOINT")?.Trim(), token = Environment.GetEnvironmentVariable("HF_TOKEN")?.Trim();
        if (token?.Any(static c => c is <= ' ' or > '~') == true) throw new HubException("HF_TOKEN holds characters that no token has; copy it again");
        if (string.IsNullOrEmpty(token)) token = null;
        if (string.IsNullOrEmpty(endpoint)) return new HubOptions { Token = token };
        return Uri.TryCreate(endpoint, UriKind.Absolute, out Uri? url) && url.Scheme is "http" or "https" && url.Query.Length == 0
            ? new HubOptions { Endpoint = url, Token = token }
            : throw new HubException($"HF_ENDPOINT is '{endpoint}', which is not an address such as https://huggingface.co");
    }
}
