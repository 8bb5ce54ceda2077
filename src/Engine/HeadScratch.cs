using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What the head of a step needs for one vocabulary: room for a tile of logits, and the sampler. One per conductor, since a step runs its head to the end without
/// parking: with one per pooled step a large vocabulary would be held many times over. Conductor thread only; grows to the largest vocabulary met.
/// </summary>
internal sealed unsafe class HeadScratch(MemoryLedger ledger) : IDisposable
{
    /// <summary>Logit rows computed per pass over the head.</summary>
    public const int Tile = 8;

    private NativeBuffer? _logits;
    private int _vocabulary;

    public float* Logits => (float*)_logits!.Pointer;
    public Sampler Sampler { get; private set; } = null!;

    public void Ensure(int vocabulary)
    {
        if (vocabulary <= _vocabulary) return;
        _logits?.Dispose();
        _logits = new NativeBuffer((long)Tile * vocabulary * sizeof(float), ledger, "scratch", alignment: 64);
        Sampler = new Sampler(vocabulary);
        _vocabulary = vocabulary;
    }

    public void Dispose()
    {
        _logits?.Dispose();
        _logits = null;
        _vocabulary = 0;
    }
}
