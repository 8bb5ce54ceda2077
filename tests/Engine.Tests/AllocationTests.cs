using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Runs alone: it counts what threads allocate.</summary>
[CollectionDefinition(nameof(AllocationTests), DisableParallelization = true)]
public sealed class AllocationCollection;

[Collection(nameof(AllocationTests))]
public sealed class AllocationTests
{
    [Theory, InlineData(1.0), InlineData(0.1)]
    public void A_warm_decode_step_allocates_nothing_on_any_engine_thread(double window)
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        using var conductor = new Conductor(new() { Threads = 2 });
        using var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions { Window = window }, null);
        using var session = engine.OpenSession();
        session.Timeline.Append(ExactnessTests.Prompt(20, 200, 1));
        Span<int> one = stackalloc int[1];
        // Past 128 tokens, where the session's token lists last grew.
        for (int i = 0; i < 120; i++) Decode(session, one);
        long[] before = conductor.AllocatedBytes();
        long mine = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 30; i++) Decode(session, one);
        mine = GC.GetAllocatedBytesForCurrentThread() - mine;
        long[] after = conductor.AllocatedBytes();
        // Asking costs the conductor a command of its own; an empty interval shows how much.
        long asking = conductor.AllocatedBytes()[0] - after[0];
        Assert.Equal(0, mine);
        Assert.Equal(0, after[0] - before[0] - asking);
        for (int worker = 1; worker < before.Length; worker++) Assert.Equal(before[worker], after[worker]);
    }

    private static void Decode(EngineSession session, Span<int> one)
    {
        var result = session.Run(Sampling.Greedy);
        one[0] = result.Token;
        session.Timeline.Append(one);
    }
}
