namespace FlashOrleans.Flash.Tests;

public sealed class NativeBufferTests
{
    [Theory, InlineData(1), InlineData(4096), InlineData(NativeBuffer.LeastMapped - 1), InlineData(NativeBuffer.LeastMapped), InlineData(NativeBuffer.LeastMapped + 1), InlineData((4 << 20) + 3)]
    public unsafe void Memory_is_zero_aligned_counted_by_name_and_given_back(int bytes)
    {
        MemoryLedger ledger = new();
        using (NativeBuffer buffer = new(bytes, ledger, "some model/3"))
        {
            Assert.Equal(bytes, buffer.Length);
            Assert.Equal(0, (nint)buffer.Pointer % 4096);
            Assert.Equal(-1, buffer.Span.IndexOfAnyExcept((byte)0));
            buffer.Span.Fill(7);
            Assert.Equal(bytes, ledger.Held("some model/3"));
            Assert.True(NativeBuffer.Footprint(bytes) >= bytes);
        }
        Assert.Equal(0, ledger.Total);
    }

    [Fact]
    public void Pages_are_there_from_the_start()
    {
        if (!OperatingSystem.IsLinux()) Assert.Skip("reads /proc");
        const int Bytes = 64 << 20;
        using NativeBuffer buffer = new(Bytes, new MemoryLedger(), "early");
        Assert.InRange(Resident(), Bytes, long.MaxValue);

        static long Resident() => long.Parse(File.ReadAllText("/proc/self/statm").Split(' ')[1], System.Globalization.CultureInfo.InvariantCulture) * Environment.SystemPageSize;
    }

    [Theory, InlineData(2 << 20), InlineData((6 << 20) + 4097)]
    public unsafe void From_a_large_page_on_memory_begins_with_one(int bytes)
    {
        if (!OperatingSystem.IsLinux()) Assert.Skip("the heap's own alignment elsewhere");
        using NativeBuffer first = new(bytes, new MemoryLedger(), "first"), second = new(bytes, new MemoryLedger(), "second");
        Assert.All(new[] { (nint)first.Pointer, (nint)second.Pointer }, at => Assert.Equal(0, at % (2 << 20)));
        first.Span.Fill(1);
        second.Span.Fill(2);
        Assert.Equal(-1, first.Span.IndexOfAnyExcept((byte)1));
    }

    [Fact]
    public void Memory_that_cannot_be_had_is_an_error_in_words_and_counts_nothing()
    {
        if (!OperatingSystem.IsLinux()) Assert.Skip("the heap's own exception elsewhere");
        MemoryLedger ledger = new();
        var error = Assert.Throws<FlashException>(() => new NativeBuffer(1L << 50, ledger, "too much"));
        Assert.StartsWith("too much: the system has no ", error.Message, StringComparison.Ordinal);
        Assert.Equal(0, ledger.Total);
    }
}
