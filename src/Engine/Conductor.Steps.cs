using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>A step from the waves that wait at a layer to its end. Conductor thread.</summary>
public sealed partial class Conductor
{
    private void Run(Layer layer, bool prefill)
    {
        if (layer.Running is { } parked)
        {
            if (parked.Advance()) EndStep(layer, parked);
            return;
        }
        if (layer.LoadError != null)
        {
            while (layer.Decode.TryDequeue(out var wave) || layer.Prefill.TryDequeue(out wave)) Accept(layer, wave);
            return;
        }
        var step = RentStep(layer);
        step.Begin(layer);
        layer.Running = step;
        Gather(step, prefill ? layer.Prefill : layer.Decode, layer);
        if (layer.Kv!.Bytes > Options.KvLimitPerLayer) layer.Kv.EvictTo(Options.KvLimitPerLayer);
        if (step.Start()) EndStep(layer, step);
    }

    /// <summary>Merges waiting waves into the step up to the row limit; a larger single wave runs alone.</summary>
    private void Gather(LayerStep step, WaveQueue waves, Layer layer)
    {
        while (waves.TryPeek(out var wave) && (step.Rows == 0 || step.Rows + wave.RowCount <= Options.MaxWaveRows) && !SharesSession(step, wave))
        {
            waves.Dequeue();
            int row = 0, width = wave.Width;
            foreach (ref readonly var slot in wave.Slots)
            {
                bool cancelled = _cancelled.TryGetValue(slot.Session, out var upTo) && (slot.Epoch, slot.Step).CompareTo(upTo) <= 0;
                if (!cancelled && step.Admit(slot, wave.Tokens.Slice(row, slot.Count), wave.Rows.Slice(row * width, slot.Count * width)))
                    _held.Add(slot);
                row += slot.Count;
            }
            Return(wave);
            layer.Count.WavesIn++;
        }
    }

    /// <summary>A session's older and newer step never share a merged wave: the newer one waits for the next.</summary>
    private static bool SharesSession(LayerStep step, Wave wave)
    {
        foreach (ref readonly var slot in wave.Slots)
        {
            if (step.Holds(slot.Session)) return true;
        }
        return false;
    }

    private void EndStep(Layer layer, LayerStep step)
    {
        layer.Running = null;
        if (step.IsDecode && step.Rows > 0) ExpectBehind(layer, step);
        _steps--;
        _idleSteps.Add(step);
        TryClose(layer);
    }

    /// <summary>What left a layer is soon at the next one; what left the last one at the first, if its sessions go on. It is waited for, at most a hundredth of what a pass over the model takes.</summary>
    private void ExpectBehind(Layer layer, LayerStep step)
    {
        long now = _time.GetTimestamp();
        foreach (var next in _layers)
        {
            if (next.Package == layer.Package && next.Index == (layer.IsLast ? 0 : layer.Index + 1))
                Scheduler.Expect(next.Pending, step.Rows, now, now + (now - step.BegunAt) * layer.Config.Layers / 100);
        }
    }

    /// <summary>Somebody's next token waits for what runs now.</summary>
    private bool DecodeWaits()
    {
        foreach (var layer in _layers)
        {
            if (layer.Running is { } step ? step.Runnable && step.IsDecode : layer.IsReady && (layer.Decode.Count > 0 || !layer.Arriving.IsEmpty)) return true;
        }
        return false;
    }

    /// <summary>One whose scratch is of this model's shape, or of none yet: two models in turn would lay it out again at every step.</summary>
    private LayerStep RentStep(Layer layer)
    {
        _steps++;
        for (int i = _idleSteps.Count - 1; i >= 0; i--)
        {
            var step = _idleSteps[i];
            if (!step.Suits(layer)) continue;
            _idleSteps.RemoveAt(i);
            return step;
        }
        return NewStep();
    }

    /// <summary>A layer is gone; with the last one of a model no step will be of its shape again. No lambda: who asks does so after every step.</summary>
    private void DropSteps(Layer layer)
    {
        foreach (var other in _layers)
            if (ReferenceEquals(other.Config, layer.Config)) return;
        for (int i = _idleSteps.Count - 1; i >= 0; i--)
        {
            if (!_idleSteps[i].Suits(layer)) continue;
            _idleSteps[i].Dispose();
            _idleSteps.RemoveAt(i);
        }
    }

    private LayerStep NewStep()
    {
        (int least, int most) = _budget != null ? (Options.MaxWaveRows, Options.MaxWaveRows) : (0, int.MaxValue);
        return new LayerStep(_kernels, _pool, _time, Ledger)
        {
            Poll = _poll,
            FlushAll = FlushAll,
            Tiles = () => _tiles,
            GivesWay = DecodeWaits,
            OnEnd = _onEnd,
            Head = _head,
            ParallelWork = Options.ParallelWork,
            PartialBytes = Options.PartialBytes,
            TurnBytes = Options.TurnBytes,
            Trace = Options.Trace,
            LeastRows = least,
            MostRows = most,
        };
    }
}
