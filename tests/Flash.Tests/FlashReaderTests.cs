namespace FlashOrleans.Flash.Tests;

public sealed unsafe class FlashReaderTests
{
    [Theory]
    // device alignment, stride, part offset, part bytes, region offset: aligned; parts of units (exact mode); 512 strides on a 4096 device;
    // units that are no sectors; units smaller than a sector; buffered.
    [InlineData(512, 1024, 0, 1024, 0)]
    [InlineData(512, 2048, 0, 1300, 512)]
    [InlineData(4096, 8192, 0, 8192, 4096)]
    [InlineData(4096, 7168, 0, 7168, 4096)]
    [InlineData(4096, 4608, 0, 3000, 512)]
    [InlineData(512, 2176, 0, 2176, 640)]
    [InlineData(512, 2176, 700, 900, 640)]
    [InlineData(512, 96, 0, 96, 32)]
    [InlineData(4096, 512, 0, 512, 0)]
    [InlineData(1, 777, 13, 700, 5)]
    public void Neighbours_arrive_by_one_read_each_in_its_slot(int alignment, int stride, int partOffset, int partBytes, int offset)
    {
        const int units = 40;
        byte[] content = TempFile.Pattern(offset + units * stride);
        using MemoryFile file = new(content, alignment);
        using ReaderBench bench = new(file, content, units, stride, partOffset, partBytes, offset);
        using FlashReader reader = new(threads: 1);
        int[] wanted = [1, 2, 3, 5, 8, 9, 39];
        ReadRequest request = new();
        request.Reset(bench.Region, ReadClass.Demand, bench);
        int reads = 0;
        foreach (int unit in wanted)
        {
            if (request.TryAdd(unit, unit, bench.Memory(unit), 2 * stride)) continue;
            Submit();
            Assert.True(request.TryAdd(unit, unit, bench.Memory(unit)));
        }
        Submit();
        Assert.Equal(reads, file.Reads);
        Assert.True(reads < wanted.Length);
        Assert.All(wanted, bench.AssertDelivered);

        void Submit()
        {
            Assert.True(reader.TrySubmit(request));
            bench.Wait(++reads);
            Assert.Null(request.Error);
            Assert.All(request.Faults[..request.Count], fault => Assert.Equal(ReadFault.None, fault));
            request = new ReadRequest();
            request.Reset(bench.Region, ReadClass.Demand, bench);
        }
    }

    [Fact]
    public void A_real_file_is_read_past_the_page_cache()
    {
        byte[] content = TempFile.Pattern(64 * 2560 + 300);
        using TempFile temp = new(content);
        using DirectFile file = DirectFile.Open(temp.Path);
        Assert.SkipUnless(file.Access != "buffered", $"{temp.Path}: this filesystem refuses direct reads; set FLASH_TEST_DIR to a folder on a disk");
        // The last unit ends with the file, which is no multiple of anything.
        using ReaderBench bench = new(file, content, 64, 2560, 0, 2560, 300);
        using FlashReader reader = new(threads: 4);
        int[][] reads = [[0, 1, 2], [7], [20, 22], [40, 41], [62, 63]];
        foreach (int[] units in reads) Assert.True(reader.TrySubmit(bench.Request(ReadClass.Demand, units)));
        foreach (ReadRequest request in bench.Wait(reads.Length)) Assert.Null(request.Error);
        foreach (int[] units in reads) Assert.All(units, bench.AssertDelivered);
    }

    [Fact]
    public void Short_reads_go_on_where_they_stopped()
    {
        var (bench, file) = ReaderBench.Simple();
        using FlashReader reader = new(threads: 1);
        file.Inject(new MemoryFault { Read = 0, ShortBytes = 1024 + 700 });
        file.Inject(new MemoryFault { Read = 1, ShortBytes = 512 });
        file.Inject(new MemoryFault { Read = 2, ShortBytes = 100 });
        ReadRequest request = bench.Request(ReadClass.Demand, 3, 4, 6);
        reader.TrySubmit(request);
        bench.Wait(1);
        Assert.Null(request.Error);
        Assert.All([3, 4, 6], bench.AssertDelivered);
        Assert.Equal(0, reader.Stats.Retries);
        Assert.True(file.Reads > 3);
        bench.Dispose();
    }

    [Fact]
    public void An_interrupted_read_is_repeated_at_once()
    {
        var (bench, file) = ReaderBench.Simple();
        using FlashReader reader = new(threads: 1);
        file.Inject(new MemoryFault { Errno = Libc.EINTR, Times = 3 });
        ReadRequest request = bench.Request(ReadClass.Demand, 3);
        reader.TrySubmit(request);
        bench.Wait(1);
        Assert.Null(request.Error);
        bench.AssertDelivered(3);
        Assert.Equal(4, file.Reads);
        Assert.Equal(0, reader.Stats.Retries);
        bench.Dispose();
    }

    [Fact]
    public void A_passing_io_error_is_healed_by_one_more_read()
    {
        var (bench, file) = ReaderBench.Simple();
        using FlashReader reader = new(threads: 1);
        file.Inject(new MemoryFault { Read = 0, Errno = Libc.EIO });
        ReadRequest request = bench.Request(ReadClass.Demand, 3, 4, 6);
        reader.TrySubmit(request);
        bench.Wait(1);
        Assert.Null(request.Error);
        Assert.All([3, 4, 6], bench.AssertDelivered);
        Assert.Equal(3, reader.Stats.Retries);
        Assert.Equal(0, reader.Stats.Faults);
        bench.Dispose();
    }

