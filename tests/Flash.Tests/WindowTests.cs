using CsCheck;

namespace FlashOrleans.Flash.Tests;

public sealed unsafe class WindowTests
{
    private readonly MemoryLedger _ledger = new();

    private Window New(int units, int slots) => new(units, slots, 512, _ledger, "window");

    private static int Fill(Window window, int unit)
    {
        int slot = window.Reserve(unit);
        Assert.True(slot >= 0);
        window.Filled(slot);
        window.Touch(slot);
        window.Unpin(slot);
        return slot;
    }

    [Fact]
    public void Memory_of_slots_is_aligned_apart_and_counted_until_disposed()
    {
        Window window = new(10, 4, 8192, _ledger, "window");
        Assert.Equal(4 * 8192, _ledger.Held("window"));
        Assert.Equal(0, (long)window.Memory(0) % 4096);
        Assert.Equal(8192, window.Memory(3) - window.Memory(2));
        Assert.Throws<InvalidOperationException>(() => { window.Memory(4); });
        window.Dispose();
        Assert.Equal(0, _ledger.Held("window"));
    }

    [Fact]
    public void The_slot_with_the_lowest_score_goes_first()
    {
        using Window window = New(10, 3);
        for (int unit = 0; unit < 3; unit++) Fill(window, unit);
        for (int tick = 0; tick < 5; tick++)
        {
            window.Tick();
            window.Touch(window.Find(0));
            window.Touch(window.Find(2));
        }
        int slot = window.Find(1);
        Assert.Equal(slot, window.Reserve(7));
        Assert.Equal(-1, window.Find(1));
        Assert.Equal(7, window.UnitOf(slot));
        Assert.Equal(SlotState.Reading, window.State(slot));
    }

    [Fact]
    public void What_a_step_needs_later_stays_however_little_it_was_used_until_it_is_used()
    {
        using Window window = new(10, 3, Window.LongUnit, new MemoryLedger(), "window");
        for (int unit = 0; unit < 3; unit++) Fill(window, unit);
        for (int use = 0; use < 50; use++)
            foreach (int unit in new[] { 0, 2 }) window.Touch(window.Find(unit));
        window.Tick();
        window.Need(window.Find(1));
        Fill(window, 7);
        Assert.True(window.Find(1) >= 0);
        window.Touch(window.Find(1));
        Fill(window, 8);
        Assert.Equal(-1, window.Find(7)); // one use against 1's two
        // A step later nobody needs it any more.
        window.Need(window.Find(1));
        window.Tick();
        Fill(window, 9);
        for (int use = 0; use < 50; use++) window.Touch(window.Find(9));
        Fill(window, 3);
        Assert.Equal(-1, window.Find(1));
    }

    [Fact]
    public void Uses_of_a_prompts_tokens_leave_the_scores_of_tokens_that_come_one_by_one()
    {
        Window At(int slots) => new(4, slots, 64, new MemoryLedger(), "window", retention: Retention.Experts);
        using Window together = At(2), single = At(2);
        foreach (Window window in new[] { together, single })
            foreach (int unit in new[] { 0, 1 }) Fill(window, unit);
        // Unit 0 by the first and third of five tokens, unit 1 by the second.
        for (int token = 0; token < 5; token++)
        {
            single.Tick();
            if (token is 0 or 2) single.Touch(single.Find(0));
            if (token == 1) single.Touch(single.Find(1));
        }
        float d = Retention.Experts.Decay;
        together.Tick(5);
        together.Touch(together.Find(0), d * d * d * d + d * d);
        together.Touch(together.Find(1), d * d * d);
        foreach (int unit in new[] { 0, 1 }) Assert.Equal(single.Score(single.Find(unit)), together.Score(together.Find(unit)), 4);
        Assert.True(single.Score(single.Find(0)) > single.Score(single.Find(1)));
    }

