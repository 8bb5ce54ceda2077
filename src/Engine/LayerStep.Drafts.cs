namespace FlashOrleans.Engine;

/// <summary>
/// The tail of a slot that carries drafts. Its rows come one after the other, each with the logits behind one of its tokens: sampled with that position's own randomness, as a step of its
/// own would be, and as long as what comes out is the draft that stands there the next row counts too. The first that differs is a token all the same: the one that belongs there.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    private readonly List<SampledToken> _verified = [];
    private bool _verifying;

    private void Verify(int index, int row, float* logits)
    {
        ref readonly var s = ref _slots[index];
        int last = s.FirstRow + s.Slot.Count - 1;
        if (row == last - s.Slot.Drafts)
        {
            _verified.Clear();
            _verifying = true;
        }
        if (!_verifying || s.Dead) return;
        _layer.WatchLogits?.Invoke(PositionOf(row), new ReadOnlySpan<float>(logits, _layer.Config.VocabSize));
        if (!TrySample(index, PositionOf(row) + 1, logits, out var sampled)) return;
        _verified.Add(sampled);
        _verifying = row < last && sampled.Token == _tokens[row + 1];
        if (_verifying) return;
        var more = _verified.Count > 1 ? _verified.GetRange(1, _verified.Count - 1).ToArray() : null;
        Complete(s.Slot, _verified[0], PositionOf(row) + 1, null, more);
    }
}
