using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>The thread guard of the build that tests run: a step under a task scheduler of somebody's own, as a grain turn is, fails.</summary>
public sealed class ThreadGuardTests
{
    private static void OnForeignScheduler(Action work) =>
        Task.Factory.StartNew(work, CancellationToken.None, TaskCreationOptions.None, new ConcurrentExclusiveSchedulerPair().ExclusiveScheduler).GetAwaiter().GetResult();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_step_begun_or_continued_inside_a_grain_turn_faults_with_the_guards_words(bool parked)
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.F32, open: path => new MemoryFile(File.ReadAllBytes(path), 512, path));
        var flash = new VirtualFlash(new VirtualClock(), bytesPerNano: 1);
        using var conductor = new Conductor(new() { Threads = 1 }, null, flash, start: false);
        using var engine = new LocalEngine(tiny.Package, conductor, new() { Window = 0.1, Prefetch = false }, null);
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        using var session = engine.OpenSession();
        session.Timeline.Append([5]);
        session.Submit(Sampling.Greedy, SlotFlags.Sample, 0, 1);
        try
        {
            if (parked)
            {
                while (conductor.Pump()) { }
                Assert.True(flash.WaitForOne());
                while (flash.WaitForOne()) { }
            }
            OnForeignScheduler(() => { while (conductor.Pump()) { } });
            var error = Assert.Throws<StepFaultException>(() => session.Poll(out _));
            Assert.Contains("grain turn", error.Message, StringComparison.Ordinal);
        }
        finally
        {
            while (conductor.Pump() || flash.WaitForOne()) { }
        }
    }
}
