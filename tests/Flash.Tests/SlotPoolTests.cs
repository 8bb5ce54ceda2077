using CsCheck;

namespace FlashOrleans.Flash.Tests;

/// <summary>Windows that share the slots for what they do not keep.</summary>
public sealed class SlotPoolTests
{
    private const int Units = 12, SlotBytes = 512;

    private static Window New(SlotPool pool, int own) => new(Units, own, SlotBytes, new MemoryLedger(), "window", pool);

    [Fact]
    public void A_unit_below_the_windows_own_slots_stays_and_any_other_gives_its_slot_back()
    {
        using var pool = new SlotPool(2, SlotBytes, new MemoryLedger(), "pool");
        using Window window = New(pool, own: 3);
        foreach (int unit in (int[])[1, 5])
        {
            int slot = window.Reserve(unit);
            window.Filled(slot);
            window.Unpin(slot);
        }
        Assert.InRange(window.Find(1), 0, 2);
        Assert.Equal(-1, window.Find(5));
        Assert.Equal(2, pool.Free);
        Assert.Equal(1, window.Occupied);
    }

    [Fact]
    public void A_demand_takes_what_another_window_read_ahead_but_not_what_is_in_use_or_on_its_way()
    {
        using var pool = new SlotPool(3, SlotBytes, new MemoryLedger(), "pool");
        using Window ahead = New(pool, own: 0), demand = New(pool, own: 0);
        int unused = ahead.ReservePrefetch(4), used = ahead.Reserve(5), reading = ahead.ReservePrefetch(6);
        ahead.Filled(unused);
        ahead.Filled(used);
        Assert.Equal(-1, demand.ReservePrefetch(0));
        Assert.True(demand.HasRoom);
        Assert.True(demand.Reserve(0) >= 0);
        Assert.Equal([-1, used, reading], new[] { 4, 5, 6 }.Select(ahead.Find));
        Assert.Equal(1, ahead.PrefetchEvictedUnused);
        Assert.False(demand.HasRoom);
        Assert.Equal(-1, demand.Reserve(1));
    }

    [Fact]
    public void A_window_that_is_gone_leaves_its_slots_to_the_others()
    {
        using var pool = new SlotPool(2, SlotBytes, new MemoryLedger(), "pool");
        using Window stays = New(pool, own: 0);
        Window goes = New(pool, own: 0);
        goes.Filled(goes.ReservePrefetch(3));
        goes.Filled(goes.ReservePrefetch(4));
        goes.Dispose();
        Assert.Equal(2, pool.Free);
        Assert.True(stays.Reserve(3) >= 0);
    }

    private enum Act { Reserve, Prefetch, Filled, Failed, Pin, Unpin }

    [Fact]
    public void In_any_order_of_calls_no_slot_is_lost_or_held_twice_and_a_window_with_nothing_in_use_always_gets_one_that_nobody_uses()
    {
        Gen.Select(Gen.Select(Gen.Enum<Act>(), Gen.Int[0, 1], Gen.Int[0, Units - 1]).Array[0, 200], Gen.Int[0, 5], Gen.Int[1, 5]).Sample((acts, own, slots) =>
        {
            using var pool = new SlotPool(slots, SlotBytes, new MemoryLedger(), "pool");
            Window[] windows = [New(pool, own), New(pool, own)];
            foreach ((Act act, int which, int unit) in acts)
            {
                Window window = windows[which];
                int slot = window.Find(unit);
                if (slot < 0)
                {
                    bool inUse = Borrowed(window, own).Any(s => window.Pins(s) > 0);
                    bool room = unit < own || pool.Free > 0 || windows.Any(w => Borrowed(w, own).Any(s => w.State(s) == SlotState.Ready && w.Pins(s) == 0));
                    if (act == Act.Reserve && window.Reserve(unit) < 0) Assert.False(room && !inUse);
                    else if (act == Act.Prefetch && window.ReservePrefetch(unit) < 0) Assert.Equal(0, pool.Free);
                }
                else if (act == Act.Filled && window.State(slot) == SlotState.Reading) window.Filled(slot);
                else if (act == Act.Failed && window.State(slot) == SlotState.Reading && window.Pins(slot) == 0) window.Failed(slot);
                else if (act == Act.Pin) window.Pin(slot);
                else if (act == Act.Unpin && window.Pins(slot) > 0) window.Unpin(slot);
                int[] lent = [.. windows.SelectMany(w => Borrowed(w, own).Select(s => s - own))];
                Assert.Equal(lent.Length, lent.Distinct().Count());
                Assert.Equal(slots - pool.Free, lent.Length);
            }
            foreach (Window window in windows) window.Dispose();
            Assert.Equal(slots, pool.Free);
        }, iter: 400, threads: 1);
    }

    private static IEnumerable<int> Borrowed(Window window, int own) => Enumerable.Range(0, Units).Select(window.Find).Where(slot => slot >= own);
}
