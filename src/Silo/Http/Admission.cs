using System.Threading.RateLimiting;

namespace FlashOrleans.Silo.Http;

/// <summary>
/// How many answers are made at once, who waits, and the end of all of them: a bounded queue in front, since each answer in the making holds keys and values in every layer. Closed
/// when the silo stops: who waits is told so, who runs may finish until <see cref="DrainAsync"/> gives up. Any thread.
/// </summary>
internal sealed class Admission : IDisposable
{
    private readonly ConcurrencyLimiter _limiter;
    private readonly CancellationTokenSource _cut = new();
    private readonly TaskCompletionSource _empty = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _gate = new();
    private int _inside, _admitted, _running;
    private bool _closed;

    public Admission(int running, int waiting)
    {
        Limit = running;
        _limiter = new ConcurrencyLimiter(new ConcurrencyLimiterOptions { PermitLimit = running, QueueLimit = waiting, QueueProcessingOrder = QueueProcessingOrder.OldestFirst });
    }

    public int Limit { get; }
    /// <summary>Answers in the making.</summary>
    public int Running => Volatile.Read(ref _running);
    /// <summary>Requests that wait for their turn, or are on their way in or out.</summary>
    public int Waiting
    {
        get { lock (_gate) return _inside - _admitted; }
    }

    /// <summary>Nobody new comes in.</summary>
    public bool Closed
    {
        get { lock (_gate) return _closed; }
    }

    /// <summary>Cancelled when running answers have to end.</summary>
    public CancellationToken Cut => _cut.Token;

    /// <summary>Waits for its turn with so many answers. Throws an <see cref="ApiException"/> when the queue is full or the silo stops.</summary>
    public async Task<IDisposable> EnterAsync(int answers, CancellationToken cancellationToken)
    {
        lock (_gate)
        {
            if (_closed) throw new ApiException(ApiError.Stopping);
            _inside++;
        }
        try
        {
            RateLimitLease lease = await _limiter.AcquireAsync(answers, cancellationToken);
            if (lease.IsAcquired)
            {
                lock (_gate)
                {
                    _admitted++;
                    _running += answers;
                }
                return new Permit(this, lease, answers);
            }
            lease.Dispose();
            if (Closed) throw new ApiException(ApiError.Stopping);
            string full = $"{Running} answers are being made and {Waiting - 1} requests wait: there is no room; try again later";
            throw new ApiException(new ApiError(429, full, "rate_limit_error", Code: "rate_limit_exceeded") { RetryAfter = 5 });
        }
        catch (ObjectDisposedException)
        {
            Leave(null);
            throw new ApiException(ApiError.Stopping);
        }
        catch
        {
            Leave(null);
            throw;
        }
    }

    /// <summary>Closes, and completes when the last one has left or the time is over, when what still runs is cut.</summary>
    public async Task DrainAsync(TimeSpan patience, TimeProvider time)
    {
        lock (_gate)
        {
            if (_closed) return;
            _closed = true;
            if (_inside == 0) _empty.TrySetResult();
        }
        // Tells all that wait.
        _limiter.Dispose();
        try
        {
            await _empty.Task.WaitAsync(patience, time);
        }
        catch (TimeoutException)
        {
            await _cut.CancelAsync();
        }
    }

    public void Dispose()
    {
        _limiter.Dispose();
        _cut.Dispose();
    }

    private void Leave(Permit? permit)
    {
        lock (_gate)
        {
            _inside--;
            if (permit is not null)
            {
                _admitted--;
                _running -= permit.Answers;
            }
            if (_closed && _inside == 0) _empty.TrySetResult();
        }
    }

    private sealed class Permit(Admission admission, RateLimitLease lease, int answers) : IDisposable
    {
        public int Answers => answers;

        public void Dispose()
        {
            lease.Dispose();
            admission.Leave(this);
        }
    }
}
