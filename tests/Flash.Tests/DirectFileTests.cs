namespace FlashOrleans.Flash.Tests;

public sealed unsafe class DirectFileTests
{
    private readonly MemoryLedger _ledger = new();

    [Fact]
    public void A_direct_read_returns_the_bytes_of_the_file()
    {
        byte[] content = TempFile.Pattern(64 * 1024);
        using TempFile temp = new(content);
        using DirectFile file = DirectFile.Open(temp.Path);
        SkipUnlessDirect(file);
        Assert.Equal($"direct ({file.Alignment})", file.Access);
        Assert.True(file.Alignment is 512 or 1024 or 2048 or 4096);
        Assert.Equal(content.Length, file.Length);
        using NativeBuffer memory = new(8192, _ledger, "read");
        Assert.Equal(8192, Read(file, 16384, memory.Pointer, 8192));
        Assert.True(memory.Span.SequenceEqual(content.AsSpan(16384, 8192)));
    }

    [Fact]
    public void A_direct_read_that_is_not_aligned_is_refused_by_the_kernel()
    {
        // Otherwise the file was not opened past the page cache at all.
        using TempFile temp = new(TempFile.Pattern(64 * 1024));
        using DirectFile file = DirectFile.Open(temp.Path);
        SkipUnlessDirect(file);
        using NativeBuffer memory = new(8192, _ledger, "read");
        Assert.Equal(-Libc.EINVAL, Read(file, 7, memory.Pointer, 4096));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Scattered_parts_are_filled_in_order(bool direct)
    {
        byte[] content = TempFile.Pattern(64 * 1024);
        using TempFile temp = new(content);
        using DirectFile file = DirectFile.Open(temp.Path, direct);
        using NativeBuffer memory = new(3 * 4096, _ledger, "read");
        IoVector[] parts =
        [
            new() { Base = memory.Pointer + 8192, Length = 4096 },
            new() { Base = memory.Pointer, Length = 4096 },
            new() { Base = memory.Pointer + 4096, Length = 4096 },
        ];
        Assert.Equal(3 * 4096, file.Read(4096, parts));
        Assert.True(memory.Span[8192..].SequenceEqual(content.AsSpan(4096, 4096)));
        Assert.True(memory.Span[..8192].SequenceEqual(content.AsSpan(8192, 8192)));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void The_end_of_a_file_that_is_no_multiple_of_the_alignment_is_a_short_read(bool direct)
    {
        byte[] content = TempFile.Pattern(10_000);
        using TempFile temp = new(content);
        using DirectFile file = DirectFile.Open(temp.Path, direct);
        using NativeBuffer memory = new(4096, _ledger, "read");
        Assert.Equal(10_000, file.Length);
        Assert.Equal(10_000 - 8192, Read(file, 8192, memory.Pointer, 4096));
        Assert.True(memory.Span[..(10_000 - 8192)].SequenceEqual(content.AsSpan(8192)));
        Assert.Equal(0, Read(file, 12_288, memory.Pointer, 4096));
    }

    [Fact]
    public void A_buffered_file_reads_at_any_byte_and_says_that_it_is_buffered()
    {
        byte[] content = TempFile.Pattern(10_000);
        using TempFile temp = new(content);
        using DirectFile file = DirectFile.Open(temp.Path, direct: false);
        using NativeBuffer memory = new(4096, _ledger, "read");
        Assert.Equal("buffered", file.Access);
        Assert.Equal(1, file.Alignment);
        Assert.Equal(33, Read(file, 7, memory.Pointer + 3, 33));
        Assert.True(memory.Span.Slice(3, 33).SequenceEqual(content.AsSpan(7, 33)));
    }

    [Fact]
    public void A_file_in_memory_is_read_buffered_also_where_the_kernel_grants_direct_reads()
    {
        string folder = "/dev/shm"; // tmpfs: older kernels refuse the flag, newer ones take it
        Assert.SkipUnless(Directory.Exists(folder), "no /dev/shm on this system");
        string path = Path.Combine(folder, $"flash-{Guid.NewGuid():N}.bin");
        byte[] content = TempFile.Pattern(8192);
        File.WriteAllBytes(path, content);
        try
        {
            using DirectFile file = DirectFile.Open(path);
            Assert.Equal("buffered", file.Access);
            using NativeBuffer memory = new(4096, _ledger, "read");
            Assert.Equal(4096, Read(file, 4096, memory.Pointer, 4096));
            Assert.True(memory.Span.SequenceEqual(content.AsSpan(4096)));
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Where_direct_reads_are_refused_the_file_is_read_buffered()
    {
        // procfs refuses O_DIRECT on every kernel.
        const string path = "/proc/version";
        Assert.SkipUnless(Libc.Supported && File.Exists(path), "no /proc on this system");
        byte[] content = File.ReadAllBytes(path);
        using DirectFile file = DirectFile.Open(path);
        Assert.Equal("buffered", file.Access);
        Assert.Equal(1, file.Alignment);
        using NativeBuffer memory = new(4096, _ledger, "read");
        Assert.Equal(content.Length, Read(file, 0, memory.Pointer, 4096));
        Assert.True(memory.Span[..content.Length].SequenceEqual(content));
        Assert.Equal(content.Length - 3, Read(file, 3, memory.Pointer, 4096));
    }

    [Fact]
    public void An_empty_file_opens_and_ends_at_once()
    {
        using TempFile temp = new([]);
        using DirectFile file = DirectFile.Open(temp.Path);
        using NativeBuffer memory = new(4096, _ledger, "read");
        Assert.Equal(0, file.Length);
        Assert.Equal(0, Read(file, 0, memory.Pointer, 4096));
    }

    [Fact]
    public void A_missing_file_and_a_folder_are_one_error_that_names_the_path()
    {
        string missing = Path.Combine(Path.GetTempPath(), $"flash-{Guid.NewGuid():N}");
        Assert.Contains(missing, Assert.Throws<FlashException>(() => DirectFile.Open(missing)).Message, StringComparison.Ordinal);
        string folder = Path.GetTempPath();
        Assert.Contains(folder, Assert.Throws<FlashException>(() => DirectFile.Open(folder)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Reading_does_not_allocate(bool direct)
    {
        using TempFile temp = new(TempFile.Pattern(64 * 1024));
        using DirectFile file = DirectFile.Open(temp.Path, direct);
        using NativeBuffer memory = new(4096, _ledger, "read");
        Read(file, 0, memory.Pointer, 4096);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100; i++) Read(file, 4096, memory.Pointer, 4096);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Neither_opening_nor_reading_leaves_pages_in_the_cache_of_the_kernel(bool direct)
    {
        Assert.SkipUnless(Libc.Supported, "mincore is asked on Linux only");
        using TempFile temp = new(TempFile.Pattern(1 << 20));
        string format = new DriveInfo(temp.Path).DriveFormat;
        Assert.SkipWhen(format is "tmpfs" or "overlay", $"{temp.Path} is on {format}, which keeps its pages");
        using (FileStream written = new(temp.Path, FileMode.Open)) written.Flush(flushToDisk: true); // dirty pages cannot be dropped
        using PageCache cache = new(temp.Path);
        Assert.True(cache.ResidentPages() > 0);
        using DirectFile file = DirectFile.Open(temp.Path, direct);
        // The page of the probe may stay until the first read, nothing else.
        Assert.InRange(cache.ResidentPages(), 0, 8);
        using NativeBuffer memory = new(65536, _ledger, "read");
        for (int offset = 0; offset < 1 << 20; offset += 65536) Assert.Equal(65536, Read(file, offset, memory.Pointer, 65536));
        Assert.InRange(cache.ResidentPages(), 0, 8);
    }

    private static void SkipUnlessDirect(DirectFile file) =>
        Assert.SkipUnless(file.Access != "buffered", $"{file.Name}: this filesystem refuses direct reads; set FLASH_TEST_DIR to a folder on a disk");

    private static long Read(FlashFile file, long offset, byte* memory, int bytes)
    {
        IoVector part = new() { Base = memory, Length = (nuint)bytes };
        return file.Read(offset, new ReadOnlySpan<IoVector>(in part));
    }
}
