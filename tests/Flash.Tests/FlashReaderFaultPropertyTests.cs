using CsCheck;

namespace FlashOrleans.Flash.Tests;

public sealed class FlashReaderFaultPropertyTests
{
    /// <summary>
    /// Any geometry, any passing trouble, any permanently bad bytes: a unit arrives whole, or carries a fault and then really contains a bad byte or shares
    /// its sector with one. Nothing else is lost, the thread lives on.
    /// </summary>
    [Fact]
    public void A_unit_arrives_whole_or_is_faulted_for_a_reason()
    {
        Gen<(int Stride, int Offset, int Bytes)> shapes =
            from stride in Gen.Int[16, 3000]
            from offset in Gen.Int[0, stride - 1]
            from bytes in Gen.Int[1, stride - offset]
            select (stride, offset, bytes);
        Gen<int> alignments = Gen.OneOf(Gen.Const(1), Gen.Const(512), Gen.Const(4096));
        Gen.Select(alignments, shapes, Gen.Bool.Array[24], Gen.Int[0, 5000], Gen.Int[0, 1_000_000], Gen.Select(Gen.Int[0, 24 * 3000], Gen.Bool).Array[0, 3])
            .Sample((alignment, shape, set, offset, seed, bad) =>
            {
                int[] wanted = [.. Enumerable.Range(0, set.Length).Where(u => set[u])];
                if (wanted.Length == 0) return;
                byte[] content = TempFile.Pattern(offset + set.Length * shape.Stride, seed);
                using MemoryFile file = new(content, alignment);
                using ReaderBench bench = new(file, content, set.Length, shape.Stride, shape.Offset, shape.Bytes, offset);
                using FlashReader reader = new(threads: 1);
                Random random = new(seed);
                // One passing trouble of each kind; the reader retries a read once, so no two of them may hit the same one as errors.
                file.Inject(new MemoryFault { Read = random.Next(3), Errno = Libc.EINTR });
                file.Inject(new MemoryFault { Read = random.Next(3), ShortBytes = random.Next(5000) + 1 });
                foreach ((int at, bool flip) in bad)
                    file.Inject(new MemoryFault { Offset = at % content.Length, Errno = flip ? 0 : Libc.EIO, FlipBit = flip ? 3 : -1, Times = MemoryFault.Always });

                ReadRequest request = bench.Request(ReadClass.Demand, wanted);
                Assert.True(reader.TrySubmit(request));
                bench.Wait(1);
                for (int k = 0; k < wanted.Length; k++)
                {
                    long low = ReadPlanner.Low(bench.Region, wanted[k]), high = ReadPlanner.High(bench.Region, wanted[k]);
                    bool touched = bad.Any(b => b.Item1 % content.Length >= low && b.Item1 % content.Length < high);
                    if (request.Faults[k] == ReadFault.None) bench.AssertDelivered(wanted[k]);
                    else Assert.True(touched, $"unit {wanted[k]}: {request.Error}");
                }
                Assert.Equal(request.Faults[..wanted.Length].Any(f => f != ReadFault.None), request.Error != null);
            }, iter: 300);
    }
}