    [Fact]
    public void A_unit_that_comes_back_keeps_its_history()
    {
        using Window window = New(10, 1);
        Fill(window, 3);
        for (int use = 0; use < 6; use++) window.Touch(0);
        float before = window.Score(0);
        Fill(window, 4);
        Assert.True(window.Score(0) < before);
        window.Unpin(window.Reserve(3));
        Assert.Equal(before, window.Score(0));
    }

    [Fact]
    public void A_candidate_that_is_used_or_pinned_meanwhile_is_passed_over()
    {
        using Window window = New(100, 10);
        for (int unit = 0; unit < 10; unit++) Fill(window, unit);
        window.Tick();
        int first = window.Find(Victim(window, 50));
        Assert.Equal(-1, first); // it is gone
        // The batch of candidates is chosen now: change what comes next.
        int[] left = [.. Enumerable.Range(0, 10).Where(u => window.Find(u) >= 0)];
        foreach (int unit in left[..4]) window.Touch(window.Find(unit));
        foreach (int unit in left[4..8]) window.Pin(window.Find(unit));
        Assert.Equal(left[8], Victim(window, 51));
        Assert.All(left[..8], unit => Assert.True(window.Find(unit) >= 0));
    }

    /// <summary>Reserves a slot and tells which of the units 0..9 had to go.</summary>
    private static int Victim(Window window, int unit)
    {
        int[] held = [.. Enumerable.Range(0, 10).Where(u => window.Find(u) >= 0)];
        Assert.True(window.Reserve(unit) >= 0);
        return held.Single(u => window.Find(u) < 0);
    }

    [Fact]
    public void Nothing_is_handed_out_while_everything_is_pinned_or_being_read()
    {
        using Window window = New(10, 2);
        int reading = window.Reserve(0);
        int pinned = window.Reserve(1);
        window.Filled(pinned);
        Assert.Equal(0, window.Available);
        Assert.Equal(-1, window.Reserve(2));
        Assert.Equal(-1, window.ReservePrefetch(2));
        window.Unpin(reading); // still being read
        Assert.Equal(-1, window.Reserve(2));
        window.Filled(reading);
        Assert.Equal(1, window.Available);
        Assert.Equal(reading, window.Reserve(2));
    }

    [Fact]
    public void A_failed_read_frees_its_slot_after_the_last_pin()
    {
        using Window window = New(10, 1);
        int slot = window.Reserve(0);
        window.Pin(slot);
        window.Failed(slot);
        Assert.Equal(-1, window.Find(0));
        Assert.Equal(-1, window.Reserve(0));
        window.Unpin(slot);
        Assert.Equal(-1, window.Reserve(0));
        window.Unpin(slot);
        Assert.Equal(slot, window.Reserve(0));
    }

    [Fact]
    public void Misuse_is_an_exception()
    {
        using Window window = New(10, 2);
        int slot = window.Reserve(0);
        Assert.Throws<InvalidOperationException>(() => window.Reserve(0));
        Assert.Throws<InvalidOperationException>(() => window.ReservePrefetch(0));
        window.Filled(slot);
        Assert.Throws<InvalidOperationException>(() => window.Filled(slot));
        Assert.Throws<InvalidOperationException>(() => window.Failed(slot));
        window.Unpin(slot);
        Assert.Throws<InvalidOperationException>(() => window.Unpin(slot));
        Assert.Throws<InvalidOperationException>(() => window.Pin(1 - slot));
        Assert.Throws<InvalidOperationException>(() => window.Touch(1 - slot));
    }

    [Fact]
    public void Prefetch_never_takes_a_slot_with_a_high_score()
    {
        using Window window = New(10, 2);
        for (int use = 0; use < 10; use++)
        {
            window.Tick();
            foreach (int unit in (int[])[0, 1])
            {
                if (window.Find(unit) < 0) Fill(window, unit);
                else window.Touch(window.Find(unit));
            }
        }
        Assert.Equal(-1, window.ReservePrefetch(5));
        Assert.Equal(2, window.Available); // demand may
        for (int tick = 0; tick < 60; tick++) window.Tick();
        Assert.True(window.Score(0) <= window.PrefetchScoreLimit);
        Assert.True(window.ReservePrefetch(5) >= 0);
    }

