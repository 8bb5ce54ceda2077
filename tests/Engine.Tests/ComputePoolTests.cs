namespace FlashOrleans.Engine.Tests;

/// <summary>A job's items run once each, and none is still running when the job is said to be over: whoever called goes on to take away what items look at.</summary>
public sealed class ComputePoolTests
{
    [Fact]
    public void Who_comes_late_to_a_job_takes_nothing_of_the_next_one_while_that_is_prepared()
    {
        using var pool = new ComputePool(2);
        pool.Run(static (_, _) => { }, 2);
        long over = pool.Round;
        int ran = 0;
        // More items than the last job had: its end is not theirs.
        pool.Prepare((_, _) => ran++, 9);
        pool.Take(over, 1);
        Assert.Equal(0, ran);
    }

    [Fact]
    public void No_item_runs_twice_or_outlives_its_job_however_often_and_unequally_jobs_follow_each_other()
    {
        using var pool = new ComputePool(6);
        int[] runs = new int[9];
        int job = 0, running = 0, astray = 0;
        void Item(int item, int worker)
        {
            int mine = Volatile.Read(ref job);
            Interlocked.Increment(ref running);
            Interlocked.Increment(ref runs[item]);
            // Long enough that a job which follows would notice, short enough that workers look for the next one while it is made.
            Thread.SpinWait(item % 3);
            if (Volatile.Read(ref job) != mine) Interlocked.Increment(ref astray);
            Interlocked.Decrement(ref running);
        }

        Action<int, int> work = Item;
        for (int i = 0; i < 100_000; i++)
        {
            // A job of few items, then one of more: who comes late to the first must not think that the second's are its own.
            int items = i % 2 == 0 ? 2 : 9;
            Array.Clear(runs);
            Volatile.Write(ref job, i);
            pool.Run(work, items);
            Assert.True(Volatile.Read(ref running) == 0 && Volatile.Read(ref astray) == 0, $"job {i} was over while an item ran");
            for (int k = 0; k < runs.Length; k++) Assert.True(runs[k] == (k < items ? 1 : 0), $"job {i}: item {k} of {items} ran {runs[k]} times");
        }
    }
}
