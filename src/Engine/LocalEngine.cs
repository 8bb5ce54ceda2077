using System.Collections.Concurrent;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// A whole model on this machine without Orleans: the same conductor and layers as a silo, joined by direct hand-over instead of grain calls. The oracle
/// of every grain and cluster test, and the ablation that shows what Orleans costs. Any thread; sessions are used by one thread at a time.
/// </summary>
public sealed class LocalEngine : IDisposable
{
    private readonly bool _ownsConductor;
    private readonly Layer[] _layers;
    private readonly ConcurrentDictionary<Guid, EngineSession> _sessions = new();

    public LocalEngine(FlashPackage package, EngineOptions? options = null, LayerOptions? layerOptions = null)
        : this(package, new Conductor(Planned(package, options ?? new(), layerOptions ?? new())), layerOptions ?? new(), null)
    {
        _ownsConductor = true;
        try
        {
            foreach (var layer in _layers) layer.Loaded.GetAwaiter().GetResult();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>A budget that is too small is refused before there is anything to take down.</summary>
    private static EngineOptions Planned(FlashPackage package, EngineOptions options, LayerOptions layerOptions)
    {
        if (options.Budget != null) BudgetPlan.Of(package, options, layerOptions).Demand();
        return options;
    }

    /// <summary>Over a given conductor; <paramref name="wrap"/> may put something between a layer and its router (simulations, fault injection).</summary>
    internal LocalEngine(FlashPackage package, Conductor conductor, LayerOptions layerOptions, Func<ILayerRouter, int, ILayerRouter>? wrap)
    {
        Package = package;
        Conductor = conductor;
        _layers = new Layer[package.Config.Layers];
        for (int i = _layers.Length - 1; i >= 0; i--)
        {
            ILayerRouter router = new DirectRouter(this, i);
            _layers[i] = conductor.Attach(package, i, layerOptions, wrap?.Invoke(router, i) ?? router);
        }
    }

    public FlashPackage Package { get; }
    public Conductor Conductor { get; }
    public IReadOnlyList<Layer> Layers => _layers;

    /// <summary>Shown every row of logits that the head computes: of all positions in steps that score, else of the last one (<see cref="Layer.WatchLogits"/>).</summary>
    internal LogitsWatch? WatchLogits
    {
        set => _layers[^1].WatchLogits = value;
    }

    /// <param name="id">Null: a new one.</param>
    /// <param name="start">See <see cref="TokenChain.StartOf"/>.</param>
    public EngineSession OpenSession(Guid? id = null, ulong start = TokenChain.Start)
    {
        var session = new EngineSession(this, id ?? Guid.NewGuid(), start);
        _sessions[session.Id] = session;
        return session;
    }

    /// <summary>Ends what waits, drains the layers and frees everything.</summary>
    public void Dispose()
    {
        if (_ownsConductor) Conductor.Dispose();
        else Conductor.Drive(Task.WhenAll(_layers.Select(Conductor.DetachAsync)));
    }

    internal void Close(EngineSession session, bool keep)
    {
        _sessions.TryRemove(session.Id, out _);
        if (!keep) Conductor.CloseSession(session.Id);
        else
            foreach (var layer in _layers) Conductor.ReleaseSession(layer, session.Id);
    }

    /// <summary>Hands a step's output straight to the next layer's inbox, and results to the session. Conductor thread.</summary>
    private sealed class DirectRouter(LocalEngine engine, int index) : ILayerRouter
    {
        public Layer? Next => index + 1 < engine._layers.Length ? engine._layers[index + 1] : null;
        public bool WantsRows => false;

        public void Forward(Wave wave)
        {
            if (engine.Conductor.Enqueue(Next!, wave)) return;
            foreach (ref readonly var slot in wave.Slots) Fault(new SlotFault(slot.Session, slot.Epoch, slot.Step, FaultKind.Unavailable, "the engine is closing"));
            wave.Return();
        }

        public void Complete(in StepResult result)
        {
            if (engine._sessions.TryGetValue(result.Session, out var session)) session.Deliver(result);
        }

        public void Fault(in SlotFault fault)
        {
            if (engine._sessions.TryGetValue(fault.Session, out var session)) session.Deliver(fault);
        }

        public void Hint(ReadOnlySpan<int> units) => Prefetch(Next!, units);

        public void HintOwn(ReadOnlySpan<int> units) => Prefetch(engine._layers[index], units);

        private void Prefetch(Layer layer, ReadOnlySpan<int> units) => engine.Conductor.Prefetch(layer, units[..layer.Policy.Admit(units.Length)]);

        public void HintRows(ReadOnlySpan<float> rows, int count, int width)
        {
        }
    }
}

/// <summary>A request that cannot go on: a slot was refused, or flash failed.</summary>
public sealed class StepFaultException : Exception
{
    public StepFaultException() : this("the step failed") { }
    public StepFaultException(string message) : base(message) { }
    public StepFaultException(string message, Exception inner) : base(message, inner) { }
    public FaultKind Kind { get; init; }
}

/// <summary>One sequence in a <see cref="LocalEngine"/>. One thread at a time; waiting is on a monitor, so a decode step allocates nothing.</summary>
public sealed class EngineSession : IDisposable
{
    private readonly LocalEngine _engine;
    private readonly object _gate = new();
    private StepResult _result;
    private SlotFault _fault;
    private bool _hasResult, _hasFault;

    internal EngineSession(LocalEngine engine, Guid id, ulong start)
    {
        _engine = engine;
        Id = id;
        Timeline = new SessionTimeline(id, 1, engine.Package.Config.RopeByLength ? engine.Package.Config.Rope : null, start: start);
    }

    public Guid Id { get; }
    public SessionTimeline Timeline { get; }
    /// <summary>Steps that went back because a layer had lost its KV.</summary>
    public int Replays { get; private set; }

    /// <summary>
    /// Computes what is not computed yet, in chunks, and returns the result of the last step. Without <paramref name="onChunk"/> only that one;
    /// with it every step's (scores of a long text). Throws <see cref="StepFaultException"/>.
    /// </summary>
    public StepResult Run(in Sampling sampling, SlotFlags flags = SlotFlags.Sample, int topLogits = 0, int chunk = 64, Action<StepResult>? onChunk = null, ReadOnlySpan<int> drafts = default)
    {
        while (true)
        {
            Submit(sampling, flags, topLogits, chunk, drafts);
            if (!Wait(out var result))
            {
                Restore();
                continue;
            }
            onChunk?.Invoke(result);
            if (result.End >= Timeline.Length) return result;
        }
    }

    /// <summary>Takes up what is computed already of the timeline, by this session or by others of the same start; positions that need not be computed again.</summary>
    public int Restore()
    {
        if (Timeline.Length == 0) return 0;
        // The last token runs in any case: something has to come out.
        ulong[] chain = Timeline.Chain[..Timeline.Length].ToArray();
        var asked = Task.WhenAll(_engine.Layers.Select(layer => _engine.Conductor.RestoreAsync(layer, Id, chain)));
        _engine.Conductor.Drive(asked);
        Timeline.Resume(asked.Result.Min());
        return Timeline.Computed;
    }

    /// <summary>What is computed may be taken up by others.</summary>
    public void Settle()
    {
        foreach (var layer in _engine.Layers) _engine.Conductor.Settle(layer, Id);
    }

    /// <summary>Ends the session and leaves what it computed to others.</summary>
    public void Release() => _engine.Close(this, keep: true);

    /// <summary>Prompt in, tokens out, until a stop token or the limit. Each token is appended to the timeline. <paramref name="draft"/> may guess what follows; the tokens are the same
    /// whatever it says.</summary>
    public IEnumerable<StepResult> Generate(int[] prompt, int count, Sampling sampling, IReadOnlySet<int>? stop = null, int topLogits = 0, int chunk = 64, Func<SessionTimeline, int[]>? draft = null)
    {
        Timeline.Append(prompt);
        for (int i = 0; i < count;)
        {
            int[] drafts = draft?.Invoke(Timeline) ?? [];
            var result = Run(sampling, SlotFlags.Sample, topLogits, chunk, null, drafts.AsSpan(0, Math.Min(drafts.Length, count - i - 1)));
            for (int k = 0; k < result.Sampled && i < count; k++, i++)
            {
                var each = result.At(k);
                Timeline.Append([each.Token]);
                yield return each;
                if (stop?.Contains(each.Token) == true) yield break;
            }
        }
    }

    /// <summary>Sends the next step on its way without waiting.</summary>
    internal void Submit(in Sampling sampling, SlotFlags flags, int topLogits, int chunk, ReadOnlySpan<int> drafts = default)
    {
        var wave = Timeline.Submit(chunk, sampling, flags, topLogits, drafts);
        if (_engine.Conductor.Enqueue(_engine.Layers[0], wave)) return;
        wave.Return();
        throw new ObjectDisposedException(nameof(LocalEngine));
    }

    /// <summary>Waits for the step in flight. False: a layer had lost its KV, submit again.</summary>
    internal bool Wait(out StepResult result)
    {
        lock (_gate)
        {
            while (!_hasResult && !_hasFault) Monitor.Wait(_gate);
            return Take(out result);
        }
    }

    /// <summary>Looks for the outcome without waiting (simulations, where the same thread pumps).</summary>
    internal bool? Poll(out StepResult result)
    {
        lock (_gate)
        {
            result = default;
            return _hasResult || _hasFault ? Take(out result) : null;
        }
    }

    internal void Deliver(in StepResult result)
    {
        lock (_gate)
        {
            if (!Timeline.Accept(result)) return;
            _result = result;
            _hasResult = true;
            Monitor.Pulse(_gate);
        }
    }

    internal void Deliver(in SlotFault fault)
    {
        lock (_gate)
        {
            if (!Timeline.Accept(fault)) return;
            _fault = fault;
            _hasFault = true;
            Monitor.Pulse(_gate);
        }
    }

    public void Dispose() => _engine.Close(this, keep: false);

    private bool Take(out StepResult result)
    {
        result = _result;
        if (_hasResult)
        {
            _hasResult = false;
            return true;
        }
        _hasFault = false;
        if (_fault.Kind != FaultKind.KvMiss) throw new StepFaultException(_fault.Message) { Kind = _fault.Kind };
        Replays++;
        return false;
    }
}
