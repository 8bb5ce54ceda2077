using System.Collections.Concurrent;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// One silo's engine: the conductor thread that chooses which layer runs next and merges waiting waves, the compute pool it is part of, the flash
/// reader, and the layers attached to it. All public members are safe from any thread and only enqueue; the conductor thread owns everything else. It parks
/// when nothing is ready. An exception in a step faults that step's slots, never the thread. Dispose drains running reads and frees all native memory.
/// </summary>
public sealed partial class Conductor : IDisposable
{
    private readonly Kernels _kernels;
    private readonly ComputePool _pool;
    private readonly TimeProvider _time;
    private readonly IFlashReader _reader;
    private readonly FlashReader? _ownReader;
    private readonly Scheduler _scheduler;
    private readonly HeldSteps _held = new();
    private readonly List<Layer> _layers = [];
    private readonly List<Pending> _pending = [];
    private readonly List<LayerStep> _idleSteps = [];
    private readonly Stack<ReadRequest> _idleRequests = new(UnitStore.MostRequests);
    private readonly ConcurrentQueue<Action> _commands = new();
    private readonly ConcurrentQueue<(UnitStore Store, ReadRequest Request)> _completed = new();
    private readonly ConcurrentQueue<(Layer Layer, int[] Units, int Count)> _hints = new();
    private readonly ConcurrentQueue<(Layer Layer, float[] Rows, int Length, int Count)> _rowHints = new();
    private readonly Dictionary<Guid, (int Epoch, long Step)> _cancelled = [];
    private readonly SharedWeights _shared;
    private readonly HeadScratch _head;
    private readonly BlockingCollection<Action> _loads = [];
    private readonly Thread? _thread;
    private readonly Thread? _loader;
    private readonly object _wake = new();
    private bool _signalled;
    private long _waves;
    private volatile bool _stop;
    private uint _flushTurn;
    private bool _tiles;
    private readonly BudgetGate? _budget;
    private readonly int _mostSteps = int.MaxValue;
    private int _steps;
    private readonly Action<UnitStore, ReadRequest> _onCompleted;
    private readonly Action _poll;
    private readonly Action<LayerStep> _onEnd;

    /// <summary>Starts the threads. <paramref name="reader"/> replaces the device (simulations).</summary>
    public Conductor(EngineOptions options, TimeProvider? time = null, IFlashReader? reader = null) : this(options, time, reader, start: true)
    {
    }

    /// <summary>Without <paramref name="start"/> there is neither a conductor thread nor a loader: the caller pumps (<see cref="Pump"/>), for deterministic simulation.</summary>
    internal Conductor(EngineOptions options, TimeProvider? time, IFlashReader? reader, bool start)
    {
        if (options.Budget is { } budget)
        {
            options = options with { MaxWaveRows = budget.WaveRows(options.MaxWaveRows) };
            _budget = new BudgetGate(options);
            _mostSteps = budget.Steps;
        }
        Options = options;
        _scheduler = new Scheduler(options.MaxWaveRows);
        _time = time ?? TimeProvider.System;
        _kernels = FlashOrleans.Engine.Kernels.Choose(options.Kernels);
        _pool = new ComputePool(options.Threads);
        _reader = reader ?? (_ownReader = new FlashReader(options.IoThreads, ledger: Ledger));
        if (!options.Bundled) _reader = new UnbundledReader(_reader);
        _shared = new SharedWeights(Ledger, _reader);
        _head = new HeadScratch(Ledger);
        _onCompleted = (store, request) =>
        {
            _completed.Enqueue((store, request));
            // Our own reader tells many completions at once, then wakes.
            if (_ownReader == null) Wake();
        };
        if (_ownReader != null) _ownReader.Told = Wake;
        _poll = () =>
        {
            SettleReads();
            PollHints();
        };
        _onEnd = step =>
        {
            for (int i = 0; i < step.SlotCount; i++) _held.Remove(step.SlotAt(i));
        };
        if (options.KvDisk is { Bytes: > 0 } disk) _kvDisk = new KvDisk(disk, Ledger, Command);
        if (!start) return;
        _loader = new Thread(LoadLoop, 1 << 20) { IsBackground = true, Name = "flash-loader" };
        _loader.Start();
        _thread = new Thread(Loop, 4 << 20) { IsBackground = true, Name = "flash-conductor" };
        _thread.Start();
    }

    public EngineOptions Options { get; }
    public MemoryLedger Ledger { get; } = new();
    /// <summary>Name of the kernel variant in use.</summary>
    public string Kernels => _kernels.Name;
    public ReaderStats ReaderStats => _reader.Stats;
    internal ComputePool Pool => _pool;
    /// <summary>Nothing runs for a moment, until rows arrive that are on their way or do not come (conductor thread).</summary>
    internal bool Lingers => _scheduler.WakeAt != 0;

    /// <summary>Waves in the layers' inboxes: arrays not yet given back.</summary>
    public long WavesHeld => Interlocked.Read(ref _waves);

