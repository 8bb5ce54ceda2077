namespace FlashOrleans.Flash.Tests;

/// <summary>Reads through io_uring: the same bytes, faults and order of classes as the threads give.</summary>
public sealed class RingReaderTests
{
    private const int Units = 512, Stride = 1536;

    [Theory, InlineData(true), InlineData(false)]
    public void Hundreds_of_reads_of_both_classes_each_bring_their_own_units(bool ring)
    {
        using var file = new Files();
        using FlashReader reader = Open(ring, file);
        var random = new Random(3);
        for (int round = 0; round < 6; round++)
        {
            file.Bench.Forget();
            int[] shuffled = [.. Enumerable.Range(0, Units / 4)];
            random.Shuffle(shuffled);
            foreach (int at in shuffled)
                Assert.True(reader.TrySubmit(file.Bench.Request(at % 3 == 0 ? ReadClass.Prefetch : ReadClass.Demand, 4 * at, 4 * at + 1, 4 * at + 3)));
            foreach (ReadRequest request in file.Bench.Wait(shuffled.Length)) Assert.Null(request.Error);
            foreach (int at in shuffled) Assert.All([4 * at, 4 * at + 1, 4 * at + 3], file.Bench.AssertDelivered);
        }
        Assert.Equal(6L * Units / 4, reader.Stats.Reads);
        Assert.True(ring == reader.Stats.RingNanos > 0);
    }

    /// <summary>A submitter and a reader that is about to wait must not miss each other: with few reads under way the reader waits all the time.</summary>
    [Theory, InlineData(true), InlineData(false)]
    public void A_read_that_comes_while_the_reader_goes_to_sleep_is_not_forgotten(bool ring)
    {
        using var file = new Files();
        using FlashReader reader = Open(ring, file);
        var random = new Random(5);
        for (int i = 0; i < 20000; i++)
        {
            file.Bench.Forget();
            ReadRequest first = file.Bench.Request(ReadClass.Demand, 7 * i % Units), second = file.Bench.Request(i % 2 == 0 ? ReadClass.Demand : ReadClass.Prefetch, (7 * i + 1) % Units);
            Assert.True(reader.TrySubmit(first));
            Thread.SpinWait(random.Next(4000));
            Assert.True(reader.TrySubmit(second));
            file.Bench.Wait(2);
        }
    }

    [Theory, InlineData(true), InlineData(false)]
    public void A_file_that_was_cut_short_faults_the_units_behind_its_end_and_no_others(bool ring)
    {
        using var file = new Files(Units / 2 * Stride + 512);
        using FlashReader reader = Open(ring, file);
        reader.TrySubmit(file.Bench.Request(ReadClass.Demand, Units / 2 - 1, Units / 2, Units / 2 + 1));
        ReadRequest request = Assert.Single(file.Bench.Wait(1));
        Assert.Equal([ReadFault.None, ReadFault.Short, ReadFault.Short], request.Faults[..3]);
        Assert.Contains("truncated", request.Error, StringComparison.Ordinal);
        file.Bench.AssertDelivered(Units / 2 - 1);
    }

    [Theory, InlineData(true), InlineData(false)]
    public void A_damaged_unit_is_read_twice_and_faulted_alone(bool ring)
    {
        using var file = new Files(damage: 5 * Stride + 700);
        using FlashReader reader = Open(ring, file);
        reader.TrySubmit(file.Bench.Request(ReadClass.Demand, 4, 5, 6));
        ReadRequest request = Assert.Single(file.Bench.Wait(1));
        Assert.Equal([ReadFault.None, ReadFault.Checksum, ReadFault.None], request.Faults[..3]);
        Assert.Equal((1L, 1L), (reader.Stats.Retries, reader.Stats.Faults));
    }

    [Theory, InlineData(true), InlineData(false)]
    public void A_file_that_is_closed_meanwhile_ends_its_reads_and_not_the_reader(bool ring)
    {
        using var file = new Files();
        using var other = new Files();
        using FlashReader reader = Open(ring, file);
        file.File.Dispose();
        reader.TrySubmit(file.Bench.Request(ReadClass.Demand, 1));
        Assert.Equal(ReadFault.Io, Assert.Single(file.Bench.Wait(1)).Faults[0]);
        reader.TrySubmit(other.Bench.Request(ReadClass.Demand, 1));
        Assert.Null(Assert.Single(other.Bench.Wait(1)).Error);
    }

