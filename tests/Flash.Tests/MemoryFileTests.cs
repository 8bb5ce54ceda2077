namespace FlashOrleans.Flash.Tests;

public sealed unsafe class MemoryFileTests : IDisposable
{
    private readonly byte[] _content = TempFile.Pattern(10_000);
    private readonly NativeBuffer _memory = new(8192, new MemoryLedger(), "read");

    public void Dispose() => _memory.Dispose();

    [Fact]
    public void It_answers_like_a_direct_file()
    {
        using MemoryFile file = new(_content, 512);
        Assert.Equal(1024, Read(file, 512, 1024));
        Assert.True(_memory.Span[..1024].SequenceEqual(_content.AsSpan(512, 1024)));
        Assert.Equal(10_000 - 9728, Read(file, 9728, 512));
        Assert.Equal(0, Read(file, 10_240, 512));
        Assert.Equal(-Libc.EINVAL, Read(file, 100, 512));
        Assert.Equal(-Libc.EINVAL, Read(file, 512, 100));
        Assert.Equal(5, file.Reads);
        Assert.Equal(1024 + 272, file.Bytes);
    }

    [Fact]
    public void A_fault_hits_the_read_it_names_and_only_as_often_as_it_says()
    {
        using MemoryFile file = new(_content, 512);
        file.Inject(new MemoryFault { Read = 1, Errno = Libc.EINTR });
        file.Inject(new MemoryFault { Offset = 1100, Errno = Libc.EIO, Times = 2 });
        Assert.Equal(512, Read(file, 0, 512));
        Assert.Equal(-Libc.EINTR, Read(file, 0, 512));
        Assert.Equal(-Libc.EIO, Read(file, 1024, 512));
        Assert.Equal(512, Read(file, 1536, 512));
        Assert.Equal(-Libc.EIO, Read(file, 0, 2048));
        Assert.Equal(512, Read(file, 1024, 512));
    }

    [Fact]
    public void Short_reads_and_flipped_bits_arrive_as_told()
    {
        using MemoryFile file = new(_content, 512);
        file.Inject(new MemoryFault { Read = 0, ShortBytes = 700 });
        file.Inject(new MemoryFault { Offset = 3000, FlipBit = 5 });
        Assert.Equal(700, Read(file, 0, 1024));
        Assert.Equal(1024, Read(file, 2560, 1024));
        Assert.Equal(_content[3000] ^ 32, _memory.Span[3000 - 2560]);
        Assert.Equal(1024, Read(file, 2560, 1024));
        Assert.True(_memory.Span[..1024].SequenceEqual(_content.AsSpan(2560, 1024)));
    }

    [Fact]
    public void The_gate_runs_before_the_read_and_sees_what_is_asked()
    {
        using MemoryFile file = new(_content, 512);
        (long, long, long) seen = default;
        file.Gate = (index, offset, bytes) => seen = (index, offset, bytes);
        Read(file, 1024, 512);
        Assert.Equal((0, 1024, 512), seen);
    }

    private long Read(MemoryFile file, long offset, int bytes)
    {
        IoVector part = new() { Base = _memory.Pointer, Length = (nuint)bytes };
        return file.Read(offset, new ReadOnlySpan<IoVector>(in part));
    }
}
