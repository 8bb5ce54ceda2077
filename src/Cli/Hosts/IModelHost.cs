using FlashOrleans.Abstractions;

namespace FlashOrleans.Cli.Hosts;

/// <summary>
/// Where a model runs for one command: through grains of a silo in this process (<see cref="GrainHost"/>, the product) or on the engine alone
/// (<see cref="EngineHost"/>, the oracle and the measure of what Orleans costs). Both read the same package with the same options.
/// </summary>
internal interface IModelHost : IAsyncDisposable
{
    /// <summary>"grains" or "engine".</summary>
    string Path { get; }

    /// <summary>What to put into <see cref="TurnRequest.Model"/>.</summary>
    string Model { get; }

    IModelSession OpenSession();

    /// <summary>The host's counters now.</summary>
    Task<Snapshot> MeasureAsync();
}

/// <summary>One sequence on a host. Disposing frees its keys and values.</summary>
internal interface IModelSession : IAsyncDisposable
{
    /// <summary>Streams the answer; the last chunk has <see cref="TokenChunk.Finish"/> set.</summary>
    IAsyncEnumerable<TokenChunk> SendAsync(TurnRequest turn, CancellationToken cancel);
}
