using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>What the conductor does with what it is handed: waves that are not in order, commands that throw, layers that leave.</summary>
public sealed class ArrivalTests
{
    [Theory]
    [InlineData(1, 0, 3, "takes rows of 64")]
    [InlineData(0, 64, 3, "takes rows of 0")]
    [InlineData(1, 32, 3, "takes rows of 64")]
    [InlineData(1, 64, 2, "2 tokens")]
    [InlineData(1, 64, 4, "4 tokens")]
    [InlineData(1, 64, 0, "0 tokens")]
    [InlineData(0, 0, -1, "-1 tokens")]
    public void A_malformed_wave_is_answered_and_never_computed(int layer, int width, int count, string why)
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        using var conductor = new Conductor(new() { Threads = 1 }, null, null, start: false);
        var heard = new Heard();
        using var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions(), (router, index) => index == layer ? heard : router);
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        var wave = Wave.Rent(1, 3, width);
        wave.Slots[0] = new Slot { Session = Guid.NewGuid(), Epoch = 1, Step = 7, Count = count, PrefixHash = TokenChain.Start };
        wave.Tokens.Clear();
        wave.Rows.Clear();
        var session = wave.Slots[0].Session;
        Assert.True(conductor.Enqueue(engine.Layers[layer], wave));
        while (conductor.Pump()) { }
        var fault = Assert.Single(heard.Faults);
        Assert.Equal((session, 1, 7L, FaultKind.Rejected), (fault.Session, fault.Epoch, fault.Step, fault.Kind));
        Assert.Contains(why, fault.Message, StringComparison.Ordinal);
        Assert.Equal(0, heard.Waves);
        Assert.False(conductor.Holds(session, 1, 7));
        Assert.Equal(0, engine.Layers[layer].Stats.Rows);
    }

    [Fact]
    public void A_command_that_throws_does_not_hold_up_those_behind_it()
    {
        using var conductor = new Conductor(new() { Threads = 1 }, null, null, start: false);
        var ran = new List<int>();
        conductor.Command(() => ran.Add(1));
        conductor.Command(() => throw new InvalidOperationException("by the test"));
        conductor.Command(() => ran.Add(2));
        conductor.Pump();
        Assert.Equal([1, 2], ran);
        Assert.Equal("by the test", conductor.LastError?.Message);
    }

    [Fact]
    public async Task Everybody_who_detaches_a_layer_is_told_when_it_is_gone()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        using var conductor = new Conductor(new() { Threads = 1 }, null, null, start: false);
        using var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions(), null);
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        var layer = engine.Layers[1];
        // A read under way keeps the layer, so that the second call comes before the first one is through.
        layer.Bundles!.Prefetch(3);
        var first = conductor.DetachAsync(layer);
        var second = conductor.DetachAsync(layer);
        layer.Bundles.Flush();
        conductor.Drive(Task.WhenAll(first, second));
        await conductor.DetachAsync(layer);
        Assert.Equal(0, conductor.Ledger.Held("tiny/1"));
    }

    /// <summary>A router that keeps what it is told.</summary>
    private sealed class Heard : ILayerRouter
    {
        public List<SlotFault> Faults { get; } = [];
        public int Waves { get; private set; }
        public Layer? Next => null;
        public bool WantsRows => false;

        public void Forward(Wave wave)
        {
            Waves++;
            wave.Return();
        }

        public void Complete(in StepResult result) => Waves++;
        public void Fault(in SlotFault fault) => Faults.Add(fault);
        public void Hint(ReadOnlySpan<int> units) { }
        public void HintRows(ReadOnlySpan<float> rows, int count, int width) { }
    }
}
