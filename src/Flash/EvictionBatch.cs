namespace FlashOrleans.Flash;

/// <summary>
/// The lowest-scored slots of one pass over a window, handed out lowest first. A heap of fixed size with the highest score on top
/// while it fills: a slot that is no candidate costs one comparison. Conductor thread, allocated once.
/// </summary>
internal sealed class EvictionBatch(int capacity)
{
    private readonly Candidate[] _candidates = new Candidate[capacity];
    private int _count;
    private int _next;

    private struct Candidate
    {
        public int Slot, Unit;
        public float Score;
    }

    public void Begin() => _count = _next = 0;

    public void Offer(int slot, int unit, float score)
    {
        Candidate candidate = new() { Slot = slot, Unit = unit, Score = score };
        if (_count < _candidates.Length)
        {
            int at = _count++;
            while (at > 0 && _candidates[(at - 1) / 2].Score < score)
            {
                _candidates[at] = _candidates[(at - 1) / 2];
                at = (at - 1) / 2;
            }
            _candidates[at] = candidate;
        }
        else if (score < _candidates[0].Score)
        {
            Sink(candidate, _count);
        }
    }

    /// <summary>Sorts what was offered, ascending (the second half of heap sort).</summary>
    public void End()
    {
        for (int n = _count - 1; n > 0; n--)
        {
            Candidate highest = _candidates[0];
            Sink(_candidates[n], n);
            _candidates[n] = highest;
        }
    }

    public bool Peek(out int slot, out int unit, out float score)
    {
        bool any = _next < _count;
        Candidate candidate = any ? _candidates[_next] : default;
        (slot, unit, score) = (candidate.Slot, candidate.Unit, candidate.Score);
        return any;
    }

    public void Skip() => _next++;

    /// <summary>Puts a candidate at the top of a heap of n and lets it sink to its place.</summary>
    private void Sink(Candidate candidate, int n)
    {
        int at = 0;
        while (true)
        {
            int child = 2 * at + 1;
            if (child >= n) break;
            if (child + 1 < n && _candidates[child + 1].Score > _candidates[child].Score) child++;
            if (_candidates[child].Score <= candidate.Score) break;
            _candidates[at] = _candidates[child];
            at = child;
        }
        _candidates[at] = candidate;
    }
}
