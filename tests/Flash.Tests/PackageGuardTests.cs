namespace FlashOrleans.Flash.Tests;

public sealed class PackageGuardTests(GoodPackage good) : IClassFixture<GoodPackage>
{
    [Fact]
    public async Task Opening_and_loading_inside_a_grain_turn_are_caught()
    {
#if FLASH_GUARD
        using FlashPackage package = FlashPackage.Open(good.Path);
        using PackageFile slice = package.OpenSlice(0);
        Action[] works = [() => FlashPackage.Open(good.Path), () => package.OpenSlice(1), () => package.SideFile("tokenizer.json"), () => slice.Load("attn.qkv", new MemoryLedger(), "qkv")];
        foreach (Action work in works)
        {
            // Like a turn: a task on a scheduler of its own.
            ConcurrentExclusiveSchedulerPair turn = new();
            Task task = Task.Factory.StartNew(work, CancellationToken.None, TaskCreationOptions.None, turn.ExclusiveScheduler);
            InvalidOperationException caught = await Assert.ThrowsAsync<InvalidOperationException>(() => task);
            Assert.Contains("grain turn", caught.Message, StringComparison.Ordinal);
        }
#else
        Assert.Skip("the thread guard is not in Release builds");
        await Task.CompletedTask;
        GC.KeepAlive(good);
#endif
    }
}
