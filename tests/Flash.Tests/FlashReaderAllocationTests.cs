namespace FlashOrleans.Flash.Tests;

public sealed class FlashReaderAllocationTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void Submitting_reading_and_completing_do_not_allocate(int threads)
    {
        var (bench, _) = ReaderBench.Simple();
        Measure(bench, threads);
        bench.Dispose();
    }

    [Fact]
    public void Reading_a_real_file_does_not_allocate()
    {
        byte[] content = TempFile.Pattern(64 * 1024);
        using TempFile temp = new(content);
        using DirectFile file = DirectFile.Open(temp.Path);
        using ReaderBench bench = new(file, content, 64, 1024, 0, 1024);
        Measure(bench, 2);
    }

    private static void Measure(ReaderBench bench, int threads)
    {
        using FlashReader reader = new(threads);
        Watch watch = new();
        // More requests than threads, so that threads both queue up and park.
        ReadRequest[] requests = [.. Enumerable.Range(0, 6).Select(i => bench.Request(i % 2 == 0 ? ReadClass.Demand : ReadClass.Prefetch, 9 * i, 9 * i + 1, 9 * i + 4))];
        foreach (ReadRequest request in requests) request.Completion = watch;
        for (int round = 0; round < 200; round++) Round(round);
        // The runtime's own tiers re-compile meanwhile; that is off these threads' accounts.
        watch.Begin();
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int round = 0; round < 300; round++) Round(round);
        long submitter = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.Equal(0, submitter);
        Assert.Equal(0, watch.Allocated);
        Assert.True(watch.Measured > 1000);

        void Round(int round)
        {
            watch.Expect(requests.Length);
            foreach (ReadRequest request in requests) reader.TrySubmit(request);
            reader.Promote(requests[1 + 2 * (round % 3)]);
            watch.Wait();
        }
    }

    /// <summary>Compares each I/O thread's allocations at its completions with those at its first one since the beginning.</summary>
    private sealed class Watch : IReadCompletion
    {
        [ThreadStatic] private static Watch? t_watch;
        [ThreadStatic] private static int t_epoch;
        [ThreadStatic] private static long t_first;
        private readonly object _lock = new();
        private int _epoch = 1;
        private int _left;

        public long Allocated { get; private set; }
        public int Measured { get; private set; }

        public void Begin()
        {
            lock (_lock)
            {
                _epoch++;
                Measured = 0;
                Allocated = 0;
            }
        }

        public void Expect(int count)
        {
            lock (_lock) _left = count;
        }

        public void Completed(ReadRequest request)
        {
            long now = GC.GetAllocatedBytesForCurrentThread();
            lock (_lock)
            {
                if (t_watch != this || t_epoch != _epoch)
                {
                    t_watch = this;
                    t_epoch = _epoch;
                    t_first = now;
                }
                else
                {
                    Allocated += now - t_first;
                    t_first = now;
                    Measured++;
                }
                if (--_left == 0) Monitor.PulseAll(_lock);
            }
        }

        public void Wait()
        {
            lock (_lock)
            {
                while (_left > 0)
                    if (!Monitor.Wait(_lock, 60_000)) throw new TimeoutException($"{_left} reads are missing");
            }
        }
    }
}
