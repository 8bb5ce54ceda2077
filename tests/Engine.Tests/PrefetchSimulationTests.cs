using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>
/// Look-ahead on a virtual clock, with the real conductor, windows, policy and selector. The device has a bandwidth; a layer's step takes as long as its reads. In the
/// model used here attention and feed-forward add nothing to the residual stream, so the input of layer i is the input of layer i + 1 and the ordinary
/// prediction is a perfect one. A worse one is made by putting other neurons in the place of some, or all, of a hint. Predicting takes time, too.
/// </summary>
public sealed class PrefetchSimulationTests
{
    private const int Layers = 12, Tokens = 80, Warm = 20, Vocabulary = 200, Hidden = 32, Neurons = 2048;
    private const long SelectorBytes = Neurons * Hidden * sizeof(float);
    /// <summary>Memory beside a device of 1: what the reference machine has (12.4 GB/s and 0.9 GB/s).</summary>
    private const double MemoryBytesPerNano = 12.4 / 0.9;

    [Fact]
    public void A_perfect_prediction_hides_at_least_four_fifths_of_the_stall()
    {
        var without = Simulate(prefetch: false);
        var with = Simulate(prefetch: true);
        Assert.True(without.Stall > 0);
        Assert.True(with.Stall <= 0.2 * without.Stall, $"stall {with.Stall} ns with look-ahead, {without.Stall} ns without");
        Assert.True(with.Total < without.Total);
        ExactnessTests.AssertSame(without.Logits, with.Logits, "with a perfect prediction");
    }

    [Fact]
    public void A_useless_prediction_costs_less_than_a_twentieth_because_it_is_turned_down()
    {
        var without = Simulate(prefetch: false);
        var with = Simulate(prefetch: true, wrong: 1);
        Assert.True(with.Total < 1.05 * without.Total, $"{with.Total} ns with a useless prediction, {without.Total} ns without");
        ExactnessTests.AssertSame(without.Logits, with.Logits, "with a useless prediction");
    }

    [Fact]
    public void Guesses_that_were_wrong_stand_in_nobodys_way_once_they_are_taken_back()
    {
        var kept = Simulate(prefetch: true, wrong: 0.5, takesBack: false);
        var back = Simulate(prefetch: true, wrong: 0.5);
        Assert.True(back.Bytes < kept.Bytes, $"{back.Bytes} bytes read where wrong guesses are taken back, {kept.Bytes} where they are not");
        Assert.True(back.Total < kept.Total, $"{back.Total} ns where wrong guesses are taken back, {kept.Total} ns where they are not");
        ExactnessTests.AssertSame(kept.Logits, back.Logits, "with guesses taken back");
    }

    private sealed record Run(long Total, long Stall, long Bytes, (int, float)[][] Logits);

    private static Run Simulate(bool prefetch, double wrong = 0, bool takesBack = true)
    {
        var config = TinyPackage.Llama(layers: Layers, hidden: Hidden, ffn: Neurons) with { VocabSize = Vocabulary };
        using var tiny = TinyPackage.Create(config, WeightFormat.F32, open: path => new MemoryFile(File.ReadAllBytes(path), 512, path), residual: 0);
        var clock = new VirtualClock();
        var flash = new VirtualFlash(clock, bytesPerNano: 1) { TakesBack = takesBack };
        using var conductor = new Conductor(new() { Threads = 1 }, clock, flash, start: false);
        LocalEngine? built = null;
        using var engine = built = new LocalEngine(tiny.Package, conductor, new() { Window = 0.25, Prefetch = prefetch },
            (router, layer) => new Timed(router, flash, wrong, layer, () => built!));
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        Assert.All(engine.Layers, l => Assert.Null(l.LoadError));
        try
        {
            return Decode(engine, conductor, flash, clock);
        }
        finally
        {
            // Reads ahead that nobody waits for would keep the layers from closing.
            while (flash.WaitForOne()) conductor.Pump();
        }
    }

    private static Run Decode(LocalEngine engine, Conductor conductor, VirtualFlash flash, VirtualClock clock)
    {
        using var session = engine.OpenSession();
        var random = new Random(3);
        var logits = new List<(int, float)[]>();
        long warmStall = 0, warmTime = 0;
        for (int token = 0; token < Tokens; token++)
        {
            if (token == Warm) (warmStall, warmTime) = (flash.Stall, clock.Now);
            session.Timeline.Append([random.Next(Vocabulary)]);
            session.Submit(Sampling.Greedy, SlotFlags.Sample, Vocabulary, 1);
            StepResult result;
            while (session.Poll(out result) == null)
            {
                if (!conductor.Pump() && !flash.WaitForOne() && !conductor.Lingers) Assert.Fail("neither the conductor nor the device has anything to do");
            }
            logits.Add(result.Top!);
        }
        return new Run(clock.Now - warmTime, flash.Stall - warmStall, flash.Bytes, [.. logits]);
    }

    /// <summary>Charges a step's computing time when it hands over its output: the device works meanwhile.</summary>
    private sealed class Timed(ILayerRouter inner, VirtualFlash flash, double wrong, int layer, Func<LocalEngine> engine) : ILayerRouter
    {
        private readonly Random _random = new(layer);
        private long _bytes;

        public Layer? Next => inner.Next;
        public bool WantsRows => inner.WantsRows;

        public void Forward(Wave wave)
        {
            Compute();
            inner.Forward(wave);
        }

        public void Complete(in StepResult result)
        {
            Compute();
            inner.Complete(result);
        }

        public void Fault(in SlotFault fault) => inner.Fault(fault);

        public void Hint(ReadOnlySpan<int> units)
        {
            // The prediction went before it: one pass over the next layer's selector, at the speed of memory.
            flash.Elapse((long)(SelectorBytes / MemoryBytesPerNano));
            int all = Next!.Predicted.Length, kept = units.Length - (int)(wrong * units.Length);
            var right = units.ToArray().ToHashSet();
            var hint = new SortedSet<int>(units[..kept].ToArray());
            while (hint.Count < units.Length)
            {
                int unit = _random.Next(all);
                if (!right.Contains(unit)) hint.Add(unit);
            }
            inner.Hint(hint.ToArray());
        }

        public void HintRows(ReadOnlySpan<float> rows, int count, int width) => inner.HintRows(rows, count, width);

        /// <summary>As long as this layer's own reads took in this step.</summary>
        private void Compute()
        {
            var stats = engine().Layers[layer].Stats;
            long bytes = stats.DemandBytes + stats.PrefetchBytes;
            flash.Elapse(Math.Max(1, bytes - _bytes));
            _bytes = bytes;
        }
    }
}
