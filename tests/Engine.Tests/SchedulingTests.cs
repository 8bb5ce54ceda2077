using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Which layer runs next and what is merged, on a conductor that the test pumps by hand.</summary>
public sealed class SchedulingTests
{
    private const int Vocabulary = 200;

    [Fact]
    public void Staggered_sessions_merge_at_a_deeper_layer_and_share_its_step()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 4), WeightFormat.Q8);
        using var conductor = new Conductor(new() { Threads = 1 }, null, null, start: false);
        using var engine = Ready(tiny, conductor);
        using var first = Submit(engine, [1, 2, 3], chunk: 64);
        PumpUntil(conductor, () => engine.Layers[0].Stats.Waves == 1 && engine.Layers[1].Arriving.IsEmpty == false);
        using var second = Submit(engine, [4, 5], chunk: 64);
        PumpUntil(conductor, () => first.Timeline.InFlight == false && second.Timeline.InFlight == false);
        Assert.Equal((2, 2), (engine.Layers[0].Stats.WavesIn, engine.Layers[0].Stats.Waves));
        Assert.Equal((2, 1, 2), (engine.Layers[1].Stats.WavesIn, engine.Layers[1].Stats.Waves, engine.Layers[1].Stats.Slots));
        Assert.Equal((1, 1, 2), (engine.Layers[3].Stats.WavesIn, engine.Layers[3].Stats.Waves, engine.Layers[3].Stats.Slots));
    }

    [Fact]
    public void Decode_goes_before_prefill_at_the_same_layer()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 2), WeightFormat.Q8);
        using var conductor = new Conductor(new() { Threads = 1 }, null, null, start: false);
        using var engine = Ready(tiny, conductor);
        using var prompt = Submit(engine, [.. Enumerable.Range(1, 40)], chunk: 64);
        using var token = Submit(engine, [7], chunk: 64);
        PumpUntil(conductor, () => !token.Timeline.InFlight);
        Assert.True(prompt.Timeline.InFlight);
        PumpUntil(conductor, () => !prompt.Timeline.InFlight);
    }

    [Fact]
    public void A_prompt_gets_through_beside_sessions_that_always_have_a_token_to_decode_and_so_do_they()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 2), WeightFormat.Q8);
        using var conductor = new Conductor(new() { Threads = 1 }, null, null, start: false);
        using var engine = Ready(tiny, conductor);
        using var busy = Submit(engine, [1], chunk: 64);
        using var prompt = Submit(engine, [.. Enumerable.Range(1, 40)], chunk: 64);
        int decoded = 0;
        for (int turn = 0; turn < 20 * Scheduler.Patience && prompt.Timeline.InFlight; turn++)
        {
            if (busy.Poll(out var result) == true)
            {
                decoded++;
                if (busy.Timeline.Length < 200) busy.Timeline.Append([result.Token]);
                else busy.Timeline.Truncate(1);
                busy.Submit(Sampling.Greedy, SlotFlags.Sample, 0, 64);
            }
            conductor.Pump();
        }
        Assert.False(prompt.Timeline.InFlight);
        Assert.True(decoded > 0, "no token came before the prompt was through");
        PumpUntil(conductor, () => !busy.Timeline.InFlight);
    }

    [Theory]
    [InlineData(FeedForwardMode.Exact), InlineData(FeedForwardMode.Dense)]
    public void A_step_of_prefill_gives_way_between_two_tiles_and_computes_the_same(FeedForwardMode mode)
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 2), WeightFormat.Q8);
        int[] text = ExactnessTests.Prompt(40, Vocabulary, 5);
        using var plain = new LocalEngine(tiny.Package, null, new() { Mode = mode });
        var expected = ExactnessTests.Run(plain, text, 1, 64, Vocabulary);

        var clock = new VirtualClock();
        using var conductor = new Conductor(new() { Threads = 1, TurnBytes = 1 }, clock, null, start: false);
        Gate? gate = null;
        using var engine = Ready(tiny, conductor, mode, (router, layer) => layer == 0 ? gate = new Gate(router, clock) : router);
        engine.Layers[0].WatchFeedForward = rows =>
        {
            // The prompt is in the middle of layer 0 when the token comes to layer 1.
            if (rows.Count == 40) gate!.Open();
        };
        gate!.Closed = true;
        using var token = Submit(engine, [7], chunk: 64);
        PumpUntil(conductor, () => gate.Held);
        using var prompt = Submit(engine, text, chunk: 64);
        PumpUntil(conductor, () => !token.Timeline.InFlight);
        Assert.True(engine.Layers[0].Running is { IsDecode: false });
        PumpUntil(conductor, () => !prompt.Timeline.InFlight);
        Assert.True(prompt.Poll(out var beside));
        ExactnessTests.AssertSame(expected, [beside.Top!], "in tiles");
    }

    /// <summary>Keeps a wave of one row between two layers until it is opened; a step takes a moment.</summary>
    private sealed class Gate(ILayerRouter router, VirtualClock clock) : ILayerRouter
    {
        private Wave? _wave;

        public bool Closed { get; set; }
        public bool Held => _wave != null;
        public Layer? Next => router.Next;
        public bool WantsRows => false;

        public void Forward(Wave wave)
        {
            clock.MoveTo(clock.Now + 1000);
            if (Closed && wave.RowCount == 1) _wave = wave;
            else router.Forward(wave);
        }

        public void Open()
        {
            Closed = false;
            if (_wave is { } wave) router.Forward(wave);
            _wave = null;
        }

        public void Complete(in StepResult result) => router.Complete(result);
        public void Fault(in SlotFault fault) => router.Fault(fault);
        public void Hint(ReadOnlySpan<int> units) => router.Hint(units);
        public void HintRows(ReadOnlySpan<float> rows, int count, int width) => router.HintRows(rows, count, width);
    }

    [Fact]
    public void A_merged_wave_stays_within_the_row_limit()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 2), WeightFormat.Q8);
        using var conductor = new Conductor(new() { Threads = 1, MaxWaveRows = 4 }, null, null, start: false);
        using var engine = Ready(tiny, conductor);
        var sessions = Enumerable.Range(0, 10).Select(i => Submit(engine, [i], chunk: 64)).ToArray();
        PumpUntil(conductor, () => sessions.All(s => !s.Timeline.InFlight));
        Assert.Equal((10, 3), (engine.Layers[0].Stats.WavesIn, engine.Layers[0].Stats.Waves));
        foreach (var session in sessions) session.Dispose();
    }

    private static LocalEngine Ready(TinyPackage tiny, Conductor conductor, FeedForwardMode mode = FeedForwardMode.Auto, Func<ILayerRouter, int, ILayerRouter>? wrap = null)
    {
        var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions { Mode = mode, Window = 1, Prefetch = false }, wrap);
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        // Everything in the window, so that no step of a test waits for the device.
        using var warm = Submit(engine, ExactnessTests.Prompt(200, Vocabulary, 1), chunk: 1);
        foreach (var layer in engine.Layers)
        {
            for (int unit = 0; unit < layer.Bundles!.Region.Count; unit++) layer.Bundles.Prefetch(unit);
            layer.Bundles.Flush();
        }
        PumpUntil(conductor, () => !warm.Timeline.InFlight && engine.Layers.All(l => l.OutstandingReads == 0));
        foreach (var layer in engine.Layers) layer.Count = default;
        return engine;
    }

    private static EngineSession Submit(LocalEngine engine, int[] tokens, int chunk)
    {
        var session = engine.OpenSession();
        session.Timeline.Append(tokens);
        session.Submit(Sampling.Greedy, SlotFlags.Sample, Vocabulary, chunk);
        return session;
    }

    private static void PumpUntil(Conductor conductor, Func<bool> done)
    {
        while (!done())
        {
            if (!conductor.Pump()) Thread.Yield();
        }
    }
}