    [Fact]
    public void A_bad_sector_faults_its_unit_alone()
    {
        var (bench, file) = ReaderBench.Simple();
        using FlashReader reader = new(threads: 1);
        file.Inject(new MemoryFault { Offset = 4 * 1024 + 10, Errno = Libc.EIO, Times = MemoryFault.Always });
        ReadRequest request = bench.Request(ReadClass.Demand, 3, 4, 6);
        reader.TrySubmit(request);
        bench.Wait(1);
        Assert.Equal([ReadFault.None, ReadFault.Io, ReadFault.None], request.Faults[..3]);
        Assert.Contains("memory.slice at byte 4096: neurons unit 4", request.Error, StringComparison.Ordinal);
        Assert.Contains("errno 5", request.Error, StringComparison.Ordinal);
        Assert.All([3, 6], bench.AssertDelivered);
        Assert.Equal(1, reader.Stats.Faults);
        bench.Dispose();
    }

    [Fact]
    public void A_bad_sector_in_a_gap_faults_nobody()
    {
        var (bench, file) = ReaderBench.Simple();
        using FlashReader reader = new(threads: 1);
        file.Inject(new MemoryFault { Offset = 5 * 1024 + 10, Errno = Libc.EIO, Times = MemoryFault.Always });
        ReadRequest request = bench.Request(ReadClass.Demand, 3, 4, 6);
        reader.TrySubmit(request);
        bench.Wait(1);
        Assert.Null(request.Error);
        Assert.All([3, 4, 6], bench.AssertDelivered);
        bench.Dispose();
    }

    [Fact]
    public void A_bit_that_flips_once_is_healed_and_one_that_stays_is_a_checksum_fault()
    {
        var (bench, file) = ReaderBench.Simple();
        using FlashReader reader = new(threads: 1);
        file.Inject(new MemoryFault { Offset = 3 * 1024, FlipBit = 0 });
        ReadRequest healed = bench.Request(ReadClass.Demand, 3, 4);
        reader.TrySubmit(healed);
        bench.Wait(1);
        Assert.Null(healed.Error);
        Assert.All([3, 4], bench.AssertDelivered);
        Assert.Equal(1, reader.Stats.Retries);

        file.Inject(new MemoryFault { Offset = 9 * 1024 + 1023, FlipBit = 7, Times = MemoryFault.Always });
        ReadRequest damaged = bench.Request(ReadClass.Demand, 8, 9, 10);
        reader.TrySubmit(damaged);
        bench.Wait(2);
        Assert.Equal([ReadFault.None, ReadFault.Checksum, ReadFault.None], damaged.Faults[..3]);
        Assert.Contains("memory.slice at byte 9216: neurons unit 9: the checksum", damaged.Error, StringComparison.Ordinal);
        bench.Dispose();
    }

    [Fact]
    public void A_truncated_file_faults_the_units_behind_its_end()
    {
        byte[] content = TempFile.Pattern(10 * 1024 + 600);
        using MemoryFile file = new(content, 512);
        using ReaderBench bench = new(file, content, 16, 1024, 0, 1024);
        using FlashReader reader = new(threads: 1);
        ReadRequest request = bench.Request(ReadClass.Demand, 9, 10, 12);
        reader.TrySubmit(request);
        bench.Wait(1);
        Assert.Equal([ReadFault.None, ReadFault.Short, ReadFault.Short], request.Faults[..3]);
        Assert.Contains($"ends at byte {content.Length}", request.Error, StringComparison.Ordinal);
        bench.AssertDelivered(9);
        bench.Dispose();
    }

    [Fact]
    public void A_closed_file_faults_the_request_and_the_thread_lives_on()
    {
        var (bench, file) = ReaderBench.Simple();
        using FlashReader reader = new(threads: 1);
        file.Dispose();
        ReadRequest request = bench.Request(ReadClass.Demand, 3, 4);
        reader.TrySubmit(request);
        bench.Wait(1);
        Assert.Equal([ReadFault.Io, ReadFault.Io], request.Faults[..2]);
        Assert.NotNull(request.Error);

        var (other, _) = ReaderBench.Simple();
        reader.TrySubmit(other.Request(ReadClass.Demand, 3));
        Assert.Null(other.Wait(1)[0].Error);
        other.Dispose();
        bench.Dispose();
    }

    [Fact]
    public void A_completion_that_throws_does_not_end_the_thread()
    {
        var (bench, _) = ReaderBench.Simple();
        using FlashReader reader = new(threads: 1);
        ReadRequest bad = bench.Request(ReadClass.Demand, 1);
        bad.Completion = new Throwing();
        reader.TrySubmit(bad);
        reader.TrySubmit(bench.Request(ReadClass.Demand, 2));
        Assert.Null(bench.Wait(1)[0].Error);
        bench.Dispose();
    }

    private sealed class Throwing : IReadCompletion
    {
        public void Completed(ReadRequest request) => throw new InvalidOperationException("a bug");
    }
}
