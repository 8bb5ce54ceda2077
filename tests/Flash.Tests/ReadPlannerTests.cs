using CsCheck;

namespace FlashOrleans.Flash.Tests;

public sealed unsafe class ReadPlannerTests
{
    private sealed class Nobody : IReadCompletion
    {
        public void Completed(ReadRequest request) { }
    }

    private static List<ReadRequest> Plan(UnitRegion region, IEnumerable<int> units, int gap, int maxBytes)
    {
        List<ReadRequest> plan = [];
        foreach (int unit in units)
        {
            if (plan.Count > 0 && plan[^1].TryAdd(unit, unit + 7, (byte*)(nint)(unit * 4096), gap, maxBytes)) continue;
            ReadRequest request = new();
            request.Reset(region, ReadClass.Demand, new Nobody());
            Assert.True(request.TryAdd(unit, unit + 7, (byte*)(nint)(unit * 4096), gap, maxBytes));
            plan.Add(request);
        }
        return plan;
    }

    private static UnitRegion Region(int alignment, int stride, int partOffset, int partBytes, int units) =>
        new(new MemoryFile([], alignment), "neurons", alignment, units, stride, partOffset, partBytes);

    [Fact]
    public void Touching_units_join_and_a_gap_beyond_the_limit_separates()
    {
        UnitRegion region = Region(512, 1024, 0, 1024, 100);
        Assert.Equal([3, 1], Plan(region, [4, 5, 6, 8], gap: 0, maxBytes: 1 << 20).Select(r => r.Count));
        Assert.Equal([4], Plan(region, [4, 5, 6, 8], gap: 1024, maxBytes: 1 << 20).Select(r => r.Count));
        Assert.Equal([2, 1, 1], Plan(region, [4, 5, 6, 8], gap: 2048, maxBytes: 2048).Select(r => r.Count));
    }

    [Fact]
    public void The_unread_rest_of_a_unit_counts_as_a_gap()
    {
        // Up and down of a 7168-byte bundle are read, the gate row between them and the next neuron is not.
        UnitRegion region = Region(512, 7168, 0, 4608, 100);
        Assert.Equal(2, Plan(region, [4, 5], gap: 2559, maxBytes: 1 << 20).Count);
        Assert.Single(Plan(region, [4, 5], gap: 2560, maxBytes: 1 << 20));
    }

    [Fact]
    public void A_request_takes_no_more_units_than_it_has_room_for()
    {
        UnitRegion region = Region(512, 512, 0, 512, 1000);
        Assert.Equal([64, 64, 22], Plan(region, Enumerable.Range(0, 150), gap: 0, maxBytes: 1 << 30).Select(r => r.Count));
    }

    [Fact]
    public void Any_set_of_units_is_covered_once_in_ascending_runs_within_the_limits()
    {
        Gen<int> alignments = Gen.OneOf(Gen.Const(1), Gen.Const(512), Gen.Const(4096));
        Gen<(int Stride, int Offset, int Bytes)> shapes =
            from stride in Gen.Int[16, 9000]
            from offset in Gen.Int[0, stride - 1]
            from bytes in Gen.Int[1, stride - offset]
            select (stride, offset, bytes);
        Gen<bool[]> sets = Gen.Frequency((1, Gen.Const(true)), (3, Gen.Const(false)), (2, Gen.Bool)).Array[1, 400];
        Gen.Select(alignments, shapes, sets, Gen.Int[0, 20_000], Gen.Int[1, 300_000]).Sample((alignment, shape, set, gap, maxBytes) =>
        {
            UnitRegion region = Region(alignment, shape.Stride, shape.Offset, shape.Bytes, set.Length);
            int[] wanted = [.. Enumerable.Range(0, set.Length).Where(u => set[u])];
            List<ReadRequest> plan = Plan(region, wanted, gap, maxBytes);
            Assert.Equal(wanted, plan.SelectMany(r => r.Units[..r.Count]));
            foreach (ReadRequest request in plan)
            {
                Assert.InRange(request.Count, 1, ReadRequest.MaxUnits);
                if (request.Count > 1) Assert.True(ReadPlanner.Bytes(request) <= maxBytes);
                for (int k = 0; k < request.Count; k++)
                {
                    Assert.Equal(request.Units[k] + 7, request.Slots[k]);
                    Assert.Equal(request.Units[k] * 4096, request.Memory[k]);
                    long low = ReadPlanner.Low(region, request.Units[k]), high = ReadPlanner.High(region, request.Units[k]);
                    Assert.True(low % alignment == 0 && high % alignment == 0 && high - low <= region.SlotBytes);
                    Assert.True(low <= region.Start(request.Units[k]) && high >= region.Start(request.Units[k]) + shape.Bytes);
                    if (k > 0) Assert.True(low - ReadPlanner.High(region, request.Units[k - 1]) <= gap);
                }
            }
            // Nothing that could have joined was left out.
            for (int i = 1; i < plan.Count; i++)
            {
                ReadRequest previous = plan[i - 1];
                Assert.False(previous.Count < ReadRequest.MaxUnits
                    && ReadPlanner.Joins(region, previous.Units[0], previous.Units[previous.Count - 1], plan[i].Units[0], gap, maxBytes));
            }
        }, iter: 500);
    }

    [Fact]
    public void Planning_does_not_allocate()
    {
        UnitRegion region = Region(512, 1024, 0, 1024, 1000);
        ReadRequest request = new();
        Nobody nobody = new();
        Fill();
        long before = GC.GetAllocatedBytesForCurrentThread();
        Fill();
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);

        void Fill()
        {
            request.Reset(region, ReadClass.Demand, nobody);
            for (int unit = 0; unit < 1000; unit += 3)
            {
                if (request.TryAdd(unit, unit, null)) continue;
                request.Reset(region, ReadClass.Demand, nobody);
                request.TryAdd(unit, unit, null);
            }
        }
    }
}
