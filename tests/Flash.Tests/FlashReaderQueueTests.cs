using System.Collections.Concurrent;

namespace FlashOrleans.Flash.Tests;

public sealed class FlashReaderQueueTests
{
    private static readonly TimeSpan s_hung = TimeSpan.FromSeconds(60);

    /// <summary>Holds every read in the device until the test lets it go, one permit a read; tells which units came in, in order.</summary>
    private sealed class Device : IDisposable
    {
        private readonly BlockingCollection<int> _entered = [];
        private readonly SemaphoreSlim _permits = new(0);

        public Device(MemoryFile file) => file.Gate = (_, offset, _) =>
        {
            _entered.Add((int)(offset / 1024));
            if (!_permits.Wait(s_hung)) throw new TimeoutException("the test forgot this read");
        };

        /// <summary>The unit of the next read that enters the device.</summary>
        public int Entered() => _entered.TryTake(out int unit, s_hung) ? unit : throw new TimeoutException("no read entered the device");

        public void Release(int reads) => _permits.Release(reads);

        public void Dispose()
        {
            _permits.Release(10_000);
            _entered.Dispose();
        }
    }

    [Fact]
    public void Demand_is_read_before_prefetch_that_waited_longer()
    {
        var (bench, file) = ReaderBench.Simple();
        using Device device = new(file);
        using FlashReader reader = new(threads: 1);
        Assert.True(reader.TrySubmit(bench.Request(ReadClass.Demand, 0)));
        Assert.Equal(0, device.Entered());
        foreach (int unit in (int[])[10, 12, 14]) Assert.True(reader.TrySubmit(bench.Request(ReadClass.Prefetch, unit)));
        foreach (int unit in (int[])[1, 3]) Assert.True(reader.TrySubmit(bench.Request(ReadClass.Demand, unit)));
        Assert.Equal(5, reader.Queued);
        device.Release(6);
        Assert.Equal([1, 3, 10, 12, 14], Enumerable.Range(0, 5).Select(_ => device.Entered()));
        bench.Wait(6);
        Assert.Equal(3, reader.Stats.DemandReads);
        Assert.Equal(3, reader.Stats.PrefetchReads);
        bench.Dispose();
    }

    [Fact]
    public void Demand_is_read_before_a_sweep_which_counts_as_demand_all_the_same()
    {
        var (bench, file) = ReaderBench.Simple();
        using Device device = new(file);
        using FlashReader reader = new(threads: 1);
        reader.TrySubmit(bench.Request(ReadClass.Demand, 0));
        device.Entered();
        ReadRequest[] sweep = [.. new[] { 10, 12, 14 }.Select(unit => bench.Request(ReadClass.Sweep, unit))];
        foreach (ReadRequest request in sweep) reader.TrySubmit(request);
        reader.TrySubmit(bench.Request(ReadClass.Demand, 1));
        reader.Promote(sweep[2]);
        device.Release(5);
        Assert.Equal([1, 14, 10, 12], Enumerable.Range(0, 4).Select(_ => device.Entered()));
        bench.Wait(5);
        Assert.Equal(0, reader.Stats.PrefetchReads);
        bench.Dispose();
    }

    [Fact]
    public void A_promoted_prefetch_joins_the_end_of_the_demand_queue()
    {
        var (bench, file) = ReaderBench.Simple();
        using Device device = new(file);
        using FlashReader reader = new(threads: 1);
        reader.TrySubmit(bench.Request(ReadClass.Demand, 0));
        device.Entered();
        ReadRequest[] prefetch = [.. new[] { 10, 12, 14 }.Select(unit => bench.Request(ReadClass.Prefetch, unit))];
        foreach (ReadRequest request in prefetch) reader.TrySubmit(request);
        reader.TrySubmit(bench.Request(ReadClass.Demand, 1));
        reader.Promote(prefetch[1]);
        reader.Promote(prefetch[1]); // twice is once
        reader.TrySubmit(bench.Request(ReadClass.Demand, 2));
        device.Release(6);
        Assert.Equal([1, 12, 2, 10, 14], Enumerable.Range(0, 5).Select(_ => device.Entered()));
        bench.Wait(6);
        reader.Promote(prefetch[0]); // long done: nothing happens
        Assert.Equal(3, reader.Stats.PrefetchReads);
        bench.Dispose();
    }

