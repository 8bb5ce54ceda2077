using Orleans.Runtime;
using Polly;
using Polly.Retry;
using Polly.Timeout;

namespace FlashOrleans.Client;

/// <summary>
/// Trying again where that is safe: connecting, and opening a stream (a turn has an id: starting it twice attaches). Never around single tokens.
/// Retries have exponential back-off and jitter and are for what says "not now" and nothing else; connecting has a total timeout around them.
/// </summary>
internal sealed class Resilience
{
    /// <summary>About half a minute with the delays below: longer than a cluster needs to replace a dead silo.</summary>
    public const int MaxAttempts = 20;

    private readonly ResiliencePipeline _connect;
    private readonly ResiliencePipeline _open;
    private readonly FlashClientOptions _options;

    public Resilience(FlashClientOptions options)
    {
        _options = options;
        _connect = new ResiliencePipelineBuilder { TimeProvider = options.Time }
            .AddTimeout(new TimeoutStrategyOptions { Timeout = options.ConnectTimeout })
            .AddRetry(Retry(int.MaxValue, static e => e is not OperationCanceledException))
            .Build();
        _open = new ResiliencePipelineBuilder { TimeProvider = options.Time }.AddRetry(Retry(MaxAttempts, IsTransient)).Build();
    }

    /// <summary>Nobody is at fault and it may work in a moment.</summary>
    public static bool IsTransient(Exception error) => error is
        OrleansMessageRejectionException or Orleans.Runtime.Messaging.ConnectionFailedException or GatewayTooBusyException or ClientNotAvailableException
        or EnumerationAbortedException or TimeoutException or SiloUnavailableException;

    public async Task<T> ConnectAsync<T>(Func<CancellationToken, Task<T>> connect, CancellationToken cancellationToken)
    {
        Exception? last = null;
        try
        {
            return await _connect.ExecuteAsync(async token =>
            {
                try
                {
                    return await connect(token);
                }
                catch (Exception e)
                {
                    if (e is not OperationCanceledException) last = e;
                    throw;
                }
            }, cancellationToken);
        }
        catch (Exception e) when (!cancellationToken.IsCancellationRequested)
        {
            throw new FlashConnectionException(
                $"no gateway answered within {_options.ConnectTimeout.TotalSeconds:0.#} s at {string.Join(", ", _options.Gateways)}: {(last ?? e).Message}", last ?? e);
        }
    }

    public ValueTask<T> OpenAsync<T>(Func<CancellationToken, ValueTask<T>> open, CancellationToken cancellationToken) => _open.ExecuteAsync(open, cancellationToken);

    private static RetryStrategyOptions Retry(int attempts, Func<Exception, bool> again) => new()
    {
        MaxRetryAttempts = attempts,
        BackoffType = DelayBackoffType.Exponential,
        UseJitter = true,
        Delay = TimeSpan.FromMilliseconds(100),
        MaxDelay = TimeSpan.FromSeconds(2),
        ShouldHandle = args => ValueTask.FromResult(args.Outcome.Exception is { } e && again(e)),
    };
}

/// <summary>The cluster could not be reached: which gateways were tried, and why the last attempt failed.</summary>
public sealed class FlashConnectionException : Exception
{
    public FlashConnectionException() : this("the cluster could not be reached") { }
    public FlashConnectionException(string message) : base(message) { }
    public FlashConnectionException(string message, Exception inner) : base(message, inner) { }
}