    [Fact]
    public void A_refused_prefetch_looks_again_in_the_next_tick()
    {
        using Window window = New(10, 3);
        for (int unit = 0; unit < 3; unit++) Fill(window, unit);
        for (int use = 0; use < 10; use++)
            for (int unit = 0; unit < 3; unit++) window.Touch(window.Find(unit));
        Assert.Equal(-1, window.ReservePrefetch(6));
        int cold = window.Reserve(5); // never used
        window.Filled(cold);
        window.Unpin(cold);
        window.Tick();
        Assert.Equal(cold, window.ReservePrefetch(6));
    }

    [Fact]
    public void Recency_counts_for_a_few_ticks_beside_frequency()
    {
        using Window window = New(10, 3);
        for (int unit = 0; unit < 3; unit++) Fill(window, unit);
        for (int tick = 0; tick < 3; tick++)
        {
            window.Tick();
            window.Touch(window.Find(0)); // often, but not of late
        }
        for (int tick = 0; tick < 2; tick++) window.Tick();
        window.Touch(window.Find(1)); // 2 uses, the last one now: weight 1.9, recency 2
        window.Touch(window.Find(2));
        window.Touch(window.Find(2));
        Assert.InRange(window.Score(window.Find(0)), 4.6f, 4.8f); // weight 3.7, recency 1 left of 2
        Assert.InRange(window.Score(window.Find(1)), 3.8f, 4f);
        Assert.True(window.Score(window.Find(2)) > window.Score(window.Find(1)));
        window.Tick();
        window.Tick();
        float before = window.Score(window.Find(1));
        window.Tick();
        Assert.InRange(window.Score(window.Find(1)) / before, 0.8f, 0.9f); // recency fades faster than .98
    }

    [Fact]
    public void A_prefetched_slot_is_held_for_its_step_and_given_up_afterwards()
    {
        using Window window = New(10, 2);
        int slot = window.ReservePrefetch(0);
        int other = window.ReservePrefetch(1);
        Assert.Equal(0, window.Available);
        window.Filled(slot);
        window.Filled(other);
        for (int tick = 0; tick < Window.PrefetchHold; tick++) window.Tick();
        window.PrefetchScoreLimit = 3.9f;
        Assert.Equal(3.9f, window.Score(slot));
        int demand = window.Reserve(2); // a demand read may take it all the same
        Assert.True(demand >= 0);
        Assert.Equal(1, window.PrefetchEvictedUnused);
        window.Tick();
        Assert.True(window.ReservePrefetch(3) >= 0);
        Assert.Equal(2, window.PrefetchEvictedUnused);
    }

    [Fact]
    public void Usefulness_of_a_prefetch_is_counted_once()
    {
        using Window window = New(10, 2);
        int slot = window.ReservePrefetch(0);
        window.Pin(slot); // a step needs it while it is still on its way
        window.Filled(slot);
        Assert.True(window.TakePrefetched(slot));
        Assert.False(window.TakePrefetched(slot));
        window.Unpin(slot);
        Assert.False(window.TakePrefetched(Fill(window, 1)));
        Fill(window, 2);
        Fill(window, 3);
        Assert.Equal(0, window.PrefetchEvictedUnused);
    }

