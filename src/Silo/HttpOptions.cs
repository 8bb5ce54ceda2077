using System.Net;

namespace FlashOrleans.Silo;

/// <summary>The HTTP surface of a silo: where it listens and what it bears.</summary>
public sealed record HttpOptions
{
    /// <summary>0 takes a free port.</summary>
    public int Port { get; init; }
    public IPAddress Address { get; init; } = IPAddress.Loopback;
    /// <summary>What /v1 asks for as a bearer token; null: nothing.</summary>
    public string? ApiKey { get; init; }
    /// <summary>Answers that are made at once; null: as many as the budget promises sessions, without a budget 64.</summary>
    public int? MaxRunning { get; init; }
    /// <summary>Answers that wait for their turn; what comes then is told to come again later.</summary>
    public int MaxWaiting { get; init; } = 256;
    /// <summary>A request that would wait longer than that, by what answers took so far, is told so at once.</summary>
    public TimeSpan MaxWait { get; init; } = TimeSpan.FromMinutes(10);
    public long MaxBodyBytes { get; init; } = 4 << 20;
    /// <summary>For all of a request's body.</summary>
    public TimeSpan BodyTimeout { get; init; } = TimeSpan.FromSeconds(30);
    /// <summary>A stream that says nothing for so long sends a comment.</summary>
    public TimeSpan PingInterval { get; init; } = TimeSpan.FromSeconds(10);
    /// <summary>How long running answers may go on once the silo stops.</summary>
    public TimeSpan DrainTimeout { get; init; } = TimeSpan.FromSeconds(20);
    /// <summary>Requests that name no user are one user's: so it is where only this machine can ask.</summary>
    internal bool OneUser { get; init; }
    public TimeProvider Time { get; init; } = TimeProvider.System;
}