    [Theory, InlineData(true), InlineData(false)]
    public void Closing_the_reader_ends_every_read_as_done_or_cancelled(bool ring)
    {
        for (int round = 0; round < 20; round++)
        {
            using var file = new Files();
            int sent = 0;
            using (FlashReader reader = Open(ring, file))
            {
                while (sent < 200 && reader.TrySubmit(file.Bench.Request(sent % 2 == 0 ? ReadClass.Demand : ReadClass.Prefetch, 2 * sent))) sent++;
            }
            ReadRequest[] all = file.Bench.Wait(sent);
            Assert.Equal(sent, all.Length);
            Assert.All(all, r => Assert.True(r.Faults[0] is ReadFault.None or ReadFault.Cancelled, r.Error));
            Assert.All(all, r => Assert.False(r.InFlight));
        }
    }

    [Fact]
    public void Reads_into_lent_memory_bring_the_same_bytes_and_what_is_mapped_in_its_place_later_is_not_taken_for_it()
    {
        using var first = new Files();
        using FlashReader reader = Open(true, first);
        for (int round = 0; round < 8; round++)
        {
            // The same size each time: the system gives the same addresses again.
            using var file = new Files();
            if (round % 2 == 0) file.Bench.Lend(reader);
            // One slot, neighbours in one part, and across a gap.
            for (int at = 0; at < Units - 8; at += 8)
                Assert.True(reader.TrySubmit(file.Bench.Request(ReadClass.Demand, at % 3 == 0 ? [at] : at % 3 == 1 ? [at, at + 1] : [at, at + 2])));
            Assert.All(file.Bench.Wait(Units / 8 - 1), static r => Assert.Null(r.Error));
            for (int at = 0; at < Units - 8; at += 8) file.Bench.AssertDelivered(at);
            // Where the system lets nothing be pinned, reads are what they were.
            Assert.True(reader.PinnedBytes == 0 || reader.PinnedBytes == RingReader.GatherRoom + (round % 2 == 0 ? file.Bench.SlotsBytes : 0));
            if (round % 2 == 0) file.Bench.Withdraw(reader);
        }
    }

    /// <summary>The kernel would cut it into small pages (docs/adr/0005).</summary>
    [Fact]
    public unsafe void A_long_read_does_not_go_by_what_is_pinned()
    {
        using var ring = IoRing.TryOpen(4);
        if (ring == null) Assert.Skip("no io_uring here");
        using NativeBuffer memory = new(2 * LentMemory.MostBytes, new MemoryLedger(), "lent");
        LentMemory lent = new();
        lent.Lend(memory.Pointer, memory.Length);
        lent.Apply(ring);
        if (lent.Bytes == 0) Assert.Skip("nothing may be pinned here");
        Assert.True(lent.Find(new IoVector { Base = memory.Pointer, Length = LentMemory.MostBytes - 1 }) >= 0);
        Assert.Equal(-1, lent.Find(new IoVector { Base = memory.Pointer, Length = LentMemory.MostBytes }));
    }

    [Fact]
    public void Lent_memory_that_cannot_be_pinned_is_read_into_all_the_same()
    {
        using var file = new Files();
        using FlashReader reader = Open(true, file);
        // Nobody's memory: the kernel refuses it.
        unsafe { reader.Lend((byte*)4096, 1 << 20); }
        reader.TrySubmit(file.Bench.Request(ReadClass.Demand, 3));
        Assert.Null(Assert.Single(file.Bench.Wait(1)).Error);
        file.Bench.AssertDelivered(3);
        Assert.True(reader.PinnedBytes is 0 or RingReader.GatherRoom);
        unsafe { reader.Withdraw((byte*)4096); }
    }

    [Fact]
    public void A_file_that_is_closed_is_let_go_of_and_its_place_serves_the_next()
    {
        using var first = new Files();
        using FlashReader reader = Open(true, first);
        for (int round = 0; round < 600; round++)
        {
            using var file = new Files(units: 4);
            reader.TrySubmit(file.Bench.Request(ReadClass.Demand, 1, 2));
            Assert.Null(Assert.Single(file.Bench.Wait(1)).Error);
            // Its own, and perhaps the one before, which was closed meanwhile.
            Assert.InRange(reader.HeldFiles, 1, 2);
        }
        reader.TrySubmit(first.Bench.Request(ReadClass.Demand, 1));
        first.Bench.Wait(1);
        Assert.Equal(1, reader.HeldFiles);
    }

