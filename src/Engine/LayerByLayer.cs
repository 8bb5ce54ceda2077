using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// A text through a whole model with one layer in memory at a time: each is attached, computes all tokens in one step (every neuron, <see cref="FeedForwardMode.Dense"/>; where bundles are
/// lean, those that are active, which gives the same bits), and is detached before the next one comes. For measuring a model of any size, once: it is read from end to end. The caller's
/// thread waits; never a grain turn. A damaged package is a <see cref="FlashException"/>, a step that failed a <see cref="StepFaultException"/>; after either, or a cancellation, nothing is left running.
/// </summary>
public sealed class LayerByLayer
{
    /// <summary>What the window of a layer may take: a neuron is used once, so that more would not help.</summary>
    private const double WindowBytes = 64 << 20;

    private LayerByLayer(double[] zeros, float[] nll) => (Zeros, Nll) = (zeros, nll);

    /// <summary>Per layer: share of the feed-forward neurons, with experts of the computed ones, that were exactly zero.</summary>
    public IReadOnlyList<double> Zeros { get; }
    /// <summary>Negative log-likelihood of the token that follows each position; one less than tokens.</summary>
    public IReadOnlyList<float> Nll { get; }

    /// <param name="package">The model.</param>
    /// <param name="tokens">At least two, at most the model's context.</param>
    /// <param name="activation">In place of the model's own, unless bundles are lean; null: that one.</param>
    /// <param name="progress">Told before each layer.</param>
    /// <param name="cancel">Ends the run.</param>
    public static LayerByLayer Run(FlashPackage package, ReadOnlySpan<int> tokens, Activation? activation = null, Action<int>? progress = null, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(package);
        ThreadRole.AssertNotGrainTurn("measuring a model");
        FeedForwardMode mode = package.Manifest.Lean ? FeedForwardMode.Exact : FeedForwardMode.Dense;
        double[] zeros = new double[package.Config.Layers];
        using var conductor = new Conductor(new EngineOptions());
        var timeline = new SessionTimeline(Guid.NewGuid(), 1, package.Config.RopeByLength ? package.Config.Rope : null);
        timeline.Append(tokens);
        Wave wave = timeline.Submit(tokens.Length, Sampling.Greedy, SlotFlags.Score);
        for (int i = 0; ; i++)
        {
            progress?.Invoke(i);
            var exit = new Exit();
            Layer layer = conductor.Attach(package, i, new LayerOptions { Mode = mode, Window = WindowOf(package, i), Prefetch = false, Activation = activation, CountZeros = true }, exit);
            layer.Loaded.GetAwaiter().GetResult();
            if (!conductor.Enqueue(layer, wave)) throw new InvalidOperationException("the conductor is closed");
            (wave, float[]? nll) = exit.Wait(cancel);
            zeros[i] = ZerosOf(layer);
            conductor.DetachAsync(layer).GetAwaiter().GetResult();
            if (nll != null) return new LayerByLayer(zeros, nll[..^1]);
        }
    }

    /// <summary>
    /// Texts through a ReLU model, in `exact`: what enters each layer's feed-forward, and its pre-activations, are handed over when all texts went through the layer.
    /// </summary>
    /// <param name="package">The model.</param>
    /// <param name="texts">Each at most the model's context; together not more than the caller has memory for.</param>
    /// <param name="layer">Gets a layer's rows, on the caller's thread.</param>
    /// <param name="progress">Told before each layer.</param>
    /// <param name="cancel">Ends the run.</param>
    public static void Study(FlashPackage package, IReadOnlyList<int[]> texts, Action<LayerRows> layer, Action<int>? progress = null, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(package);
        ArgumentNullException.ThrowIfNull(texts);
        ArgumentNullException.ThrowIfNull(layer);
        ThreadRole.AssertNotGrainTurn("measuring a model");
        using var conductor = new Conductor(new EngineOptions());
        Wave[] waves = [.. texts.Select(text =>
        {
            var timeline = new SessionTimeline(Guid.NewGuid(), 1, package.Config.RopeByLength ? package.Config.Rope : null);
            timeline.Append(text);
            return timeline.Submit(text.Length, Sampling.Greedy, SlotFlags.None);
        })];
        for (int i = 0; i < package.Config.Layers; i++)
        {
            progress?.Invoke(i);
            var exit = new Exit();
            var rows = new LayerRows(i, package.Config.HiddenSize, package.Config.NeuronsOf(i), texts.Sum(static t => t.Length));
            Layer attached = conductor.Attach(package, i, new LayerOptions { Mode = FeedForwardMode.Exact, Window = WindowOf(package, i), Prefetch = false }, exit);
            attached.WatchFeedForward = rows.Add;
            attached.Loaded.GetAwaiter().GetResult();
            for (int w = 0; w < waves.Length; w++)
            {
                exit.Begin();
                if (!conductor.Enqueue(attached, waves[w])) throw new InvalidOperationException("the conductor is closed");
                (waves[w], _) = exit.Wait(cancel);
            }
            conductor.DetachAsync(attached).GetAwaiter().GetResult();
            layer(rows);
        }
    }

