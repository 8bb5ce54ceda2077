using FlashOrleans.Abstractions;
using Orleans.Runtime;

namespace FlashOrleans.Grains;

/// <summary>A piece of work for the store's writer.</summary>
internal abstract class StoreWrite
{
    /// <summary>Survives a loss of power once it is done, not only the end of the process.</summary>
    public virtual bool Syncs => false;

    /// <summary>Within a transaction that may be rolled back and tried again: what it is answered is read when it is done. Writer's thread.</summary>
    public abstract void Apply(SessionTables tables);

    /// <summary>It is committed, or failed. Writer's thread: hands on and returns.</summary>
    public abstract void Done(SessionStoreException? error);
}

/// <summary>
/// One silo's sessions: in SQLite (docs/adr/0021), a file that silos of one machine may share or a database in memory, or in Redis (docs/adr/0029), which silos of many machines share. One thread writes,
/// and whatever waits for it goes into one transaction, since a commit costs the same for one token as for many. Reads have a thread and a connection of their own, except in memory. Opens with the silo
/// before it takes grains, closes after the last of them; a place that cannot be used fails the start with one line. What cannot be written fails the writes it was part of, alone, with a <see cref="SessionStoreException"/>. Any thread.
/// </summary>
public sealed class SessionStore : ILifecycleParticipant<ISiloLifecycle>, IDisposable
{
    private const int StackBytes = 512 * 1024;
    private readonly SessionStoreOptions _options;
    private readonly object _gate = new();
    private List<StoreWrite> _waiting = [];
    private Thread? _writer;
    private LoaderThread? _reader;
    private SessionTables? _tables, _read;
    private bool _closed;
    private long _commits, _syncs, _writes;
    private int _count;

    public SessionStore(LayerHostOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        _options = options.Sessions;
    }

    internal SessionStore(SessionStoreOptions options) => _options = options;

    /// <summary>Called when a new session is one too many.</summary>
    internal Action? Overfull { get; set; }
    /// <summary>Sessions in it, as far as this silo knows: others may share the place.</summary>
    internal int Count { get => Volatile.Read(ref _count); set => Volatile.Write(ref _count, value); }

    /// <summary>Transactions so far, how many of them were synced, and the writes they held.</summary>
    internal (long Commits, long Syncs, long Writes) Counts => (Volatile.Read(ref _commits), Volatile.Read(ref _syncs), Volatile.Read(ref _writes));

    /// <summary>Throws a <see cref="SessionStoreException"/> where sessions cannot be kept there now.</summary>
    public static void Check(SessionStoreOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (options.Path is not null) SessionTables.Open(options).Dispose();
    }

    public void Participate(ISiloLifecycle observer)
    {
        ArgumentNullException.ThrowIfNull(observer);
        observer.Subscribe(nameof(SessionStore), ServiceLifecycleStage.ApplicationServices, _ =>
        {
            Open();
            return Task.CompletedTask;
        }, _ => CloseAsync());
    }

    /// <summary>Last used first, from behind a session on.</summary>
    public Task<IReadOnlyList<SessionInfo>> ListAsync(int most, Guid? after = null) => ReadAsync<IReadOnlyList<SessionInfo>>(t => t.List(most, after));

    /// <summary>Null: not stored.</summary>
    public Task<SessionInfo?> FindAsync(Guid id) => ReadAsync(t => t.Find(id));

    internal void Open()
    {
        // The threads belong to no call: without this each would carry the context of this one.
        using (ExecutionContext.SuppressFlow())
        {
            _tables = SessionTables.Open(_options);
            _count = _tables.Count();
            if (_options.Path is not null)
            {
                _read = SessionTables.Open(_options with { MaxPages = null });
                _reader = new LoaderThread("flash-sessions-r");
            }
            _writer = new Thread(Run, StackBytes) { IsBackground = true, Name = "flash-sessions" };
            _writer.Start();
        }
    }

