namespace FlashOrleans.Engine;

/// <summary>What was found of a chain for a session, on its way to it: blocks that are held meanwhile. Conductor thread; its pieces are the I/O thread's until they are read.</summary>
internal sealed class KvRecall(Guid session, KvSequence sequence, ReadOnlyMemory<ulong> chain, int at, List<KvPiece> pieces)
{
    public Guid Session => session;
    public KvSequence Sequence => sequence;
    public ReadOnlyMemory<ulong> Chain => chain;
    /// <summary>Position of the first piece.</summary>
    public int At => at;
    public List<KvPiece> Pieces => pieces;
    /// <summary>Who wants to hear of it.</summary>
    public List<Action<int>> Waiting { get; } = [];

    public bool Is(ReadOnlySpan<ulong> other) => other.Length == chain.Length && other[0] == chain.Span[0] && other[^1] == chain.Span[^1];
}
