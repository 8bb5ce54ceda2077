using Orleans.Concurrency;

namespace FlashOrleans.Abstractions;

/// <summary>
/// One layer of one package: the mailbox in front of its flash slice, window and keys and values, which live in its silo's host exactly while
/// this grain is active. Key: package hash, slash, layer ("3f…/12"). A turn only enqueues.
/// </summary>
[Alias("flashorleans.layer")]
public interface ILayerGrain : IGrainWithStringKey
{
    /// <summary>Puts a wave into the layer's inbox. Acknowledged when it is there, long before it is computed; throws
    /// <see cref="LayerUnavailableException"/> when the layer cannot take it (the sender then faults its slots).</summary>
    [Alias("forward"), AlwaysInterleave]
    ValueTask Forward(WaveMessage wave);

    /// <summary>True while this layer's host has the step anywhere: inbox, running step, outbox.</summary>
    [Alias("holds"), AlwaysInterleave, ResponseTimeout("00:00:10")]
    Task<bool> Holds(Guid session, int epoch, long step);

    /// <summary>Drops every slot of the session up to (epoch, step) wherever it waits in this layer's host.</summary>
    [Alias("cancel"), AlwaysInterleave, OneWay]
    Task Cancel(Guid session, int epoch, long step);

    /// <summary>The session is forgotten: its keys and values are freed in this layer, in memory and on disk, but for what other sessions hold too.</summary>
    [Alias("close"), AlwaysInterleave, OneWay]
    Task CloseSession(Guid session, KvChain chain);

    /// <summary>The session is over; what this layer computed for it stays, while there is room, for whoever begins the same way.</summary>
    [Alias("release"), AlwaysInterleave, OneWay]
    Task ReleaseSession(Guid session);

    /// <summary>The session's turn is over: what this layer computed for it may be taken up by others, and saved.</summary>
    [Alias("settle"), AlwaysInterleave, OneWay]
    Task Settle(Guid session);

    /// <summary>Finds what this layer has of a chain, computed for this session or another, in memory or on disk, and gives it to the session: positions that the layer holds for it now.
    /// <see cref="KvChain.NotYet"/>: the layer is still being loaded, ask again.</summary>
    [Alias("restore"), AlwaysInterleave, ResponseTimeout("00:00:10")]
    Task<int> Restore(Guid session, KvChain chain);

    /// <summary>Completes when the layer's resident part is in memory; throws <see cref="LayerUnavailableException"/> when it cannot be loaded.</summary>
    [Alias("ready"), AlwaysInterleave, ResponseTimeout("01:00:00")]
    Task Ready();

    [Alias("report"), AlwaysInterleave, ResponseTimeout("00:00:10")]
    Task<LayerReport> Report();

    /// <summary>Drains and leaves memory; the next wave activates it again. For operators and tests.</summary>
    [Alias("deactivate"), AlwaysInterleave]
    Task Deactivate();
}
