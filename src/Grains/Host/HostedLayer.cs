using System.Buffers;
using System.Runtime.InteropServices;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

/// <summary>
/// One layer in a silo's host, from the activation of its grain to the end of its deactivation: the engine's layer once it is attached, the waves
/// that came before that, and the outbox through which everything leaves. It is the engine's router: the conductor thread calls the
/// <see cref="ILayerRouter"/> members, which only enqueue. Grain turns call the rest. What fails to load faults its waves, one clear line each.
/// </summary>
internal sealed class HostedLayer : ILayerRouter
{
    private readonly LayerHost _host;
    private readonly Lock _gate = new();
    private readonly TaskCompletionSource _ready = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private List<Wave>? _early = [];
    private readonly Func<byte[], int, bool> _arrived;
    /// <summary>Conductor thread: the message of the running step's wave, which went ahead.</summary>
    private WaveMessage? _ahead;
    private volatile Layer? _layer;
    private bool _closed;
    private long _wavesIn, _wavesOut, _hints;

    public HostedLayer(LayerHost host, LayerKey key, LayerOptions options)
    {
        _host = host;
        _arrived = Arrived;
        Key = key;
        Options = options;
        _ = _ready.Task.ContinueWith(static t => _ = t.Exception, CancellationToken.None, TaskContinuationOptions.OnlyOnFaulted, TaskScheduler.Default);
    }

    public LayerKey Key { get; }
    public LayerOptions Options { get; }
    public Outbox Outbox { get; } = new();
    public OutgoingCalls Outgoing { get; } = new();
    /// <summary>The engine's layer, once the package is open.</summary>
    public Layer? Layer => _layer;
    /// <summary>Completes when the resident part is in memory.</summary>
    public Task Ready => _ready.Task;
    /// <summary>Why it cannot be loaded.</summary>
    public string? Error { get; private set; }
    public long WavesIn => Interlocked.Read(ref _wavesIn);
    public long WavesOut => Interlocked.Read(ref _wavesOut);
    public long Hints => Interlocked.Read(ref _hints);

    /// <summary>Waves in this layer's hands outside the engine.</summary>
    public int WavesHeld
    {
        get { lock (_gate) return (_early?.Count ?? 0) + Outbox.Waves + Outgoing.Waves; }
    }

    /// <summary>Takes a wave in: claims it and puts it into the engine's inbox, now or, when the message came ahead of it, as soon as it is there. A second delivery of the same message finds it claimed and does nothing.</summary>
    public void Accept(WaveMessage message)
    {
        if (message.Await(_arrived)) return;
        if (!message.TryClaim(out byte[] array, out int length)) return;
        Wave wave;
        try
        {
            wave = new Wave(array, length);
        }
        catch (InvalidDataException)
        {
            ArrayPool<byte>.Shared.Return(array);
            throw;
        }
        string? refused = Take(wave);
        if (refused is not null)
        {
            wave.Return();
            throw new LayerUnavailableException(refused);
        }
        Interlocked.Increment(ref _wavesIn);
    }

    /// <summary>The sender's thread: the wave of a message that came ahead of it.</summary>
    private bool Arrived(byte[] array, int length)
    {
        if (Take(new Wave(array, length)) is not null) return false;
        Interlocked.Increment(ref _wavesIn);
        return true;
    }

    /// <summary>Why the wave is not taken, or null.</summary>
    private string? Take(Wave wave)
    {
        lock (_gate)
        {
            // Under the lock: what failed before has told its early waves so and takes no more.
            if (Error is { } error) return error;
            if (!_closed && _early is not null) _early.Add(wave);
            else if (_closed || !_host.Conductor.Enqueue(_layer!, wave)) return $"layer {Key.Layer} is leaving this silo; submit again";
            return null;
        }
    }

