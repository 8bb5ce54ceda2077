using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>What the conductor takes in before every step: commands, completed reads, hints and waves.</summary>
public sealed partial class Conductor
{
    private void TakeIn()
    {
        // Whatever one command or arrival did wrong, what came behind it and the thread that serves everybody go on.
        while (_commands.TryDequeue(out var command))
        {
            try
            {
                command();
            }
            catch (Exception e)
            {
                LastError = e;
            }
        }
        try
        {
            SettleReads();
            PollHints();
            while (_rowHints.TryDequeue(out var hint))
            {
                PredictNow(hint.Layer, hint.Rows.AsSpan(0, hint.Length), hint.Count);
                System.Buffers.ArrayPool<float>.Shared.Return(hint.Rows);
            }
            foreach (var layer in _layers)
            {
                while (layer.Arriving.TryDequeue(out var wave)) Accept(layer, wave);
            }
        }
        catch (Exception e)
        {
            LastError = e;
            // The rest of it is looked at in the next turn, without waiting for something else to arrive.
            Wake();
        }
    }

    /// <summary>A wave is looked at once, here: a malformed one is answered and never merged, where it would compute on other sessions' rows.</summary>
    private void Accept(Layer layer, Wave wave)
    {
        if (layer.LoadError is { } error) Refuse(layer, wave, FaultKind.Flash, $"layer {layer.Index} cannot be loaded: {error.Message}");
        else if (layer.Closing) Refuse(layer, wave, FaultKind.Unavailable, $"layer {layer.Index} is being moved");
        else if (Malformed(layer, wave) is { } why) Refuse(layer, wave, FaultKind.Rejected, why);
        else if (!wave.IsDecode) layer.Prefill.Enqueue(wave);
        else
        {
            layer.Decode.Enqueue(wave);
            Scheduler.Arrived(layer.Pending, wave.RowCount);
        }
    }

    private static string? Malformed(Layer layer, Wave wave)
    {
        int width = layer.IsFirst ? 0 : layer.Config.HiddenSize;
        if (wave.Width != width) return $"layer {layer.Index} takes rows of {width} numbers, the wave has {wave.Width}";
        long rows = 0;
        foreach (ref readonly var slot in wave.Slots)
        {
            if (slot.Count < 1) return $"a slot of the wave has {slot.Count} tokens";
            if (slot.Drafts < 0 || slot.Drafts >= slot.Count) return $"{slot.Drafts} of a slot's {slot.Count} tokens are drafts";
            rows += slot.Count;
        }
        return rows == wave.RowCount ? null : $"the slots of the wave have {rows} tokens, the wave has {wave.RowCount}";
    }

    private void PollHints()
    {
        while (_hints.TryDequeue(out var hint))
        {
            PrefetchNow(hint.Layer, hint.Units.AsSpan(0, hint.Count));
            System.Buffers.ArrayPool<int>.Shared.Return(hint.Units);
        }
    }

    private void PredictNow(Layer layer, ReadOnlySpan<float> rows, int count)
    {
        if (!layer.IsReady || layer.Closing || !layer.Chooses || rows.Length != count * layer.Config.HiddenSize) return;
        var step = RentStep(layer);
        try
        {
            var units = step.PredictRows(layer, rows, count);
            PrefetchNow(layer, units[..layer.Policy.Admit(units.Length)]);
        }
        finally
        {
            _steps--;
            _idleSteps.Add(step);
        }
    }

    private void PrefetchNow(Layer layer, ReadOnlySpan<int> units)
    {
        if (!layer.IsReady || layer.Closing) return;
        long start = _time.GetTimestamp();
        var bundles = layer.Bundles!;
        bundles.Window.PrefetchScoreLimit = layer.Policy.IsSure ? bundles.Window.Retention.SureGuess : bundles.Window.Retention.DoubtfulGuess;
        foreach (int unit in units) bundles.Expect(unit);
        foreach (int unit in units)
        {
            // What is in a stretch that steps read whole comes with it.
            if (layer.Stretches?.IsWhole(unit) == true) continue;
            if (!bundles.Prefetch(unit)) break;
        }
        bundles.Flush();
        Options.Trace?.Add(TraceKind.Prefetch, layer.Index, start, _time.GetTimestamp(), units.Length);
    }

    private void SettleReads()
    {
        bool any = false;
        while (_completed.TryDequeue(out var done))
        {
            any = true;
            var layer = (Layer)done.Store.Owner!;
            layer.Settle(done.Store, done.Request);
            TryClose(layer);
        }
        if (any) FlushAll();
    }

    /// <summary>There is room in the reader's queue, which all layers share. Each is first in its turn, so that none keeps the others out of it.</summary>
    private void FlushAll()
    {
        for (int i = 0; i < _layers.Count; i++) _layers[(int)((_flushTurn + i) % (uint)_layers.Count)].FlushReads();
        _flushTurn++;
    }

    private void Refuse(Layer layer, Wave wave, FaultKind kind, string why)
    {
        foreach (ref readonly var slot in wave.Slots) layer.Router.Fault(new SlotFault(slot.Session, slot.Epoch, slot.Step, kind, why));
        Return(wave);
    }

    private void Return(Wave wave)
    {
        _held.Remove(wave);
        wave.Return();
        Interlocked.Decrement(ref _waves);
    }
}
