namespace FlashOrleans.Silo.Http;

/// <summary>
/// How many answers are made at once, who waits, and the end of all of them: a bounded queue in front, fair between users, since each answer in the making holds keys and values in every layer. How long a
/// wait will be follows from how long answers took so far: a request that would wait longer than anybody should is refused at once and told when to come again. Closed
/// when the silo stops: who waits is told so, who runs may finish until <see cref="DrainAsync"/> gives up. Any thread.
/// </summary>
internal sealed class Admission(int running, int waiting, TimeSpan maxWait, TimeProvider time) : IDisposable
{
    private const double Share = 0.1;
    /// <summary>While nothing was measured.</summary>
    private const int UnknownSeconds = 5;

    private readonly FairQueue<Ticket> _queue = new();
    private readonly CancellationTokenSource _cut = new();
    private readonly TaskCompletionSource _empty = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _gate = new();
    private int _inside, _running;
    private double _usual;
    private bool _closed;

    public int Limit => running;
    /// <summary>Answers in the making.</summary>
    public int Running => Volatile.Read(ref _running);
    /// <summary>Requests that wait for their turn.</summary>
    public int Waiting
    {
        get { lock (_gate) return _queue.Count; }
    }

    /// <summary>Nobody new comes in.</summary>
    public bool Closed
    {
        get { lock (_gate) return _closed; }
    }

    /// <summary>Cancelled when running answers have to end.</summary>
    public CancellationToken Cut => _cut.Token;

    /// <summary>A place in the queue, or straight inside, for so many answers of a user. Throws an <see cref="ApiException"/> when there is no room, or the silo stops. Disposing leaves.</summary>
    public Ticket Enter(string user, int answers)
    {
        lock (_gate)
        {
            if (_closed) throw new ApiException(ApiError.Stopping);
            var ticket = new Ticket(this, user, answers);
            _queue.Add(user, answers, ticket);
            LetIn();
            if (!ticket.Admitted.IsCompleted)
            {
                TimeSpan? wait = WaitBehind(_queue.Ahead(user, ticket));
                if (_queue.Count > waiting || wait > maxWait)
                {
                    int ahead = _queue.Ahead(user, ticket);
                    _queue.Remove(user, ticket);
                    string full = wait is { } known
                        ? $"{Running} answers are being made and {_queue.Count} requests wait, about {Math.Ceiling(known.TotalSeconds)} s: there is no room; try again later"
                        : $"{Running} answers are being made and {_queue.Count} requests wait: there is no room; try again later";
                    throw new ApiException(new ApiError(429, full, "rate_limit_error", Code: "rate_limit_exceeded") { RetryAfter = RetryAfter(ahead) });
                }
            }
            _inside++;
            return ticket;
        }
    }

    /// <summary>For who reads on where a turn was let in before: inside at once, without a place of its own. Throws an <see cref="ApiException"/> when the silo stops.</summary>
    public Ticket Join(string user)
    {
        lock (_gate)
        {
            if (_closed) throw new ApiException(ApiError.Stopping);
            var ticket = new Ticket(this, user, 0);
            ticket.Join();
            _inside++;
            return ticket;
        }
    }

    /// <summary>Enters and waits for its turn.</summary>
    public async Task<Ticket> EnterAsync(string user, int answers, CancellationToken cancellationToken)
    {
        Ticket ticket = Enter(user, answers);
        try
        {
            await ticket.Admitted.WaitAsync(cancellationToken);
            return ticket;
        }
        catch
        {
            ticket.Dispose();
            throw;
        }
    }

    /// <summary>Closes, and completes when the last one has left or the time is over, when what still runs is cut.</summary>
    public async Task DrainAsync(TimeSpan patience)
    {
        lock (_gate)
        {
            if (_closed) return;
            _closed = true;
            while (_queue.TryTake(int.MaxValue, out Ticket? ticket))
            {
                _queue.Ended(ticket!.User, ticket.Answers);
                ticket.Refuse();
            }
            if (_inside == 0) _empty.TrySetResult();
        }
        try
        {
            await _empty.Task.WaitAsync(patience, time);
        }
        catch (TimeoutException)
        {
            await _cut.CancelAsync();
        }
    }

    public void Dispose() => _cut.Dispose();

    private void LetIn()
    {
        while (_queue.TryTake(running - _running, out Ticket? next))
        {
            _running += next!.Answers;
            next.LetIn(time.GetTimestamp());
        }
    }

    private void Leave(Ticket ticket)
    {
        lock (_gate)
        {
            _inside--;
            if (ticket.Since is { } since)
            {
                double took = time.GetElapsedTime(since).TotalSeconds;
                _usual = _usual == 0 ? took : _usual + Share * (took - _usual);
                _running -= ticket.Answers;
                _queue.Ended(ticket.User, ticket.Answers);
                LetIn();
            }
            else if (!ticket.Admitted.IsCompleted) _queue.Remove(ticket.User, ticket);
            if (_closed && _inside == 0) _empty.TrySetResult();
        }
    }

    /// <summary>Places come free as answers end: so many a second as run at once, over what one takes.</summary>
    private TimeSpan? WaitBehind(int ahead) => _usual == 0 ? null : TimeSpan.FromSeconds((ahead + 1) * _usual / running);

    private int RetryAfter(int ahead) => WaitBehind(ahead) is { } wait ? (int)Math.Clamp(Math.Ceiling(wait.TotalSeconds), 1, 3600) : UnknownSeconds;

    /// <summary>One request from the queue to its end.</summary>
    internal sealed class Ticket(Admission admission, string user, int answers) : IDisposable
    {
        private readonly TaskCompletionSource _admitted = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private int _left;

        public string User => user;
        public int Answers => answers;
        /// <summary>Completes when it is its turn; faults when the silo stops before that.</summary>
        public Task Admitted => _admitted.Task;
        /// <summary>When it was let in; null also where it only joined.</summary>
        public long? Since { get; private set; }

        /// <summary>While it waits: requests before it, and how long that may take (null: nobody knows yet).</summary>
        public (int Ahead, TimeSpan? Wait)? Place
        {
            get
            {
                lock (admission._gate)
                {
                    if (Admitted.IsCompleted || _left != 0) return null;
                    int ahead = admission._queue.Ahead(user, this);
                    return (ahead, admission.WaitBehind(ahead));
                }
            }
        }

        internal void LetIn(long now)
        {
            Since = now;
            _admitted.TrySetResult();
        }

        internal void Join() => _admitted.TrySetResult();

        internal void Refuse()
        {
            _admitted.TrySetException(new ApiException(ApiError.Stopping));
            // Whoever left meanwhile does not look.
            _ = _admitted.Task.Exception;
        }

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _left, 1) == 0) admission.Leave(this);
        }
    }
}