    /// <summary>Loader thread: the package is open. What came early goes in.</summary>
    public void Attached(Layer layer)
    {
        lock (_gate)
        {
            _layer = layer;
            foreach (Wave wave in _early ?? [])
            {
                if (!_host.Conductor.Enqueue(layer, wave)) FaultAll(wave, FaultKind.Unavailable, "the layer is leaving");
            }
            _early = null;
        }
        layer.Loaded.ContinueWith(static (task, state) =>
        {
            var self = (HostedLayer)state!;
            if (task.Exception is { } e) self.Failed(e.InnerException ?? e);
            else self._ready.TrySetResult();
        }, this, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
    }

    /// <summary>Any thread: the layer cannot be loaded. What came early is told why.</summary>
    public void Failed(Exception error)
    {
        List<Wave>? early;
        lock (_gate)
        {
            Error ??= error.Message;
            early = _early;
            _early = null;
        }
        foreach (Wave wave in early ?? []) FaultAll(wave, FaultKind.Rejected, error.Message);
        _ready.TrySetException(new LayerUnavailableException(error.Message));
    }

    /// <summary>Refuses new waves, drains the running step, frees everything. The outbox stays open until the faults of what waited are in it.</summary>
    public async Task CloseAsync()
    {
        lock (_gate) _closed = true;
        Layer? layer = await _host.LeaveAsync(this);
        if (layer is not null) await _host.Conductor.DetachAsync(layer);
        List<Wave>? early;
        lock (_gate)
        {
            early = _early;
            _early = null;
        }
        foreach (Wave wave in early ?? []) FaultAll(wave, FaultKind.Unavailable, "the layer is leaving");
        _ready.TrySetException(new LayerUnavailableException($"layer {Key.Layer} left this silo"));
        Outbox.Close();
    }

    public bool Holds(Guid session, int epoch, long step)
    {
        lock (_gate)
        {
            foreach (Wave wave in _early ?? [])
            {
                if (Steps.Contains(wave.Slots, session, epoch, step)) return true;
            }
        }
        return Outbox.Holds(session, epoch, step) || Outgoing.Holds(session, epoch, step);
    }

    public void Forward(Wave wave)
    {
        Interlocked.Increment(ref _wavesOut);
        WaveMessage? ahead = _ahead;
        _ahead = null;
        if (ahead is not null && ahead.Fill(wave.Array, wave.Length)) return;
        if (!Outbox.Post(new OutboxItem { Kind = OutboxKind.Wave, Wave = wave })) wave.Return();
    }

    public void Announce(ReadOnlySpan<Slot> slots)
    {
        // Between silos a message is its bytes.
        if (Next is null) return;
        OutgoingCalls.Entry entry = Outgoing.Announce(slots);
        WaveMessage message = entry.Message!;
        if (Outbox.Post(new OutboxItem { Kind = OutboxKind.Ahead, Ahead = entry })) _ahead = message;
        else entry.Drop();
    }

    public void Withdraw()
    {
        _ahead?.Withdraw();
        _ahead = null;
    }

    public void Complete(in StepResult result) => Outbox.Post(new OutboxItem { Kind = OutboxKind.Result, Result = result });

    public void Fault(in SlotFault fault) => Outbox.Post(new OutboxItem { Kind = OutboxKind.Fault, Fault = fault });

    public Layer? Next => _host.Find(Key with { Layer = Key.Layer + 1 })?.Layer;

    public void Hint(ReadOnlySpan<int> units) => PostHint(MemoryMarshal.AsBytes(units), units.Length, rows: false);

    public void HintOwn(ReadOnlySpan<int> units) => PostHint(MemoryMarshal.AsBytes(units), units.Length, rows: false, OutboxKind.OwnHint);

    public void HintRows(ReadOnlySpan<float> rows, int count, int width) => PostHint(MemoryMarshal.AsBytes(rows), count, rows: true);

    public bool WantsRows => Options.Prefetch && _host.ManySilos;

    private void PostHint(ReadOnlySpan<byte> data, int count, bool rows, OutboxKind kind = OutboxKind.Hint)
    {
        if (count == 0) return;
        Interlocked.Increment(ref _hints);
        PrefetchHint hint = PrefetchHint.Rent(data, count, rows);
        if (!Outbox.Post(new OutboxItem { Kind = kind, Hint = hint })) hint.TryReturn();
    }

    private void FaultAll(Wave wave, FaultKind kind, string why)
    {
        foreach (ref readonly Slot slot in wave.Slots)
            Fault(new SlotFault(slot.Session, slot.Epoch, slot.Step, kind, $"layer {Key.Layer}: {why}"));
        wave.Return();
    }
}