    /// <summary>In `exact` what is not active was not computed, and is what would have been zero.</summary>
    private static double ZerosOf(Layer layer) => layer.Exact
        ? layer.Count.Dense == 0 ? 0 : (double)(layer.Count.Dense - layer.Count.Active) / layer.Count.Dense
        : layer.Count.Computed == 0 ? 0 : (double)layer.Count.Zeros / layer.Count.Computed;

    private static double WindowOf(FlashPackage package, int layer)
    {
        using PackageFile slice = package.OpenSlice(layer);
        return Math.Min(1, WindowBytes / Math.Max(1, slice.Bundles!.Bytes));
    }

    /// <summary>Native memory that a run needs at its largest layer, but for scratch.</summary>
    public static long MemoryFor(FlashPackage package)
    {
        ArgumentNullException.ThrowIfNull(package);
        long most = 0;
        for (int i = 0; i < package.Config.Layers; i++)
        {
            using PackageFile slice = package.OpenSlice(i);
            long selector = slice.Has("ffn.selector") && !package.Manifest.Lean ? slice.Section("ffn.selector").Bytes : 0;
            most = Math.Max(most, slice.ResidentBytes - selector + Math.Max((long)WindowBytes, slice.Bundles?.Stride ?? 0));
        }
        using PackageFile edge = package.OpenEdge();
        return most + edge.Section(package.Config.TiedHead ? "embed" : "head").Bytes;
    }

    /// <summary>Where the one step of a layer comes out. The conductor's thread sets it, the caller's waits.</summary>
    private sealed class Exit : ILayerRouter
    {
        private volatile TaskCompletionSource<(Wave, float[]?)> _out = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public Layer? Next => null;
        public bool WantsRows => false;

        /// <summary>Before another step.</summary>
        public void Begin() => _out = new TaskCompletionSource<(Wave, float[]?)>(TaskCreationOptions.RunContinuationsAsynchronously);

        public (Wave Wave, float[]? Nll) Wait(CancellationToken cancel)
        {
            // Observed here or nowhere: a cancelled run has no use for it.
            Task.WaitAny([_out.Task], cancel);
            return _out.Task.GetAwaiter().GetResult();
        }

        public void Forward(Wave wave) => _out.TrySetResult((wave, null));
        public void Complete(in StepResult result) => _out.TrySetResult((default, result.Nll));
        public void Fault(in SlotFault fault) => _out.TrySetException(new StepFaultException(fault.Message) { Kind = fault.Kind });
        public void Hint(ReadOnlySpan<int> units) { }
        public void HintRows(ReadOnlySpan<float> rows, int count, int width) { }
    }
}

/// <summary>The rows of one layer at its feed-forward, a row for each token in order: made by the conductor's thread, handed to whoever studies the model.</summary>
public sealed class LayerRows
{
    internal LayerRows(int layer, int width, int neurons, int tokens)
    {
        (Layer, Width, Neurons) = (layer, width, neurons);
        Entering = new float[(long)tokens * width];
        Stream = new float[(long)tokens * width];
        Input = new float[(long)tokens * width];
        Values = new float[(long)tokens * neurons];
    }

    public int Layer { get; }
    public int Width { get; }
    public int Neurons { get; }
    public int Tokens { get; private set; }
    /// <summary>What entered the layer.</summary>
    public float[] Entering { get; }
    /// <summary>What enters the feed-forward, before any norm.</summary>
    public float[] Stream { get; }
    /// <summary>The same as the feed-forward's rows see it.</summary>
    public float[] Input { get; }
    /// <summary>Pre-activations: what is above the activation's threshold is active.</summary>
    public float[] Values { get; }

    internal void Add(FeedForwardRows rows)
    {
        rows.Entering.CopyTo(Entering.AsSpan(Tokens * Width));
        rows.Stream.CopyTo(Stream.AsSpan(Tokens * Width));
        rows.Input.CopyTo(Input.AsSpan(Tokens * Width));
        rows.Values.CopyTo(Values.AsSpan(Tokens * Neurons));
        Tokens += rows.Count;
    }
}
