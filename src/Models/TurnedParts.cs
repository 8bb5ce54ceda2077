namespace FlashOrleans.Models;

/// <summary>
/// The parts of a feed-forward whose rows are columns in the checkpoint, each read in one go before it is used: while the blocks of one are made, the next one is read into the other room. The import's
/// thread calls, a thread of its own reads; what a read throws is thrown by <see cref="Await"/>.
/// </summary>
internal sealed class TurnedParts : IDisposable
{
    private readonly Checkpoint _checkpoint;
    private readonly CancellationToken _cancel;
    private BackgroundWork<bool>? _reading;

    public TurnedParts(Checkpoint checkpoint, IReadOnlyList<TurnedPart> parts, CancellationToken cancel)
    {
        _checkpoint = checkpoint;
        _cancel = cancel;
        All = parts;
        Read(0);
    }

    public IReadOnlyList<TurnedPart> All { get; }

    /// <summary>Part <paramref name="index"/> is there from now on, the one before it is not; the next one is on its way.</summary>
    public void Await(int index)
    {
        _ = _reading!.Result;
        Dispose();
        if (index + 1 < All.Count) Read(index + 1);
    }

    public void Dispose()
    {
        _reading?.Dispose();
        _reading = null;
    }

    private void Read(int index) => _reading = new BackgroundWork<bool>(stop =>
    {
        _checkpoint.Hold(All[index], index % 2, stop);
        return true;
    }, _cancel);
}
