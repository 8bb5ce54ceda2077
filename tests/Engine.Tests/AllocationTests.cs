using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Runs alone: it counts what threads allocate.</summary>
[CollectionDefinition(nameof(AllocationTests), DisableParallelization = true)]
public sealed class AllocationCollection;

[Collection(nameof(AllocationTests))]
public sealed class AllocationTests
{
    /// <summary>The interval crosses what grows with a session: blocks of keys and values at 192 and 256 positions, the rotary table and the chain of hashes at 256.</summary>
    private const int From = 150, To = 290;

    [Theory]
    [InlineData(1.0, "auto", FeedForwardMode.Exact)]
    [InlineData(0.1, "auto", FeedForwardMode.Exact)]
    [InlineData(0.1, "scalar", FeedForwardMode.Exact)]
    [InlineData(0.1, "auto", FeedForwardMode.Predicted)]
    public void A_warm_decode_step_allocates_nothing_on_any_engine_thread(double window, string kernels, FeedForwardMode mode)
    {
        var config = TinyPackage.Llama(layers: 2, hidden: 128, ffn: 2048) with { MaxPositions = 512 };
        using var tiny = TinyPackage.Create(config, WeightFormat.Q8, predictors: TinyPackage.LowRanks(config));
        using var device = new FlashReader(threads: 2);
        var reader = new Watched(device);
        using var conductor = new Conductor(new() { Threads = 2, ParallelWork = 0, Kernels = kernels }, null, reader);
        using var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions { Window = window, Mode = mode }, null);
        using var session = engine.OpenSession();
        // The session's own lists grow now and not in the interval.
        session.Timeline.Append(new int[600]);
        session.Timeline.Truncate(0);
        session.Timeline.Append(ExactnessTests.Prompt(20, config.VocabSize, 1));
        Span<int> one = stackalloc int[1];
        while (session.Timeline.Length < From) Decode(session, one);
        long taken = conductor.Pool.Taken(1);
        reader.Begin();
        long[] before = conductor.AllocatedBytes();
        long mine = GC.GetAllocatedBytesForCurrentThread();
        while (session.Timeline.Length < To) Decode(session, one);
        mine = GC.GetAllocatedBytesForCurrentThread() - mine;
        long[] after = conductor.AllocatedBytes();
        // Asking costs the conductor a command of its own; an empty interval shows how much.
        long asking = conductor.AllocatedBytes()[0] - after[0];
        Assert.Equal(0, mine);
        Assert.Equal(0, after[0] - before[0] - asking);
        for (int worker = 1; worker < before.Length; worker++) Assert.Equal(before[worker], after[worker]);
        // Three of them were taken by the questions.
        Assert.True(conductor.Pool.Taken(1) - taken > 3, "the second worker had nothing to do");
        if (window == 1) return;
        Assert.True(reader.Measured > 100, $"{reader.Measured} reads");
        // The runtime makes a small thing or two on these threads once, some time or other; an object per read would be 24 bytes or more of each.
        Assert.InRange(reader.Allocated, 0, 128);
    }

    private static void Decode(EngineSession session, Span<int> one)
    {
        var result = session.Run(Sampling.Greedy);
        one[0] = result.Token;
        session.Timeline.Append(one);
    }

    /// <summary>Stands before a reader and compares what each I/O thread has allocated at its completions with what it had at the one before.</summary>
    private sealed class Watched(FlashReader inner) : IFlashReader, IReadCompletion
    {
        [ThreadStatic] private static int t_epoch;
        [ThreadStatic] private static long t_last;
        // Not a Lock: that one allocates on the thread that first finds it taken.
        private readonly object _gate = new();
        private int _epoch = Environment.TickCount;
        private long _allocated;
        private int _measured;

        public long Allocated => Volatile.Read(ref _allocated);
        public int Measured => Volatile.Read(ref _measured);
        public ReaderStats Stats => inner.Stats;

        public void Begin()
        {
            lock (_gate)
            {
                _epoch++;
                _measured = 0;
                _allocated = 0;
            }
        }

        public bool TrySubmit(ReadRequest request)
        {
            var completion = request.Completion;
            request.State = completion;
            request.Completion = this;
            if (inner.TrySubmit(request)) return true;
            request.Completion = completion;
            return false;
        }

        public void Promote(ReadRequest request) => inner.Promote(request);

        public bool TryTakeBack(ReadRequest request) => inner.TryTakeBack(request);

        public void Completed(ReadRequest request)
        {
            long now = GC.GetAllocatedBytesForCurrentThread();
            lock (_gate)
            {
                if (t_epoch == _epoch)
                {
                    _allocated += now - t_last;
                    _measured++;
                }
                t_epoch = _epoch;
                t_last = now;
            }
            ((IReadCompletion)request.State!).Completed(request);
        }
    }
}