    /// <summary>Twenty guesses of a megabyte each, as experts are; a step asks for a unit when the first has come.</summary>
    [Fact]
    public void Demand_does_not_wait_behind_all_long_reads_that_were_guessed()
    {
        using var file = new Files(units: 24, stride: 1 << 20);
        using FlashReader reader = Open(true, file);
        var asks = new AsksAtFirst(file.Bench, reader);
        for (int unit = 0; unit < 20; unit++) Assert.True(reader.TrySubmit(asks.Request(ReadClass.Prefetch, unit)));
        ReadRequest[] order = file.Bench.Wait(21);
        Assert.InRange(Array.FindIndex(order, static r => r.Class == ReadClass.Demand), 1, 12);
        Assert.All(Enumerable.Range(0, 21), file.Bench.AssertDelivered);
    }

    [Fact]
    public void What_is_taken_back_from_the_ring_is_neither_read_nor_told_and_the_rest_is()
    {
        using var file = new Files();
        using FlashReader reader = Open(true, file);
        using var stop = new Stops(file.Bench);
        Assert.True(reader.TrySubmit(stop.Request(20)));
        stop.Entered();
        // The ring's thread stands still: nothing of this begins.
        ReadRequest[] guesses = [.. Enumerable.Range(0, 8).Select(unit => file.Bench.Request(ReadClass.Prefetch, unit))];
        foreach (ReadRequest guess in guesses) Assert.True(reader.TrySubmit(guess));
        foreach (ReadRequest guess in guesses[..5]) Assert.True(reader.TryTakeBack(guess));
        Assert.False(reader.TryTakeBack(guesses[0]));
        stop.Release();
        Assert.Equal(guesses[5..].ToHashSet(), file.Bench.Wait(4).Where(static r => r.Class == ReadClass.Prefetch).ToHashSet());
        Assert.Equal(3, reader.Stats.PrefetchReads);
        Assert.All(guesses[..5], static guess => Assert.False(guess.InFlight));
    }

    /// <summary>Its completion keeps the thread that tells it until it is released.</summary>
    private sealed class Stops(ReaderBench bench) : IReadCompletion, IDisposable
    {
        private readonly ManualResetEventSlim _entered = new(), _go = new();

        public unsafe ReadRequest Request(int unit)
        {
            var request = new ReadRequest();
            request.Reset(bench.Region, ReadClass.Demand, this);
            Assert.True(request.TryAdd(unit, unit, bench.Memory(unit), ReadPlanner.GapLimit, 1 << 20));
            return request;
        }

        public void Entered() => Assert.True(_entered.Wait(TimeSpan.FromMinutes(1)));
        public void Release() => _go.Set();

        public void Completed(ReadRequest request)
        {
            _entered.Set();
            _go.Wait(TimeSpan.FromMinutes(1));
            bench.Completed(request);
        }

        public void Dispose()
        {
            _go.Set();
            _entered.Dispose();
            _go.Dispose();
        }
    }

    private sealed class AsksAtFirst(ReaderBench bench, FlashReader reader) : IReadCompletion
    {
        private int _told;

        public unsafe ReadRequest Request(ReadClass readClass, int unit)
        {
            var request = new ReadRequest();
            request.Reset(bench.Region, readClass, this);
            Assert.True(request.TryAdd(unit, unit, bench.Memory(unit), ReadPlanner.GapLimit, 1 << 20));
            return request;
        }

        public void Completed(ReadRequest request)
        {
            if (Interlocked.Increment(ref _told) == 1) reader.TrySubmit(Request(ReadClass.Demand, 20));
            bench.Completed(request);
        }
    }

    private static FlashReader Open(bool ring, Files file)
    {
        var reader = new FlashReader(4, ring: ring);
        bool works = reader.Method == "io_uring" && file.File.Direct != null;
        if (!ring || works) return reader;
        reader.Dispose();
        Assert.Skip($"io_uring or direct reads are refused here ({file.File.Access})");
        return reader;
    }

    private sealed class Files : IDisposable
    {
        private readonly TempFile _file;

        public Files(int? length = null, int damage = -1, int units = Units, int stride = Stride)
        {
            byte[] content = TempFile.Pattern(units * stride);
            byte[] stored = content[..(length ?? content.Length)];
            if (damage >= 0) stored[damage] ^= 1;
            _file = new TempFile(stored);
            File = DirectFile.Open(_file.Path);
            Bench = new ReaderBench(File, content, units, stride, 0, stride);
        }

        public DirectFile File { get; }
        public ReaderBench Bench { get; }

        public void Dispose()
        {
            Bench.Dispose();
            File.Dispose();
            _file.Dispose();
        }
    }
}