    [Fact]
    public void What_is_taken_back_is_not_read_and_not_told_and_can_be_submitted_anew()
    {
        var (bench, file) = ReaderBench.Simple();
        using Device device = new(file);
        using FlashReader reader = new(threads: 1);
        ReadRequest first = bench.Request(ReadClass.Prefetch, 0), demand = bench.Request(ReadClass.Demand, 2);
        ReadRequest[] prefetch = [.. new[] { 10, 12, 14 }.Select(unit => bench.Request(ReadClass.Prefetch, unit))];
        reader.TrySubmit(first);
        device.Entered();
        foreach (ReadRequest request in prefetch) reader.TrySubmit(request);
        reader.TrySubmit(demand);
        Assert.True(reader.TryTakeBack(prefetch[1]));
        Assert.False(prefetch[1].InFlight);
        Assert.False(reader.TryTakeBack(prefetch[1])); // once
        Assert.False(reader.TryTakeBack(first)); // in the device
        Assert.False(reader.TryTakeBack(demand)); // somebody waits for it
        Assert.True(reader.TrySubmit(prefetch[1]));
        Assert.True(reader.TryTakeBack(prefetch[0]));
        device.Release(4);
        Assert.Equal([2, 14, 12], Enumerable.Range(0, 3).Select(_ => device.Entered()));
        bench.Wait(4);
        Assert.False(reader.TryTakeBack(prefetch[2])); // long done
        Assert.Equal((3L, 1L), (reader.Stats.PrefetchReads, reader.Stats.DemandReads));
        bench.Dispose();
    }

    [Fact]
    public void Only_so_many_prefetch_reads_are_in_the_device_and_demand_finds_a_thread()
    {
        var (bench, file) = ReaderBench.Simple();
        using Device device = new(file);
        using FlashReader reader = new(threads: 4, prefetchDepth: 2);
        for (int unit = 10; unit < 16; unit++) reader.TrySubmit(bench.Request(ReadClass.Prefetch, unit));
        Assert.Equal([10, 11], new[] { device.Entered(), device.Entered() }.Order());
        // Were a third prefetch let in, these two would find only one thread.
        reader.TrySubmit(bench.Request(ReadClass.Demand, 1));
        reader.TrySubmit(bench.Request(ReadClass.Demand, 2));
        Assert.Equal([1, 2], new[] { device.Entered(), device.Entered() }.Order());
        Assert.Equal(4, reader.Queued);
        device.Release(8);
        bench.Wait(8);
        bench.Dispose();
    }

    [Fact]
    public void A_promotion_wakes_a_thread_that_the_limit_of_prefetch_kept_idle()
    {
        var (bench, file) = ReaderBench.Simple();
        using Device device = new(file);
        using FlashReader reader = new(threads: 2, prefetchDepth: 1);
        ReadRequest waiting = bench.Request(ReadClass.Prefetch, 11);
        reader.TrySubmit(bench.Request(ReadClass.Prefetch, 10));
        reader.TrySubmit(waiting);
        Assert.Equal(10, device.Entered());
        // The other thread has looked, found nothing it may take, and parked again.
        Assert.True(SpinWait.SpinUntil(() => reader.Parked == 1, s_hung));
        reader.Promote(waiting);
        Assert.Equal(11, device.Entered());
        device.Release(2);
        bench.Wait(2);
        bench.Dispose();
    }

    [Fact]
    public void Each_queue_is_bounded_and_prefetch_cannot_fill_that_of_demand()
    {
        var (bench, file) = ReaderBench.Simple();
        using Device device = new(file);
        using FlashReader reader = new(threads: 1, queue: 2);
        reader.TrySubmit(bench.Request(ReadClass.Demand, 0));
        device.Entered();
        Assert.True(reader.TrySubmit(bench.Request(ReadClass.Prefetch, 1)));
        Assert.True(reader.TrySubmit(bench.Request(ReadClass.Prefetch, 2)));
        ReadRequest refused = bench.Request(ReadClass.Prefetch, 3);
        Assert.False(reader.TrySubmit(refused));
        Assert.False(refused.InFlight);
        Assert.True(reader.TrySubmit(bench.Request(ReadClass.Demand, 4)));
        Assert.True(reader.TrySubmit(bench.Request(ReadClass.Demand, 5)));
        Assert.False(reader.TrySubmit(bench.Request(ReadClass.Demand, 6)));
        device.Release(100);
        bench.Wait(5);
        Assert.True(reader.TrySubmit(refused));
        bench.Wait(6);
        bench.Dispose();
    }

