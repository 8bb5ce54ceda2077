using Polly;
using Polly.Retry;

namespace FlashOrleans.Models.Hub;

/// <summary>
/// Asking again, where that may help (<see cref="HubException.MayPass"/>) and nowhere else: after what the server asks for, else exponentially later with
/// jitter. A server that asks for more patience than a user has is not waited for. Any thread.
/// </summary>
internal sealed class HubRetries(HubOptions options)
{
    /// <summary>With the delays below about a minute and a half of a server that says nothing.</summary>
    public const int Attempts = 8;
    public static readonly TimeSpan LongestWait = TimeSpan.FromMinutes(10);

    /// <param name="again">Told before each wait.</param>
    public async ValueTask<T> RunAsync<T>(Func<CancellationToken, ValueTask<T>> attempt, Action<HubException, TimeSpan>? again, CancellationToken cancel)
    {
        ResiliencePipeline pipeline = new ResiliencePipelineBuilder { TimeProvider = options.Time }.AddRetry(new RetryStrategyOptions
        {
            MaxRetryAttempts = Attempts - 1,
            BackoffType = DelayBackoffType.Exponential,
            UseJitter = true,
            Delay = TimeSpan.FromMilliseconds(500),
            MaxDelay = TimeSpan.FromSeconds(30),
            ShouldHandle = static args => ValueTask.FromResult(args.Outcome.Exception is HubException { MayPass: true } e && !(e.RetryAfter > LongestWait)),
            DelayGenerator = static args => ValueTask.FromResult((args.Outcome.Exception as HubException)?.RetryAfter),
            OnRetry = args =>
            {
                again?.Invoke((HubException)args.Outcome.Exception!, args.RetryDelay);
                return ValueTask.CompletedTask;
            },
        }).Build();
        try
        {
            return await pipeline.ExecuteAsync(attempt, cancel);
        }
        catch (HubException e) when (e.MayPass)
        {
            string advice = e.RetryAfter > LongestWait ? "try again then" : $"tried {Attempts} times; run the command again later, it goes on where it stopped";
            throw new HubException($"{e.Message}; {advice}", e);
        }
    }
}
