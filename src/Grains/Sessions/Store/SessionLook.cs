using FlashOrleans.Engine;
using Orleans.Serialization;

namespace FlashOrleans.Grains;

/// <summary>A session as somebody sees it who looks after the silo.</summary>
/// <param name="Info">As it is stored.</param>
/// <param name="User">Whose its last turn was; null where nobody was named.</param>
/// <param name="InMemory">How many of its tokens the first layer has keys and values of in memory; null where that layer is not in this silo.</param>
/// <param name="OnDisk">And on disk.</param>
public sealed record SessionSight(SessionInfo Info, string? User, int? InMemory, int? OnDisk);

/// <summary>
/// Looks at stored sessions from outside: no grain is woken and nothing is changed. What a list does not say is in the record of the last turn; where keys and values are, the silo's own first layer of the model
/// says, of the chain that the stored tokens make. Any thread.
/// </summary>
public sealed class SessionLook
{
    private readonly LayerHost _host;
    private readonly SessionStore _store;
    private readonly Serializer<TurnRecord> _records;

    internal SessionLook(LayerHost host, SessionStore store, Serializer<TurnRecord> records)
    {
        _host = host;
        _store = store;
        _records = records;
    }

    public async Task<SessionSight> AtAsync(SessionInfo session)
    {
        ArgumentNullException.ThrowIfNull(session);
        byte[] id = session.Id.ToByteArray();
        byte[]? stored = await _store.ReadAsync(tables => tables.Record(id));
        if (stored is null || _records.Deserialize(stored) is not { } record) return new SessionSight(session, null, null, null);
        if (_host.Find(new LayerKey(session.Package, 0))?.Layer is not { } layer) return new SessionSight(session, record.Request.User, null, null);
        (int[] tokens, int[] lengths) = await _store.ReadAsync(tables => tables.Tokens(id));
        ulong[] chain = new ulong[tokens.Length + 1];
        chain[0] = record.Start != 0 ? record.Start : TokenChain.Start;
        for (int i = 0; i < tokens.Length; i++) chain[i + 1] = TokenChain.Next(chain[i], tokens[i], lengths.Length == 0 ? 0 : lengths[i]);
        (int Memory, int Disk)? kv = await _host.Conductor.LookAsync(layer, session.Id, chain);
        return new SessionSight(session, record.Request.User, kv?.Memory, kv?.Disk);
    }
}
