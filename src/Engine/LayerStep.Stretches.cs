using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Units of a step that come with a whole stretch (<see cref="Stretches"/>) and are used where it was read to. A stretch that could not be read, or a unit in it that is wrong, is nothing final: such units are asked for once more, one by one, as if there
/// were no stretches, so that what a fault ends is the same.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Indices of units to ask for once more, by themselves.</summary>
    private readonly List<int> _again = [];
    /// <summary>By index: the unit was found wrong in its stretch. Written by compute threads.</summary>
    private bool[] _wrongPassing = [];

    private void BeginStretches()
    {
        _again.Clear();
        if (_layer.Stretches is not { } stretches) return;
        if (_wrongPassing.Length < _needed.Length) _wrongPassing = new bool[_needed.Length];
        Array.Clear(_wrongPassing, 0, _neededCount);
        stretches.Choose(_needed.AsSpan(0, _neededCount), _layer.Bundles!.Window, _rows);
    }

    /// <summary>The unit lies in the slot of a stretch.</summary>
    private bool IsPassing(int index) => _neededSlot[index] >= _layer.Bundles!.Window.Slots;

    /// <summary>Takes all that is needed of the next unit's stretch: from the window what it holds, the rest from the stretch. False: it has no slot.</summary>
    private bool AcquireStretch()
    {
        var bundles = _layer.Bundles!;
        var stretches = _layer.Stretches!;
        int stretch = stretches.Of(_needed[_acquired]), end = _acquired;
        bool missing = false;
        for (; end < _neededCount && stretches.Of(_needed[end]) == stretch; end++) missing |= bundles.Window.Find(_needed[end]) < 0;
        int slot = -1, first = bundles.Window.Slots;
        bool there = false;
        if (missing && (slot = stretches.Store.Acquire(stretch, out there, urgent: IsDecode)) < 0)
        {
            _noStretch = true;
            return false;
        }
        if (missing && !there) _awaiting[first + slot] = _acquired;
        while (_acquired < end)
        {
            int unit = _needed[_acquired];
            if (bundles.Window.Find(unit) >= 0)
            {
                AcquireUnit();
                continue;
            }
            stretches.Use(slot);
            bundles.Passes(unit, there);
            _neededCold[_acquired] = true;
            TakeAt(first + slot, stretches.At(slot, unit), there);
        }
        return true;
    }

    private void StretchArrived(int stretch, int slot, ReadFault fault)
    {
        Runnable |= _noSlot;
        int from = _layer.Bundles!.Window.Slots + slot, k = from < _awaiting.Length ? _awaiting[from] : -1;
        if (k < 0) return;
        _awaiting[from] = -1;
        for (; k < _acquired && _layer.Stretches!.Of(_needed[k]) == stretch; k++)
        {
            if (_neededSlot[k] != from || !_late[k]) continue;
            if (fault == ReadFault.None) UnitArrived(k, fault);
            else Runnable |= TakeAgain(k);
        }
    }

    /// <summary>Compute threads.</summary>
    private bool CheckPassing(int index)
    {
        var region = _layer.Bundles!.Region;
        bool sound = region.Verify(_needed[index], (byte*)_neededAt[index] + region.PartOffset) == ReadFault.None;
        if (!sound) Volatile.Write(ref _wrongPassing[index], true);
        return sound;
    }

    /// <summary>A unit whose stretch failed, or that was found wrong in it, is to be asked for by itself; false when it is neither.</summary>
    private bool TakeAgain(int index)
    {
        if (!_late[index] && !_wrongPassing[index]) return false;
        _wrongPassing[index] = false;
        _layer.Stretches!.GiveBack(_neededSlot[index] - _layer.Bundles!.Window.Slots);
        _neededSlot[index] = -1;
        _again.Add(index);
        return true;
    }

    /// <summary>False when one of them has no slot.</summary>
    private bool AcquireAgain()
    {
        var bundles = _layer.Bundles!;
        while (_again.Count > 0)
        {
            int index = _again[^1], unit = _needed[index], slot = bundles.Acquire(unit, out bool ready);
            if (slot < 0)
            {
                _noSlot = true;
                return false;
            }
            _again.RemoveAt(_again.Count - 1);
            _neededSlot[index] = slot;
            _neededAt[index] = (nint)bundles.UnitBase(slot, unit);
            if (ready) UnitArrived(index, ReadFault.None);
            else _awaiting[slot] = index;
        }
        return true;
    }

    /// <summary>What a fault left over needs more slots at once than the window has, and nothing is on its way that would give one back: it fails. False when that is not so.</summary>
    private bool FailRest()
    {
        if (_again.Count == 0 || _awaited > _again.Count || _layer.Bundles!.Outstanding > 0) return false;
        foreach (int index in _again) UnitArrived(index, ReadFault.Io);
        _again.Clear();
        return true;
    }
}
