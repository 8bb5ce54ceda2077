using System.Net;

namespace FlashOrleans.Client;

/// <summary>Where the cluster is and how patient the client is.</summary>
public sealed record FlashClientOptions
{
    /// <summary>Gateways of the cluster; the default is a silo on this machine with default ports.</summary>
    public IReadOnlyList<IPEndPoint> Gateways { get; init; } = [new(IPAddress.Loopback, 30000)];
    public string ClusterId { get; init; } = "flashorleans";
    public string ServiceId { get; init; } = "flashorleans";
    /// <summary>How long connecting is tried.</summary>
    public TimeSpan ConnectTimeout { get; init; } = TimeSpan.FromSeconds(30);
    /// <summary>How long starting a turn, and reopening a lost stream, is tried: a large package that is opened for the first time takes minutes.</summary>
    public TimeSpan OpenTimeout { get; init; } = TimeSpan.FromMinutes(5);
    public TimeProvider Time { get; init; } = TimeProvider.System;
}
