using System.Runtime.InteropServices;
using FlashOrleans.Abstractions;
using Microsoft.Data.Sqlite;

namespace FlashOrleans.Grains;

/// <summary>
/// Sessions in SQLite (docs/adr/0021): the tables over one connection, and every statement about them. A history is rows of up to <see cref="MostInRow"/> tokens, so that writing a token costs a row and
/// cutting a history the rows behind the cut. Every statement is carried out when it is called. Throws <see cref="SqliteException"/> for what the database says, <see cref="SessionStoreException"/> for
/// a file that cannot be used.
/// </summary>
internal sealed class SqliteTables : SessionTables
{
    /// <summary>Small enough for rows to stay in their page.</summary>
    public const int MostInRow = 128;
    private const int PageKiB = 4, CacheKiB = 256, BusyMilliseconds = 10_000;

    /// <summary>What brings a file from each version to the next; the first from an empty one. Only ever added to.</summary>
    internal static readonly string[] Versions =
    [
        """
        create table session (id blob not null primary key, owner integer not null, epoch integer not null, package text not null, model text not null,
            created integer not null, used integer not null, turn_id blob not null, over integer not null, turn blob not null) without rowid;
        create index session_used on session (used);
        create table run (session blob not null, start integer not null, ids blob not null, lengths blob not null, primary key (session, start)) without rowid;
        """,
    ];

    private static readonly Task<bool> s_yes = Task.FromResult(true), s_no = Task.FromResult(false);
    private readonly SqliteConnection _connection;
    private readonly SqliteCommand _begin, _commit, _rollback, _relaxed, _synced, _take, _insert, _update, _owned, _append, _cut, _before, _shorten, _put, _delete, _deleteRuns, _tokens, _list, _find, _record, _unused, _excess, _count;
    private bool _syncs;

    private SqliteTables(SqliteConnection connection)
    {
        _connection = connection;
        _begin = Command("begin immediate");
        _commit = Command("commit");
        _rollback = Command("rollback");
        _relaxed = Command("pragma synchronous = normal");
        _synced = Command("pragma synchronous = full");
        _take = Command("update session set owner = $owner, epoch = max(epoch + 1, $epoch) where id = $id returning epoch, package, used, turn", "$id", "$owner", "$epoch");
        _insert = Command("insert into session values ($id, $owner, $epoch, $package, $model, $now, $now, $turn, $over, $record) on conflict do nothing", "$id", "$owner", "$epoch", "$package", "$model", "$now", "$turn", "$over", "$record");
        _update = Command("update session set epoch = $epoch, package = $package, model = $model, used = $now, turn_id = $turn, over = $over, turn = $record where id = $id and owner = $owner",
            "$id", "$owner", "$epoch", "$package", "$model", "$now", "$turn", "$over", "$record");
        _owned = Command("select 1 from session where id = $id and owner = $owner", "$id", "$owner");
        _append = Command("insert into run select $id, $start, $ids, $lengths where exists (select 1 from session where id = $id and owner = $owner)", "$id", "$owner", "$start", "$ids", "$lengths");
        _cut = Command("delete from run where session = $id and start >= $start", "$id", "$start");
        _before = Command("select start, length(ids) / 4 from run where session = $id and start < $start order by start desc limit 1", "$id", "$start");
        _shorten = Command("update run set ids = substr(ids, 1, $bytes), lengths = coalesce(substr(lengths, 1, $bytes), x'') where session = $id and start = $start", "$id", "$start", "$bytes");
        _put = Command("insert into run values ($id, $start, $ids, $lengths)", "$id", "$start", "$ids", "$lengths");
        _delete = Command("delete from session where id = $id and owner = $owner", "$id", "$owner");
        _deleteRuns = Command("delete from run where session = $id", "$id");
        _tokens = Command("select start, ids, lengths from run where session = $id order by start", "$id");
        const string row = "select id, model, package, coalesce((select start + length(ids) / 4 from run where session = id order by start desc limit 1), 0), created, used, turn_id, over from session";
        _list = Command($"{row} where $after is null or (used, id) < (select used, id from session where id = $after) order by used desc, id desc limit $most", "$after", "$most");
        _find = Command($"{row} where id = $id", "$id");
        _record = Command("select turn from session where id = $id", "$id");
        _unused = Command("select id, used from session where used < $before order by used limit $most", "$before", "$most");
        _excess = Command("select id, used from session order by over desc, used limit max(0, min($most, (select count(*) from session) - $keep))", "$keep", "$most");
        _count = Command("select count(*) from session");
    }

