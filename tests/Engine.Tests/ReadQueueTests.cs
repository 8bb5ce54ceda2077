using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>What becomes of reads for which the reader's bounded queue has no room at first.</summary>
public sealed class ReadQueueTests
{
    [Fact]
    public void Two_parked_layers_that_share_a_queue_of_one_read_both_get_their_reads()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.F32);
        int vocabulary = tiny.Package.Config.VocabSize;
        int[][] prompts = [.. Enumerable.Range(0, 3).Select(i => ExactnessTests.Prompt(9, vocabulary, 40 + i))];
        using var plain = new LocalEngine(tiny.Package);
        var expected = prompts.Select(p => ExactnessTests.Run(plain, p, 6, 64, vocabulary)).ToArray();
        var flash = new VirtualFlash(new VirtualClock(), bytesPerNano: 1, queue: 1);
        using var conductor = new Conductor(new() { Threads = 1 }, null, flash, start: false);
        using var engine = new LocalEngine(tiny.Package, conductor, new() { Window = 0.25, Prefetch = false }, null);
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        var sessions = prompts.Select(_ => engine.OpenSession()).ToArray();
        var logits = prompts.Select(_ => new List<(int, float)[]>()).ToArray();
        void Next(int i, int[] tokens)
        {
            sessions[i].Timeline.Append(tokens);
            sessions[i].Submit(Sampling.Greedy, SlotFlags.Sample, vocabulary, 64);
        }
        int mostParked = 0;
        bool Turn()
        {
            bool busy = conductor.Pump();
            mostParked = Math.Max(mostParked, engine.Layers.Count(l => l.Running != null));
            return busy;
        }
        for (int i = 0; i < prompts.Length; i++)
        {
            Next(i, prompts[i]);
            // Each starts when the one before it waits in a deeper layer.
            while (Turn()) { }
        }
        while (logits.Any(l => l.Count < 6))
        {
            for (int i = 0; i < prompts.Length; i++)
            {
                if (sessions[i].Poll(out var result) != true) continue;
                logits[i].Add(result.Top!);
                if (logits[i].Count < 6) Next(i, [result.Token]);
            }
            // A result may have come in this very turn; only when every session waits it is the device's turn.
            bool waiting = !Turn() && logits.Any(l => l.Count < 6) && Enumerable.Range(0, prompts.Length).All(i => logits[i].Count == 6 || sessions[i].Timeline.InFlight);
            if (waiting && !flash.WaitForOne() && !conductor.Lingers) Assert.Fail("layers wait for reads that nobody sent");
        }
        Assert.True(mostParked >= 2, $"{mostParked} layers waited at the same time");
        for (int i = 0; i < prompts.Length; i++) ExactnessTests.AssertSame(expected[i], [.. logits[i]], $"session {i}");
    }

    [Fact]
    public void A_neuron_is_never_read_twice_at_the_same_time_while_demand_overtakes_reads_ahead()
    {
        // In this model the prediction is perfect, and the device so slow that the step comes to wait for what was asked for ahead.
        var config = TinyPackage.Llama(layers: 6, hidden: 32, ffn: 1024);
        using var tiny = TinyPackage.Create(config, WeightFormat.F32, residual: 0);
        var flash = new VirtualFlash(new VirtualClock(), bytesPerNano: 1);
        var twin = new ReaderTwin(flash);
        using var conductor = new Conductor(new() { Threads = 1 }, null, twin, start: false);
        using var engine = new LocalEngine(tiny.Package, conductor, new() { Window = 0.25 }, null);
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        var sessions = Enumerable.Range(0, 2).Select(_ => engine.OpenSession()).ToArray();
        var random = new Random(4);
        int steps = 0;
        while (steps < 60)
        {
            foreach (var session in sessions)
            {
                if (session.Timeline.InFlight) continue;
                if (session.Poll(out _) == true) steps++;
                session.Timeline.Append([random.Next(config.VocabSize)]);
                session.Submit(Sampling.Greedy, SlotFlags.Sample, 0, 1);
            }
            if (!conductor.Pump()) Assert.True(flash.WaitForOne() || conductor.Lingers || sessions.Any(s => !s.Timeline.InFlight), "neither the conductor nor the device has anything to do");
        }
        while (flash.WaitForOne() || conductor.Pump()) { }
        Assert.Empty(twin.Overlaps);
        Assert.True(twin.DemandUnits > 0);
        Assert.True(twin.PrefetchUnits > 0);
        Assert.True(twin.Promotions > 0, "no step waited for a read ahead");
    }

    [Fact]
    public void A_refused_read_ahead_does_not_hold_back_demand_behind_it()
    {
        using var bench = new Bench(prefetches: 0);
        bench.Store.Prefetch(5);
        bench.Store.Flush();
        bench.Store.Acquire(200, out _);
        bench.Store.Flush();
        Assert.Equal([(200, ReadClass.Demand)], bench.Reader.Sent);
    }

    [Fact]
    public void A_unit_that_is_needed_before_its_read_ahead_was_sent_is_sent_as_demand_and_once()
    {
        using var bench = new Bench(prefetches: 0);
        foreach (int unit in new[] { 5, 100, 250 })
        {
            bench.Store.Prefetch(unit);
            bench.Store.Flush();
        }
        bench.Store.Acquire(100, out bool ready);
        bench.Store.Flush();
        Assert.False(ready);
        Assert.Equal([(100, ReadClass.Demand)], bench.Reader.Sent);
        bench.Reader.Prefetches = 9;
        bench.Store.Flush();
        Assert.Equal([(100, ReadClass.Demand), (5, ReadClass.Prefetch), (250, ReadClass.Prefetch)], bench.Reader.Sent);
        Assert.Equal(3, bench.Store.Outstanding);
    }

    [Fact]
    public void What_a_prompt_needs_goes_as_a_sweep_until_somebodys_next_token_needs_it()
    {
        using var bench = new Bench(prefetches: 0);
        bench.Store.Acquire(5, out _, urgent: false);
        bench.Store.Flush();
        bench.Store.Acquire(100, out _, urgent: false);
        Assert.Equal([(5, ReadClass.Sweep)], bench.Reader.Sent);
        bench.Reader.Promotable = 1;
        bench.Store.Acquire(5, out _);
        Assert.Equal(0, bench.Reader.Promotable);
        bench.Store.Acquire(100, out _);
        bench.Store.Flush();
        Assert.Equal([(5, ReadClass.Sweep), (100, ReadClass.Demand)], bench.Reader.Sent);
    }

    [Theory, InlineData(0), InlineData(1), InlineData(9)]
    public void Guesses_that_are_refuted_are_taken_back_sent_or_not_and_leave_their_slots_free(int sent)
    {
        using var bench = new Bench(prefetches: sent);
        foreach (int unit in new[] { 5, 100, 250 }) Assert.True(bench.Store.Prefetch(unit));
        bench.Store.Flush();
        bool[] needed = new bool[bench.Store.Region.Count];
        needed[100] = needed[7] = true;
        bench.Store.WithdrawGuesses(needed);
        Assert.Equal((-1, -1), (bench.Store.Window.Find(5), bench.Store.Window.Find(250)));
        Assert.Equal((1, 2L, 0L), (bench.Store.Outstanding, bench.Store.PrefetchWithdrawn, bench.Store.PrefetchRead));
        bench.Reader.Promotable = sent > 1 ? 1 : 0;
        foreach (int unit in new[] { 7, 100 }) Assert.True(bench.Store.Acquire(unit, out _) >= 0);
        bench.Store.Flush();
        Assert.Equal([7, 100], bench.Reader.Sent.Select(static s => s.Item1).Order());
        Assert.Equal(14, bench.Store.Window.Available);
    }

    [Fact]
    public void What_a_refuted_guess_leaves_room_for_is_another_layers_read_at_once()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.F32);
        var device = new OnePlace();
        using var conductor = new Conductor(new() { Threads = 1 }, null, device, start: false);
        using var engine = new LocalEngine(tiny.Package, conductor, new() { Window = 1, Prefetch = false }, null);
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        var session = engine.OpenSession();
        void Submit(int token)
        {
            session.Timeline.Append([token]);
            session.Submit(Sampling.Greedy, SlotFlags.Sample, 0, 1);
        }
        foreach (int token in new[] { 3, 5, 3, 5 })
        {
            Submit(token);
            while (session.Poll(out _) == null) conductor.Pump();
        }
        var (first, second) = (engine.Layers[0], engine.Layers[1]);
        // All that such tokens need is held by now; these were never needed.
        int refuted = Enumerable.Range(0, first.Bundles!.Region.Count).First(u => first.Bundles.Window.Find(u) < 0), other = Enumerable.Range(0, second.Bundles!.Region.Count).First(u => second.Bundles.Window.Find(u) < 0);
        conductor.Prefetch(first, [refuted]);
        conductor.Prefetch(second, [other]);
        first.RecordPrediction([refuted]);
        while (conductor.Pump()) { }
        Assert.Equal((first.Bundles.Region, refuted), (device.Place!.Region, device.Place.Units[0]));
        Submit(3);
        long waves = first.Stats.Waves;
        while (first.Stats.Waves == waves) conductor.Pump();
        int? sent = device.Place?.Units[0];
        // A read that was never sent would keep its layer from closing, and the failure from being told.
        second.FlushReads();
        device.Complete();
        while (session.Poll(out _) == null) conductor.Pump();
        Assert.Equal((-1, other), (first.Bundles.Window.Find(refuted), sent));
        Assert.Equal((0, 1L), (first.Bundles.Outstanding, second.Bundles.PrefetchRead));
    }

    [Fact]
    public void A_refuted_guess_whose_read_has_begun_comes_and_is_kept_like_any_other()
    {
        using var bench = new Bench(prefetches: 1) { Reader = { Began = true } };
        bench.Store.Prefetch(5);
        bench.Store.Flush();
        bench.Store.WithdrawGuesses(new bool[bench.Store.Region.Count]);
        Assert.Equal((1, 0L), (bench.Store.Outstanding, bench.Store.PrefetchWithdrawn));
        bench.Complete(ReadFault.None);
        Assert.Equal((0, 1L), (bench.Store.Outstanding, bench.Store.PrefetchRead));
        bench.Store.Acquire(5, out bool ready);
        Assert.True(ready);
    }

    [Fact]
    public void A_read_of_several_guesses_stays_as_long_as_one_of_them_is_needed_or_in_use()
    {
        using var bench = new Bench(prefetches: 9);
        foreach (int unit in new[] { 5, 6, 7 }) bench.Store.Prefetch(unit);
        bench.Store.Flush();
        Assert.Single(bench.Reader.Requests);
        bool[] needed = new bool[bench.Store.Region.Count];
        needed[6] = true;
        bench.Store.WithdrawGuesses(needed);
        bench.Reader.Promotable = 1;
        bench.Store.Acquire(7, out _);
        needed[6] = false;
        bench.Store.WithdrawGuesses(needed);
        Assert.Equal((1, 0L), (bench.Store.Outstanding, bench.Store.PrefetchWithdrawn));
    }

    [Fact]
    public void A_unit_that_is_needed_while_its_read_ahead_is_being_put_together_is_sent_as_demand()
    {
        using var bench = new Bench(prefetches: 0);
        bench.Store.Prefetch(5);
        bench.Store.Acquire(5, out _);
        bench.Store.Flush();
        Assert.Equal([(5, ReadClass.Demand)], bench.Reader.Sent);
    }

    [Theory, InlineData(false, ReadFault.None, 15), InlineData(true, ReadFault.None, 16), InlineData(true, ReadFault.Io, 16)]
    public void A_resident_unit_stays_once_a_step_has_used_it_and_holds_no_slot_where_the_step_broke_off(bool brokenOff, ReadFault fault, int available)
    {
        using var bench = new Bench(prefetches: 0, resident: 8);
        int slot = bench.Store.Acquire(5, out _);
        bench.Store.Flush();
        if (brokenOff) bench.Store.Release(slot);
        bench.Complete(fault);
        if (!brokenOff) bench.Store.Release(slot);
        Assert.Equal(available, bench.Store.Window.Available);
    }

    [Fact]
    public void No_more_reads_are_under_way_than_a_budget_counts_and_one_that_ends_makes_room()
    {
        // Sixteen units of 1 KiB apart: none shares a read with another.
        using var bench = new Bench(prefetches: int.MaxValue, config: TinyPackage.Llama(layers: 1, hidden: 64, ffn: 16 * 520), slots: 520);
        for (int i = 0; i < UnitStore.MostRequests; i++) Assert.True(bench.Store.Acquire(16 * i, out _) >= 0);
        Assert.Equal(-1, bench.Store.Acquire(16 * UnitStore.MostRequests, out _));
        Assert.False(bench.Store.Prefetch(16 * UnitStore.MostRequests));
        bench.Store.Flush();
        Assert.Equal(UnitStore.MostRequests, bench.Store.Outstanding);
        var first = bench.Reader.Requests[0];
        bench.Reader.Requests.RemoveAt(0);
        bench.Store.Settle(first, null);
        Assert.True(bench.Store.Acquire(16 * UnitStore.MostRequests, out _) >= 0);
    }

    /// <summary>Reads of whole experts do not go by pinned memory, so a window of gigabytes is not pinned.</summary>
    [Theory, InlineData(false, 1), InlineData(true, 0)]
    public void A_window_is_lent_to_the_reader_unless_its_units_are_long(bool experts, int lent)
    {
        ModelConfig config = TinyPackage.Llama() with { Experts = experts ? new ExpertConfig { Count = 6, Active = 2, Size = 300, Normalised = true } : null };
        var bench = new Bench(prefetches: 1, config: config, slots: 4);
        Assert.Equal(experts, bench.Store.Region.IsLong);
        Assert.Equal(lent, bench.Reader.Lent);
        bench.Dispose();
        Assert.Equal(0, bench.Reader.Lent);
    }

    /// <summary>A store over a reader that takes every demand read and a limited number of reads ahead, and completes none before the end.</summary>
    private sealed class Bench : IDisposable
    {
        private readonly TinyPackage _tiny;
        private readonly PackageFile _slice;

        public Bench(int prefetches, int resident = 0, ModelConfig? config = null, int slots = 16)
        {
            _tiny = TinyPackage.Create(config ?? TinyPackage.Llama(), WeightFormat.F32);
            Reader = new Narrow { Prefetches = prefetches };
            _slice = _tiny.Package.OpenSlice(0);
            Store = new UnitStore(_slice.BundleUnits(whole: false), slots, Reader, new MemoryLedger(), "store", (_, _) => { }) { Resident = resident };
        }

        public Narrow Reader { get; }
        public UnitStore Store { get; }

        /// <summary>The one read that was sent ends like this.</summary>
        public void Complete(ReadFault fault)
        {
            var request = Assert.Single(Reader.Requests);
            Reader.Requests.Clear();
            Array.Fill(request.Faults, fault, 0, request.Count);
            Store.Settle(request, null);
        }

        public void Dispose()
        {
            Reader.Prefetches = int.MaxValue;
            Store.Flush();
            foreach (var request in Reader.Requests) Store.Settle(request, null);
            Store.Dispose();
            _slice.Dispose();
            _tiny.Dispose();
        }
    }

    /// <summary>Reads demand at once; has a place for one read ahead, which it does not begin.</summary>
    private sealed class OnePlace : IFlashReader
    {
        public ReadRequest? Place { get; private set; }
        public ReaderStats Stats => default;

        public bool TrySubmit(ReadRequest request)
        {
            if (request.Class == ReadClass.Prefetch)
            {
                if (Place != null) return false;
                Place = request;
                return true;
            }
            VirtualFlash.Read(request);
            request.Completion.Completed(request);
            return true;
        }

        public void Promote(ReadRequest request)
        {
            if (request == Place) Complete();
        }

        public bool TryTakeBack(ReadRequest request)
        {
            if (request != Place) return false;
            Place = null;
            return true;
        }

        public void Complete()
        {
            var request = Place!;
            Place = null;
            VirtualFlash.Read(request);
            request.Completion.Completed(request);
        }
    }

    private sealed unsafe class Narrow : IFlashReader
    {
        public int Prefetches { get; set; }
        /// <summary>Windows that are lent.</summary>
        public int Lent { get; private set; }
        public List<ReadRequest> Requests { get; } = [];
        public (int, ReadClass)[] Sent => [.. Requests.SelectMany(r => r.Units.Take(r.Count).Select(u => (u, r.Class)))];
        public ReaderStats Stats => default;

        public bool TrySubmit(ReadRequest request)
        {
            if (request.Class == ReadClass.Prefetch && --Prefetches < 0) return false;
            Requests.Add(request);
            return true;
        }

        public void Lend(byte* memory, long bytes) => Lent++;

        public void Withdraw(byte* memory) => Lent--;

        /// <summary>Of those that were sent, so many will be promoted.</summary>
        public int Promotable { get; set; }

        /// <summary>What is sent is in the device at once.</summary>
        public bool Began { get; set; }

        public bool TryTakeBack(ReadRequest request) => !Began && request.Class == ReadClass.Prefetch && Requests.Remove(request);

        public void Promote(ReadRequest request) => Assert.True(--Promotable >= 0, "nothing that was sent needs to be promoted");
    }
}
