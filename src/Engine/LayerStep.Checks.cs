using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What was read is checked by whoever uses it first: compute threads, just before its segment is summed, since they have to fetch it anyway. A unit that is wrong is read once more, by a reader that
/// checks, and its segments wait for it as for any other.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Less than this one thread checks sooner than two.</summary>
    private const int ParallelCheckBytes = 128 * 1024;
    private Action<int, int>? _checkJob;
    private bool _wrong;

    private bool AnyUnchecked(ReadOnlySpan<Segment> segments)
    {
        foreach (int i in _ready)
            for (int k = segments[i].From; k < segments[i].To; k++)
                if (!_neededFailed[k] && _layer.Bundles!.IsUnchecked(_neededSlot[k])) return true;
        return false;
    }

    /// <summary>Segments with a unit whose check failed have not been summed: it is read again, and they wait for it as for any other.</summary>
    private void WithdrawWrong(Span<Segment> segments)
    {
        if (!Interlocked.Exchange(ref _wrong, false)) return;
        var bundles = _layer.Bundles!;
        foreach (int i in _ready)
        {
            for (int k = segments[i].From; k < segments[i].To; k++)
            {
                int slot = _neededSlot[k];
                if (_neededFailed[k] || _late[k] || !(slot < 0 || IsPassing(k) ? TakeAgain(k) : bundles.RereadIfWrong(_needed[k], slot))) continue;
                if (_neededSlot[k] >= 0) _awaiting[slot] = k;
                _late[k] = true;
                _awaited++;
                for (int s = _segmentOf[k], left = _uses[k]; left > 0; s++)
                {
                    if (segments[s].From > k || k >= segments[s].To) continue;
                    left--;
                    segments[s].Missing++;
                }
            }
        }
        for (int r = _ready.Count - 1; r >= 0; r--)
        {
            if (segments[_ready[r]].Missing == 0) continue;
            segments[_ready[r]].Done = false;
            _ready.RemoveAt(r);
        }
        bundles.Flush();
    }

    /// <summary>Compute threads: checks the units of a segment that nobody has checked since they were read; false when one is wrong.</summary>
    private bool IsSound(in Segment segment)
    {
        bool sound = true;
        for (int k = segment.From; k < segment.To; k++)
            if (!_neededFailed[k]) sound &= IsPassing(k) ? CheckPassing(k) : _layer.Bundles!.Check(_needed[k], _neededSlot[k]);
        if (!sound) Volatile.Write(ref _wrong, true);
        return sound;
    }

    /// <summary>Checks what has been read since, threads dividing spans of units: one expert that has come late keeps all of them busy.</summary>
    private void CheckReady(ReadOnlySpan<Segment> segments, long units)
    {
        if (!AnyUnchecked(segments)) return;
        var bundles = _layer.Bundles!;
        pool.Run(_checkJob ??= CheckItem, _ready.Count * bundles.Region.Checks.Count, units * bundles.Region.SlotBytes > ParallelCheckBytes);
        foreach (int i in _ready)
            for (int k = segments[i].From; k < segments[i].To; k++)
                if (!_neededFailed[k] && !bundles.Checked(_neededSlot[k])) _wrong = true;
    }

    private void CheckItem(int item, int worker)
    {
        var bundles = _layer.Bundles!;
        int spans = bundles.Region.Checks.Count;
        var segment = _segments[_ready[item / spans]];
        for (int k = segment.From; k < segment.To; k++)
            if (!_neededFailed[k]) bundles.CheckSpan(_needed[k], _neededSlot[k], item % spans);
    }
}