    /// <summary>Opens the file, makes it (for its owner alone) where there is none, and brings it to this build's version. Null: a database in memory.</summary>
    public static SqliteTables Open(string? path, int? maxPages = null, string[]? versions = null)
    {
        var connection = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = path ?? ":memory:", Pooling = false, DefaultTimeout = BusyMilliseconds / 1000 }.ToString());
        try
        {
            if (path is not null) Make(path);
            connection.Open();
            // Deleted conversations are overwritten. Readers do not wait for the writer, nor it for them; what a kill of the process leaves behind is whole.
            Execute(connection, $"""
                pragma busy_timeout = {BusyMilliseconds};
                pragma cache_size = -{CacheKiB};
                pragma temp_store = memory;
                pragma secure_delete = on;
                pragma journal_mode = wal;
                pragma synchronous = normal;
                pragma journal_size_limit = {4 << 20};
                """);
            if (maxPages is { } most) Execute(connection, $"pragma max_page_count = {most}");
            Migrate(connection, path, versions ?? Versions);
            return new SqliteTables(connection);
        }
        catch (Exception e)
        {
            connection.Dispose();
            if (e is SqliteException or IOException or UnauthorizedAccessException) throw new SessionStoreException($"sessions cannot be kept in {path}: {Line(e)}; choose another file with --sessions-db", e);
            throw;
        }
    }

    public override string Reason(Exception e) => Line(e);

    /// <summary>Whatever failed is rolled back.</summary>
    public override bool Separable(Exception e) => true;

    private static string Line(Exception e) => e switch
    {
        SqliteException { SqliteErrorCode: 13 } => "the disk is full",
        SqliteException { SqliteErrorCode: 26 } => "the file is no database of sessions",
        SqliteException { SqliteErrorCode: 5 } => "another process keeps it locked",
        SqliteException sqlite => sqlite.Message.ReplaceLineEndings(" "),
        _ => e.Message.ReplaceLineEndings(" "),
    };

    public override void Begin(bool syncs)
    {
        if (syncs != _syncs) (syncs ? _synced : _relaxed).ExecuteNonQuery();
        _syncs = syncs;
        _begin.ExecuteNonQuery();
    }

    public override void Commit() => _commit.ExecuteNonQuery();

    public override void Rollback()
    {
        try
        {
            // Some errors have undone it already.
            if (SQLitePCL.raw.sqlite3_get_autocommit(_connection.Handle) == 0) _rollback.ExecuteNonQuery();
        }
        catch (SqliteException)
        {
            // The next transaction says what is wrong.
        }
    }

    public override Task<StoredSession?> Take(SessionKey key, int leastEpoch)
    {
        Set(_take, key.Id, key.Owner, leastEpoch);
        using SqliteDataReader row = _take.ExecuteReader();
        return Task.FromResult(row.Read() ? new StoredSession(row.GetInt32(0), row.GetString(1), row.GetInt64(2), (byte[])row[3]) : null);
    }

    public override Task<bool> Write(SessionKey key, TurnRow row, TokenRun tokens)
    {
        SqliteCommand command = row.New ? _insert : _update;
        Set(command, key.Id, key.Owner, row.Epoch, row.Package, row.Model, row.Now, row.Turn.ToByteArray(), row.Over ? 1 : 0, row.Record);
        if (command.ExecuteNonQuery() == 0) return s_no;
        Replace(key.Id, tokens);
        return s_yes;
    }

    public override Task<bool> Append(SessionKey key, TokenRun tokens)
    {
        if (tokens.Ids.Length <= MostInRow * sizeof(int))
        {
            Set(_append, key.Id, key.Owner, tokens.Start, tokens.Ids, tokens.Lengths);
            return _append.ExecuteNonQuery() == 1 ? s_yes : s_no;
        }
        return Rewrite(key, tokens);
    }

    public override Task<bool> Rewrite(SessionKey key, TokenRun tokens)
    {
        Set(_owned, key.Id, key.Owner);
        if (_owned.ExecuteScalar() is null) return s_no;
        Replace(key.Id, tokens);
        return s_yes;
    }

    public override Task<bool> Delete(SessionKey key)
    {
        Set(_delete, key.Id, key.Owner);
        if (_delete.ExecuteNonQuery() == 0) return s_no;
        Set(_deleteRuns, key.Id);
        _deleteRuns.ExecuteNonQuery();
        return s_yes;
    }

    public override (int[] Tokens, int[] Lengths) Tokens(byte[] id)
    {
        List<int> tokens = [], lengths = [];
        Set(_tokens, id);
        using SqliteDataReader row = _tokens.ExecuteReader();
        while (row.Read())
        {
            if (row.GetInt32(0) != tokens.Count) throw new SessionStoreException($"session {new Guid(id)} is damaged: {tokens.Count} tokens, then those from {row.GetInt32(0)} on; delete it");
            tokens.AddRange(MemoryMarshal.Cast<byte, int>((byte[])row[1]));
            lengths.AddRange(MemoryMarshal.Cast<byte, int>((byte[])row[2]));
        }
        return ([.. tokens], [.. lengths]);
    }

    public override List<SessionInfo> List(int most, Guid? after)
    {
        Set(_list, after is { } id ? id.ToByteArray() : DBNull.Value, most);
        return Infos(_list);
    }

    public override byte[]? Record(byte[] id)
    {
        Set(_record, id);
        return (byte[]?)_record.ExecuteScalar();
    }

    public override SessionInfo? Find(Guid id)
    {
        Set(_find, id.ToByteArray());
        return Infos(_find).FirstOrDefault();
    }

    public override int Count() => (int)(long)_count.ExecuteScalar()!;

    public override List<(Guid Id, long Used)> Unused(long before, int most)
    {
        Set(_unused, before, most);
        return Ids(_unused);
    }

    public override List<(Guid Id, long Used)> Excess(int keep, int most)
    {
        Set(_excess, keep, most);
        return Ids(_excess);
    }

    public override void Dispose()
    {
        foreach (SqliteCommand command in new[] { _begin, _commit, _rollback, _relaxed, _synced, _take, _insert, _update, _owned, _append, _cut, _before, _shorten, _put, _delete, _deleteRuns, _tokens, _list, _find, _record, _unused, _excess, _count }) command.Dispose();
        _connection.Dispose();
    }

    private void Replace(byte[] id, TokenRun tokens)
    {
        Set(_cut, id, tokens.Start);
        _cut.ExecuteNonQuery();
        Set(_before, id, tokens.Start);
        (int start, int count) = (0, 0);
        using (SqliteDataReader row = _before.ExecuteReader())
        {
            if (row.Read()) (start, count) = (row.GetInt32(0), row.GetInt32(1));
        }
        if (start + count > tokens.Start)
        {
            Set(_shorten, id, start, (tokens.Start - start) * sizeof(int));
            _shorten.ExecuteNonQuery();
        }
        const int most = MostInRow * sizeof(int);
        for (int at = 0; at < tokens.Ids.Length; at += most)
        {
            var here = at..Math.Min(at + most, tokens.Ids.Length);
            Set(_put, id, tokens.Start + at / sizeof(int), tokens.Ids[here], tokens.Lengths.Length == 0 ? tokens.Lengths : tokens.Lengths[here]);
            _put.ExecuteNonQuery();
        }
    }

    private static List<SessionInfo> Infos(SqliteCommand command)
    {
        List<SessionInfo> all = [];
        using SqliteDataReader row = command.ExecuteReader();
        while (row.Read())
        {
            all.Add(new SessionInfo(new Guid((byte[])row[0]), row.GetString(1), row.GetString(2), row.GetInt32(3), DateTimeOffset.FromUnixTimeMilliseconds(row.GetInt64(4)),
                DateTimeOffset.FromUnixTimeMilliseconds(row.GetInt64(5)), new Guid((byte[])row[6]), row.GetInt32(7) != 0));
        }
        return all;
    }

    private static List<(Guid, long)> Ids(SqliteCommand command)
    {
        List<(Guid, long)> all = [];
        using SqliteDataReader row = command.ExecuteReader();
        while (row.Read()) all.Add((new Guid((byte[])row[0]), row.GetInt64(1)));
        return all;
    }

    private SqliteCommand Command(string text, params ReadOnlySpan<string> names)
    {
        SqliteCommand command = _connection.CreateCommand();
        command.CommandText = text;
        foreach (string name in names) command.Parameters.Add(new SqliteParameter { ParameterName = name });
        return command;
    }

    private static void Set(SqliteCommand command, params ReadOnlySpan<object> values)
    {
        for (int i = 0; i < values.Length; i++) command.Parameters[i].Value = values[i];
    }

    private static void Execute(SqliteConnection connection, string text)
    {
        using SqliteCommand command = connection.CreateCommand();
        command.CommandText = text;
        command.ExecuteNonQuery();
    }

    /// <summary>The database makes its other files with the rights of this one.</summary>
    private static void Make(string path)
    {
        if (File.Exists(path)) return;
        if (Path.GetDirectoryName(Path.GetFullPath(path)) is { Length: > 0 } folder) Directory.CreateDirectory(folder);
        var options = new FileStreamOptions { Mode = FileMode.OpenOrCreate, Access = FileAccess.Write };
        if (!OperatingSystem.IsWindows()) options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
        new FileStream(path, options).Dispose();
    }

    private static void Migrate(SqliteConnection connection, string? path, string[] versions)
    {
        Execute(connection, "begin immediate");
        using SqliteCommand ask = connection.CreateCommand();
        ask.CommandText = "pragma user_version";
        int version = (int)(long)ask.ExecuteScalar()!;
        if (version > versions.Length)
            throw new SessionStoreException($"sessions in {path} are of version {version}, this build knows them up to {versions.Length}: use a newer build, or another file with --sessions-db");
        for (; version < versions.Length; version++) Execute(connection, $"{versions[version]}; pragma user_version = {version + 1}");
        Execute(connection, "commit");
    }
}
