namespace FlashOrleans.Grains;

/// <summary>
/// What a <see cref="SessionStore"/> keeps sessions in, over one connection: <see cref="SqliteTables"/> or <see cref="RedisTables"/>. One thread at a time. What changes something is called between
/// <see cref="Begin"/> and <see cref="Commit"/>, and its answer is there when that returns: all of it happened then, or nothing. An owner that no longer is it changes nothing and is answered so; what
/// cannot be done otherwise throws, here or there, whatever the database's library throws; <see cref="Reason"/> makes one line of it.
/// </summary>
internal abstract class SessionTables : IDisposable
{
    /// <summary>A place that cannot be used is a <see cref="Abstractions.SessionStoreException"/> of one line.</summary>
    public static SessionTables Open(SessionStoreOptions options) =>
        RedisAddress.Is(options.Path) ? RedisTables.Open(RedisAddress.Parse(options.Path), options.PatienceMilliseconds ?? RedisTables.Patience) : SqliteTables.Open(options.Path, options.MaxPages);

    /// <param name="syncs">Survives a loss of power, as far as the database was set up for that.</param>
    public abstract void Begin(bool syncs);

    public abstract void Commit();

    /// <summary>Where there is something to undo; does not throw.</summary>
    public abstract void Rollback();

    /// <summary>One line of what went wrong.</summary>
    public virtual string Reason(Exception e) => e.Message.ReplaceLineEndings(" ");

    /// <summary>Whether writes of a transaction that failed so may be tried one by one: nothing of it has happened, and it may be the fault of one.</summary>
    public abstract bool Separable(Exception e);

    /// <summary>The session is this owner's from now on; null when it is not stored.</summary>
    public abstract Task<StoredSession?> Take(SessionKey key, int leastEpoch);

    /// <summary>The row and the history from a position on. False: the session is somebody else's.</summary>
    public abstract Task<bool> Write(SessionKey key, TurnRow row, TokenRun tokens);

    /// <summary>Tokens behind those that are there. False: the session is somebody else's.</summary>
    public abstract Task<bool> Append(SessionKey key, TokenRun tokens);

    /// <summary>The history from a position on, whatever was there. False: the session is somebody else's.</summary>
    public abstract Task<bool> Rewrite(SessionKey key, TokenRun tokens);

    /// <summary>False: the session is somebody else's.</summary>
    public abstract Task<bool> Delete(SessionKey key);

    /// <summary>The whole history, and the lengths it was computed for.</summary>
    public abstract (int[] Tokens, int[] Lengths) Tokens(byte[] id);

    /// <summary>Last used first, from behind a session on.</summary>
    public abstract List<SessionInfo> List(int most, Guid? after);

    /// <summary>The last turn's record; null: the session is not stored.</summary>
    public abstract byte[]? Record(byte[] id);

    public abstract SessionInfo? Find(Guid id);

    public abstract int Count();

    /// <summary>Not used since, longest ago first.</summary>
    public abstract List<(Guid Id, long Used)> Unused(long before, int most);

    /// <summary>What is too many: those whose turn is over before others, longest ago first.</summary>
    public abstract List<(Guid Id, long Used)> Excess(int keep, int most);

    public abstract void Dispose();
}
