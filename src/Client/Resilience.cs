using Orleans.Runtime;
using Polly;
using Polly.Retry;
using Polly.Timeout;

namespace FlashOrleans.Client;

/// <summary>
/// Trying again where that is safe: connecting, and opening a stream (a turn has an id: starting it twice attaches). Never around single tokens.
/// Retries have exponential back-off and jitter and are for what says "not now" and nothing else. Around them is a total timeout; inside them, where the cluster is
/// asked to start or find a turn, one for each attempt, shorter than Orleans' own: a call under way through a gateway whose silo died hears nothing for half a minute.
/// </summary>
internal sealed class Resilience
{
    /// <summary>How often in a row a stream may be lost before its reader hears of it.</summary>
    public const int MaxAttempts = 20;

    /// <summary>The first turn on a model opens its package; after this long the call is made again, and finds the turn that is starting.</summary>
    public static readonly TimeSpan AttemptTimeout = TimeSpan.FromSeconds(10);

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
        _open = new ResiliencePipelineBuilder { TimeProvider = options.Time }
            .AddTimeout(new TimeoutStrategyOptions { Timeout = options.OpenTimeout })
            .AddRetry(Retry(int.MaxValue, IsTransient))
            .AddTimeout(new TimeoutStrategyOptions { Timeout = AttemptTimeout })
            .Build();
    }

    /// <summary>Nobody is at fault and it may work in a moment.</summary>
    public static bool IsTransient(Exception error) => error is
        OrleansMessageRejectionException or Orleans.Runtime.Messaging.ConnectionFailedException or GatewayTooBusyException or ClientNotAvailableException
        or EnumerationAbortedException or TimeoutException or SiloUnavailableException or TimeoutRejectedException
        // Another activation has the session now: asking again reaches it.
        or Orleans.Storage.InconsistentStateException;

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

    public async Task<T> OpenAsync<T>(Func<CancellationToken, ValueTask<T>> open, CancellationToken cancellationToken)
    {
        try
        {
            return await _open.ExecuteAsync(open, cancellationToken);
        }
        catch (TimeoutRejectedException e)
        {
            throw new FlashConnectionException($"the cluster did not answer within {_options.OpenTimeout.TotalSeconds:0.#} s; send the turn again, it is not run twice", e);
        }
    }

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