    /// <summary>What went wrong outside any step, last; null in health.</summary>
    public Exception? LastError { get; private set; }

    /// <summary>What a package gets of the budget; null without one.</summary>
    public BudgetPlan? Plan => _budget?.Plan;

    /// <summary>Adds a layer. Returns at once; the resident part is loaded on a loader thread (<see cref="Layer.Loaded"/>), waves wait meanwhile. With a budget a
    /// package that does not fit it is a <see cref="FlashException"/>.</summary>
    public Layer Attach(FlashPackage package, int layer, LayerOptions options, ILayerRouter router)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)layer, (uint)package.Config.Layers, nameof(layer));
        if (Options.Draft?.Is(package.Hash) == true) options = DraftModel.Resident(package.Manifest, options);
        // Who measures what bundles are worth has no long reads either.
        if (!Options.Bundled) options = options with { LeastStretchBytes = int.MaxValue };
        // Refused here, before anything is read.
        if (_budget != null) options = _budget.Admit(package, options);
        Layer attached;
        try
        {
            attached = new Layer(package, layer, options, router);
        }
        catch
        {
            _budget?.Leave(package);
            throw;
        }
        Command(() =>
        {
            _layers.Add(attached);
            _pending.Add(attached.Pending);
        });
        _loads.Add(() =>
        {
            Exception? error = null;
            try
            {
                attached.Load(_shared.Attach, _reader, Ledger, Options.MaxWaveRows, Options.GapBytes ?? ReadPlanner.DefaultGapBytes, Options.KvCachedPerLayer, _kvDisk, _onCompleted, _idleRequests);
            }
            catch (Exception e)
            {
                error = e;
            }
            Command(() => FinishLoading(attached, error));
        });
        return attached;
    }

    /// <summary>Refuses new waves, drains the running step and its reads, frees slice, window and KV. Waves still waiting are faulted Unavailable.</summary>
    public Task DetachAsync(Layer layer)
    {
        layer.Closing = true;
        if (layer.Closed.Task.IsCompleted) return Task.CompletedTask;
        // Behind the loads: a layer is never freed under its loader.
        _loads.Add(() => Command(() =>
        {
            layer.Draining = true;
            TryClose(layer);
        }));
        return layer.Closed.Task;
    }

    /// <summary>Puts a wave into a layer's inbox; ownership passes. False when the layer is detached (the caller keeps the wave).</summary>
    public bool Enqueue(Layer layer, Wave wave)
    {
        if (layer.Closing || _stop) return false;
        _held.Add(wave);
        Interlocked.Increment(ref _waves);
        layer.Arriving.Enqueue(wave);
        Wake();
        return true;
    }

    /// <summary>Drops every slot of the session up to (epoch, step) wherever it waits in this host.</summary>
    public void Cancel(Guid session, int epoch, long step) => Command(() =>
    {
        if (_cancelled.Count > 4096) _cancelled.Clear();
        _cancelled[session] = (epoch, step);
    });

    /// <summary>True while a slot of (session, epoch, step) is in an inbox or a running step of this host.</summary>
    public bool Holds(Guid session, int epoch, long step) => _held.Holds(session, epoch, step);

    /// <summary>Asks for units of a layer to be read ahead; what the window, the queue and demand leave room for is read.</summary>
    public void Prefetch(Layer layer, ReadOnlySpan<int> units)
    {
        if (units.IsEmpty) return;
        if (Thread.CurrentThread == _thread)
        {
            PrefetchNow(layer, units);
            return;
        }
        int[] copy = System.Buffers.ArrayPool<int>.Shared.Rent(units.Length);
        units.CopyTo(copy);
        _hints.Enqueue((layer, copy, units.Length));
        Wake();
    }

    /// <summary>Predicts a layer's units from hidden rows entering the layer before it (a hint from another silo), then prefetches them. The caller has asked the
    /// layer's policy (<see cref="PrefetchPolicy.Decide"/>); asking again would count twice.</summary>
    public void PredictAndPrefetch(Layer layer, ReadOnlySpan<float> rows, int count)
    {
        float[] copy = System.Buffers.ArrayPool<float>.Shared.Rent(rows.Length);
        rows.CopyTo(copy);
        _rowHints.Enqueue((layer, copy, rows.Length, count));
        Wake();
    }

    public void Dispose()
    {
        if (_stop) return;
        var layers = new List<Task>();
        var all = new TaskCompletionSource<Task>(TaskCreationOptions.RunContinuationsAsynchronously);
        Command(() => all.SetResult(Task.WhenAll(_layers.Select(DetachAsync).ToArray())));
        Drive(all.Task.Unwrap());
        _loads.CompleteAdding();
        _loader?.Join();
        _stop = true;
        Wake();
        _thread?.Join();
        _kvDisk?.Dispose();
        _ownReader?.Dispose();
        foreach (var step in _idleSteps) step.Dispose();
        _idleSteps.Clear();
        _head.Dispose();
        _shared.Dispose();
        _pool.Dispose();
        _loads.Dispose();
    }

    /// <summary>Managed bytes each compute thread has allocated since it started, the conductor first.</summary>
    internal long[] AllocatedBytes()
    {
        var done = new TaskCompletionSource<long[]>(TaskCreationOptions.RunContinuationsAsynchronously);
        Command(() => done.SetResult(_pool.AllocatedBytes()));
        Drive(done.Task);
        return done.Task.Result;
    }

    /// <summary>One turn of the conductor: takes in what arrived, then runs one step as far as it goes. False when nothing was ready.</summary>
    internal bool Pump()
    {
        while (_loader == null && _loads.TryTake(out var load)) load();
        TakeIn();
        foreach (var each in _layers) each.Describe(canStart: _steps < _mostSteps);
        long now = _time.GetTimestamp();
        int chosen = _scheduler.Choose(_pending, now, out bool prefill);
        if (chosen < 0) return false;
        var layer = _layers[chosen];
        var parked = layer.Running;
        _tiles = prefill && _scheduler.IsLive(_pending, now);
        try
        {
            Run(layer, prefill);
        }
        catch (Exception e)
        {
            layer.Running?.Abort(e);
            if (layer.Running is { } broken) EndStep(layer, broken);
        }
        _scheduler.Ran(layer.Pending, prefill, now, _time.GetTimestamp(), parked != null && layer.Running == null ? parked.FlashWaited : 0);
        return true;
    }

    private void Loop()
    {
        while (!_stop)
        {
            try
            {
                if (Pump()) continue;
            }
            catch (OutOfMemoryException e)
            {
                // Half a step may be left behind and nobody would ever finish it: an end with a word is better than a silence.
                Environment.FailFast("flash: out of memory in the conductor: the managed heap is at its limit; take a larger --budget", e);
            }
            catch (Exception e)
            {
                LastError = e;
            }
            lock (_wake)
            {
                // Held for somebody who should be here by then.
                if (_scheduler.WakeAt != 0 && !_signalled && !_stop) Monitor.Wait(_wake, Math.Max(1, (int)(_time.GetElapsedTime(_time.GetTimestamp(), _scheduler.WakeAt).TotalMilliseconds)));
                else
                    while (!_signalled && !_stop) Monitor.Wait(_wake);
                _signalled = false;
            }
        }
    }

    private void LoadLoop()
    {
        foreach (var load in _loads.GetConsumingEnumerable()) load();
    }

    private void Wake()
    {
        lock (_wake)
        {
            _signalled = true;
            Monitor.Pulse(_wake);
        }
    }

    internal void Command(Action command)
    {
        _commands.Enqueue(command);
        Wake();
    }

    /// <summary>Waits for a task that the conductor completes; pumps where there is no conductor thread.</summary>
    internal void Drive(Task task)
    {
        if (_thread != null)
        {
            task.Wait();
            return;
        }
        var known = LastError;
        while (!task.IsCompleted)
        {
            if (!Pump()) Thread.Yield();
            if (LastError != known) throw new InvalidOperationException("the conductor failed", LastError);
        }
    }

    /// <summary>With a budget everything is taken when a layer comes, so that what cannot be had is a refusal at the start.</summary>
    private void TakeAll(Layer layer)
    {
        if (_budget == null) return;
        layer.TakeAll();
        if (layer.IsLast) _head.Ensure(layer.Config.VocabSize);
        int steps = Math.Min(_mostSteps, layer.Options.Plan!.Needs.Steps);
        for (int suitable = _idleSteps.Count(s => s.Suits(layer)); suitable + _steps < steps; suitable++) _idleSteps.Add(NewStep());
        foreach (var step in _idleSteps)
            if (step.Suits(layer)) step.Prepare(layer);
    }

    private void FinishLoading(Layer layer, Exception? error)
    {
        try
        {
            if (error == null) TakeAll(layer);
        }
        catch (Exception e)
        {
            error = e;
        }
        layer.FinishLoading(error);
        TryClose(layer);
    }

    /// <summary>Frees a layer that is being detached as soon as nothing runs or reads in it.</summary>
    private void TryClose(Layer layer)
    {
        if (!layer.Draining || layer.Closed.Task.IsCompleted || layer.Running != null || layer.OutstandingReads > 0) return;
        if (StillSaves(layer)) return;
        while (layer.Arriving.TryDequeue(out var wave) || layer.Decode.TryDequeue(out wave) || layer.Prefill.TryDequeue(out wave)) Accept(layer, wave);
        _layers.Remove(layer);
        _pending.Remove(layer.Pending);
        _scheduler.Forget(layer.Pending, _pending);
        layer.Free();
        _shared.Detach(layer);
        _budget?.Leave(layer.Package);
        DropSteps(layer);
        layer.Closed.TrySetResult();
    }
}