    [Fact]
    public void A_request_that_is_on_its_way_is_not_taken_twice()
    {
        var (bench, file) = ReaderBench.Simple();
        using Device device = new(file);
        using FlashReader reader = new(threads: 1);
        ReadRequest request = bench.Request(ReadClass.Demand, 0);
        reader.TrySubmit(request);
        Assert.Throws<InvalidOperationException>(() => reader.TrySubmit(request));
        device.Release(1);
        bench.Wait(1);
        Assert.False(request.InFlight);
        Assert.Throws<ArgumentException>(() => reader.TrySubmit(new ReadRequest()));
        bench.Dispose();
    }

    [Fact]
    public async Task Dispose_cancels_what_waits_and_lets_the_device_finish()
    {
        var (bench, file) = ReaderBench.Simple();
        MemoryLedger ledger = new();
        using Device device = new(file);
        using FlashReader reader = new(threads: 1, ledger: ledger);
        Assert.True(ledger.Held("reader") > 0);
        ReadRequest running = bench.Request(ReadClass.Demand, 0);
        reader.TrySubmit(running);
        device.Entered();
        ReadRequest[] queued = [bench.Request(ReadClass.Demand, 1, 2), bench.Request(ReadClass.Prefetch, 5)];
        foreach (ReadRequest request in queued) reader.TrySubmit(request);

        Task disposing = Task.Factory.StartNew(reader.Dispose, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        Assert.Equal(queued, bench.Wait(2));
        Assert.Equal([ReadFault.Cancelled, ReadFault.Cancelled], queued[0].Faults[..2]);
        Assert.Equal(ReadFault.Cancelled, queued[1].Faults[0]);
        Assert.Contains("closed", queued[1].Error, StringComparison.Ordinal);
        Assert.False(reader.TrySubmit(bench.Request(ReadClass.Demand, 7)));
        Assert.False(disposing.IsCompleted);
        device.Release(1);
        await disposing.WaitAsync(s_hung);
        Assert.Equal(ReadFault.None, running.Faults[0]);
        Assert.Null(running.Error);
        Assert.Equal(0, ledger.Held("reader"));
        Assert.Equal(1, file.Reads);
        bench.Dispose();
    }

    [Fact]
    public void Many_submitters_and_promotions_lose_and_double_nothing()
    {
        var (bench, file) = ReaderBench.Simple(256);
        using FlashReader reader = new(threads: 4, queue: 16, prefetchDepth: 2);
        ConcurrentDictionary<ReadRequest, int> completions = new();
        Counting counting = new(completions);
        const int submitters = 3, each = 400;
        Thread[] threads = [.. Enumerable.Range(0, submitters).Select(seed => new Thread(() =>
        {
            Random random = new(seed);
            for (int i = 0; i < each; i++)
            {
                int unit = random.Next(200);
                ReadRequest request = bench.Request(random.Next(2) == 0 ? ReadClass.Demand : ReadClass.Prefetch, unit, unit + 2);
                request.Completion = counting;
                while (!reader.TrySubmit(request)) Thread.Yield();
                if (random.Next(3) == 0) reader.Promote(request);
            }
        }))];
        foreach (Thread thread in threads) thread.Start();
        foreach (Thread thread in threads) thread.Join();
        counting.Wait(submitters * each);
        Assert.Equal(submitters * each, completions.Count);
        Assert.All(completions, pair => Assert.Equal(1, pair.Value));
        Assert.All(completions.Keys, request => Assert.Null(request.Error));
        ReaderStats stats = reader.Stats;
        Assert.Equal(submitters * each, stats.Reads);
        Assert.Equal(stats.Reads, stats.DemandReads + stats.PrefetchReads);
        Assert.Equal(2 * stats.Reads, stats.Units);
        Assert.Equal(stats.Reads, file.Reads);
        Assert.Equal(file.Bytes, stats.Bytes);
        bench.Dispose();
    }

    private sealed class Counting(ConcurrentDictionary<ReadRequest, int> completions) : IReadCompletion
    {
        private readonly object _lock = new();
        private int _count;

        public void Completed(ReadRequest request)
        {
            completions.AddOrUpdate(request, 1, (_, old) => old + 1);
            lock (_lock)
            {
                _count++;
                Monitor.PulseAll(_lock);
            }
        }

        public void Wait(int count)
        {
            lock (_lock)
            {
                while (_count < count)
                    if (!Monitor.Wait(_lock, s_hung)) throw new TimeoutException($"{_count} of {count} completed");
            }
        }
    }
}
