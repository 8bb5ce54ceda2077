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
    public void A_prompt_is_not_starved_by_sessions_that_always_have_a_token_to_decode()
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
        Assert.True(decoded > Scheduler.Patience / 4, $"{decoded} tokens before the prompt was through");
        PumpUntil(conductor, () => !busy.Timeline.InFlight);
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

    private static LocalEngine Ready(TinyPackage tiny, Conductor conductor)
    {
        var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions { Window = 1, Prefetch = false }, null);
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
        session.Submit(Sampling.Greedy, SlotFlags.Sample, 0, chunk);
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
