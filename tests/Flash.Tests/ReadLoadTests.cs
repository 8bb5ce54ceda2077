namespace FlashOrleans.Flash.Tests;

public sealed class ReadLoadTests
{
    [Theory, InlineData(true), InlineData(false)]
    public void A_load_counts_the_reads_that_the_reader_did(bool ring)
    {
        using TempFile temp = new(TempFile.Pattern(1 << 20));
        using DirectFile file = DirectFile.Open(temp.Path);
        using ReadLoad load = new([file], 4608);
        long reads;
        using FlashReader reader = new(ring: ring);
        // No time at all: those that are begun end.
        reads = load.Run(reader, 0).Reads;
        Assert.Equal(ReadLoad.Depth, reads);
        reader.Dispose();
        Assert.Equal(reads, reader.Stats.Reads);
        Assert.Equal(reads, reader.Stats.Units);
        Assert.True(reader.Stats.BusyNanos > 0);
    }

    [Fact]
    public void A_file_that_is_shorter_than_a_read_is_left_out()
    {
        using TempFile small = new(TempFile.Pattern(4096)), large = new(TempFile.Pattern(1 << 16));
        using DirectFile one = DirectFile.Open(small.Path), other = DirectFile.Open(large.Path);
        using FlashReader reader = new();
        using ReadLoad none = new([one], 8192), some = new([one, other], 8192);
        Assert.False(none.Possible);
        Assert.True(some.Possible);
        Assert.Equal(ReadLoad.Depth, some.Run(reader, 0).Reads);
    }
}
