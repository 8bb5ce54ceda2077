namespace FlashOrleans.Flash.Tests;

public sealed class DirectFileGuardTests
{
    [Fact]
    public async Task Reading_inside_a_grain_turn_is_caught()
    {
#if FLASH_GUARD
        using TempFile temp = new(TempFile.Pattern(4096));
        using DirectFile file = DirectFile.Open(temp.Path, direct: false);
        // Like a turn: a task on a scheduler of its own.
        ConcurrentExclusiveSchedulerPair turn = new();
        Task read = Task.Factory.StartNew(() => ReadOneByte(file), CancellationToken.None, TaskCreationOptions.None, turn.ExclusiveScheduler);
        InvalidOperationException caught = await Assert.ThrowsAsync<InvalidOperationException>(() => read);
        Assert.Contains("grain turn", caught.Message, StringComparison.Ordinal);
#else
        Assert.Skip("the thread guard is not in Release builds");
        await Task.CompletedTask;
#endif
    }

    private static unsafe void ReadOneByte(DirectFile file)
    {
        byte one;
        IoVector part = new() { Base = &one, Length = 1 };
        file.Read(0, new ReadOnlySpan<IoVector>(in part));
    }
}