    [Fact]
    public void Nothing_is_allocated_after_construction()
    {
        using Window window = New(4096, 1000);
        Step(0);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int step = 1; step < 20; step++) Step(step);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);

        void Step(int step)
        {
            for (int i = 0; i < 300; i++)
            {
                int unit = (step * 997 + i * 13) % 4096;
                int slot = window.Find(unit);
                if (slot >= 0)
                {
                    window.Touch(slot);
                    continue;
                }
                slot = i % 3 == 0 ? window.ReservePrefetch(unit) : window.Reserve(unit);
                if (slot < 0) continue;
                window.Filled(slot);
                if (i % 3 != 0) window.Unpin(slot);
            }
            window.Tick();
        }
    }

    private enum Act { Reserve, Prefetch, Filled, Failed, Pin, Unpin, Touch, Take, Tick }

    private sealed class Held
    {
        public int Unit, Pins;
        public SlotState State;
        public bool Prefetched, Used;
    }

    [Fact]
    public void Any_order_of_calls_keeps_the_maps_consistent_and_pinned_units_in_place()
    {
        const int units = 24;
        Gen<(Act, int)[]> calls = Gen.Select(Gen.Enum<Act>(), Gen.Int[0, units - 1]).Array[0, 200];
        Gen.Select(calls, Gen.Int[1, 12]).Sample((acts, slots) =>
        {
            using Window window = New(units, slots);
            Held[] model = [.. Enumerable.Range(0, slots).Select(_ => new Held { Unit = -1 })];
            long unused = 0;
            foreach ((Act act, int number) in acts)
            {
                Apply(window, model, act, number, ref unused);
                Check(window, model, unused);
            }
        }, iter: 400);
    }

    private static void Apply(Window window, Held[] model, Act act, int number, ref long unused)
    {
        int slot = number % model.Length;
        Held held = model[slot];
        switch (act)
        {
            case Act.Reserve or Act.Prefetch when !model.Any(h => h.Unit == number):
                bool anyFree = model.Any(h => h.State == SlotState.Free && h.Pins == 0);
                bool anyEvictable = model.Any(h => h.State == SlotState.Ready && h.Pins == 0);
                float[] scores = [.. Enumerable.Range(0, model.Length).Select(s => model[s].Unit >= 0 ? window.Score(s) : 0)];
                int got = act == Act.Reserve ? window.Reserve(number) : window.ReservePrefetch(number);
                if (act == Act.Reserve) Assert.Equal(anyFree || anyEvictable, got >= 0);
                if (got < 0) break;
                Held taken = model[got];
                Assert.Equal(0, taken.Pins);
                Assert.NotEqual(SlotState.Reading, taken.State);
                if (anyFree) Assert.Equal(SlotState.Free, taken.State);
                else if (act == Act.Prefetch) Assert.True(scores[got] <= window.PrefetchScoreLimit);
                if (taken.Prefetched && !taken.Used) unused++;
                model[got] = new Held { Unit = number, State = SlotState.Reading, Pins = act == Act.Reserve ? 1 : 0, Prefetched = act == Act.Prefetch };
                break;
            case Act.Filled when held.State == SlotState.Reading:
                window.Filled(slot);
                held.State = SlotState.Ready;
                break;
            case Act.Failed when held.State == SlotState.Reading:
                window.Failed(slot);
                model[slot] = new Held { Unit = -1, Pins = held.Pins };
                break;
            case Act.Pin when held.Unit >= 0:
                window.Pin(slot);
                held.Pins++;
                break;
            case Act.Unpin when held.Pins > 0:
                window.Unpin(slot);
                held.Pins--;
                break;
            case Act.Touch when held.Unit >= 0:
                window.Touch(slot);
                held.Used = true;
                break;
            case Act.Take:
                Assert.Equal(held.Prefetched, window.TakePrefetched(slot));
                held.Prefetched = false;
                break;
            case Act.Tick:
                window.Tick();
                break;
        }
    }

    private static void Check(Window window, Held[] model, long unused)
    {
        for (int slot = 0; slot < model.Length; slot++)
        {
            Assert.Equal(model[slot].Unit, window.UnitOf(slot));
            Assert.Equal(model[slot].State, window.State(slot));
            Assert.Equal(model[slot].Pins, window.Pins(slot));
        }
        for (int unit = 0; unit < window.Units; unit++)
            Assert.Equal(Array.FindIndex(model, h => h.Unit == unit), window.Find(unit));
        Assert.Equal(model.Count(h => h.Pins == 0 && h.State != SlotState.Reading), window.Available);
        Assert.Equal(unused, window.PrefetchEvictedUnused);
    }
}