    internal void Submit(StoreWrite write)
    {
        lock (_gate)
        {
            if (!_closed)
            {
                _waiting.Add(write);
                if (_waiting.Count == 1) Monitor.Pulse(_gate);
                return;
            }
        }
        write.Done(new SessionStoreException("the silo is stopping: nothing is written any more"));
    }

    /// <summary>A session was stored for the first time.</summary>
    internal void Added()
    {
        if (Interlocked.Increment(ref _count) > _options.MaxSessions) Overfull?.Invoke();
    }

    internal Task<T> WriteAsync<T>(Func<SessionTables, Task<T>> write, bool syncs = false)
    {
        var work = new Write<T>(write, syncs);
        Submit(work);
        return work.Task;
    }

    internal Task<T> ReadAsync<T>(Func<SessionTables, T> read)
    {
        return _reader is { } reader ? reader.RunAsync(Read) : WriteAsync(tables => Task.FromResult(read(tables)));

        T Read()
        {
            try
            {
                return read(_read!);
            }
            catch (Exception e) when (e is not SessionStoreException)
            {
                throw new SessionStoreException($"sessions cannot be read from {_options.Place}: {_read!.Reason(e)}", e);
            }
        }
    }

    public void Dispose()
    {
        lock (_gate)
        {
            if (_closed) return;
            _closed = true;
            Monitor.Pulse(_gate);
        }
        _writer?.Join();
        _reader?.Dispose();
        _read?.Dispose();
        _tables?.Dispose();
    }

    // What waits is still written: not on a pool thread that the silo's shutdown shares.
    private Task CloseAsync()
    {
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        new Thread(() =>
        {
            try { Dispose(); done.SetResult(); }
            catch (Exception e) { done.SetException(e); }
        })
        { IsBackground = true, Name = "flash-stop" }.Start();
        return done.Task;
    }

    private void Run()
    {
        List<StoreWrite> batch = [];
        while (true)
        {
            lock (_gate)
            {
                while (_waiting.Count == 0 && !_closed) Monitor.Wait(_gate);
                if (_waiting.Count == 0) return;
                (batch, _waiting) = (_waiting, batch);
            }
            Carry(batch);
            batch.Clear();
        }
    }

    private void Carry(List<StoreWrite> batch)
    {
        (SessionStoreException? error, bool separable) = Try(batch);
        if (error is null || batch.Count == 1 || !separable)
        {
            foreach (StoreWrite write in batch) write.Done(error);
            return;
        }
        // Nobody fails for what another one asked for.
        List<StoreWrite> one = [];
        foreach (StoreWrite write in batch)
        {
            one.Clear();
            one.Add(write);
            write.Done(Try(one).Error);
        }
    }

    private (SessionStoreException? Error, bool Separable) Try(List<StoreWrite> batch)
    {
        bool syncs = false;
        foreach (StoreWrite write in batch) syncs |= write.Syncs;
        try
        {
            _tables!.Begin(syncs);
            foreach (StoreWrite write in batch) write.Apply(_tables);
            _options.Committing?.Invoke();
            _tables.Commit();
            Volatile.Write(ref _commits, _commits + 1);
            Volatile.Write(ref _writes, _writes + batch.Count);
            if (syncs) Volatile.Write(ref _syncs, _syncs + 1);
            return (null, false);
        }
        catch (Exception e)
        {
            _tables!.Rollback();
            return (e as SessionStoreException ?? new SessionStoreException($"sessions cannot be written to {_options.Place}: {_tables.Reason(e)}", e), _tables.Separable(e));
        }
    }

    private sealed class Write<T>(Func<SessionTables, Task<T>> write, bool syncs) : StoreWrite
    {
        private readonly TaskCompletionSource<T> _done = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private Task<T>? _result;

        public Task<T> Task => _done.Task;
        public override bool Syncs => syncs;
        public override void Apply(SessionTables tables) => _result = write(tables);

        public override void Done(SessionStoreException? error)
        {
            if (error is null) _done.SetResult(_result!.Result);
            else _done.SetException(error);
        }
    }
}
