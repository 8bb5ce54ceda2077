using System.Diagnostics;
using System.Numerics;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Measures what the machine gives, in two or three seconds: reading memory with all compute threads, products in the package's own format with all of them, and reads of several sizes
/// through the reader that the engine uses, scattered over the package's own files. Direct reads where the package is read directly; a virtual disk may have its own cache, so that this is what is
/// there now. Blocks; never a grain turn.
/// </summary>
public static unsafe class DeviceProbe
{
    private const int LongRead = 256 * 1024;
    /// <summary>A package that streams less has its neurons in memory before a gap matters.</summary>
    private const long GapsMatter = 256L << 20;
    /// <summary>Bundles of 7B shapes in 4 bits, and what lies between them and long reads.</summary>
    private static readonly int[] s_reads = [4608, 6912, 16 * 1024, LongRead, 1 << 20];

    /// <summary>Everything, the cost of reads by size.</summary>
    public static DeviceRates Measure(FlashPackage package, EngineOptions engine) => Measure(package, engine, s_reads, together: true);

    /// <summary>What a plan needs: of reads only a typical one and a long one, and nothing of both at once.</summary>
    /// <param name="package">Whose files are read.</param>
    /// <param name="engine">Threads, kernels and depth.</param>
    /// <param name="unitBytes">A typical read.</param>
    public static DeviceRates Measure(FlashPackage package, EngineOptions engine, int unitBytes) =>
        Measure(package, engine, [Math.Clamp(unitBytes, 512, LongRead - 1), LongRead], together: false);

    /// <summary>What the processor does alone: a package on no device of interest.</summary>
    public static (double OneToken, double ManyTokens) Compute(FlashPackage package, EngineOptions engine)
    {
        ArgumentNullException.ThrowIfNull(package);
        ArgumentNullException.ThrowIfNull(engine);
        return Compute(package.Manifest, engine);
    }

    private static (double OneToken, double ManyTokens) Compute(Manifest manifest, EngineOptions engine)
    {
        double slice = Slice(manifest);
        // Code that has just been compiled in haste is not what will run.
        Products(manifest, engine, 1, 0.1);
        Products(manifest, engine, DeviceRates.Many, 0.1);
        return (Products(manifest, engine, 1, slice), Products(manifest, engine, DeviceRates.Many, slice));
    }

    /// <summary>For a package that is not there yet: reads of a file that is made in the folder for the purpose, and deleted.</summary>
    public static DeviceRates Measure(Manifest manifest, string folder, EngineOptions engine, int unitBytes)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        ArgumentNullException.ThrowIfNull(engine);
        ThreadRole.AssertNotGrainTurn("measuring the device");
        double memory = Memory(manifest.Bytes, engine.Threads, Slice(manifest));
        (double one, double many) = Compute(manifest, engine);
        Directory.CreateDirectory(folder);
        string path = Path.Combine(folder, $".probe-{Guid.NewGuid():N}");
        try
        {
            WriteProbe(path);
            using FlashFile file = DirectFile.Open(path);
            using FlashReader reader = new(engine.IoThreads);
            List<ReadCost> reads = Reads([file], reader, [Math.Clamp(unitBytes, 512, LongRead - 1), LongRead], Slice(manifest));
            return new DeviceRates { Memory = memory, OneToken = one, ManyTokens = many, Reads = reads, Source = $"measured, reads on a file of {ProbeBytes >> 20} MiB" };
        }
        finally
        {
            File.Delete(path);
        }
    }

    private const long ProbeBytes = 512 << 20;

    private static void WriteProbe(string path)
    {
        using FileStream file = new(path, new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, BufferSize = 0, PreallocationSize = ProbeBytes });
        byte[] block = new byte[4 << 20];
        new Random(1).NextBytes(block);
        for (long at = 0; at < ProbeBytes; at += block.Length) file.Write(block);
        file.Flush(flushToDisk: true);
    }

    private static DeviceRates Measure(FlashPackage package, EngineOptions engine, int[] sizes, bool together)
    {
        ArgumentNullException.ThrowIfNull(package);
        ArgumentNullException.ThrowIfNull(engine);
        ThreadRole.AssertNotGrainTurn("measuring the device");
        double memory = Memory(package.Manifest.Bytes, engine.Threads, Slice(package.Manifest));
        (double one, double many) = Compute(package, engine);
        (List<ReadCost> reads, AtOnce? atOnce, string method) = Reads(package, engine, sizes, together);
        return new DeviceRates { Memory = memory, OneToken = one, ManyTokens = many, Reads = reads, AtOnce = atOnce, Source = $"measured on this package's files, {package.Access}, {method}" };
    }

    /// <summary>
    /// The reads once more, after a run: the better of the two counts. A virtual disk's host may have read a package into its cache by then, or thrown it out: a limit from one of the two states judges
    /// runs of the other wrongly.
    /// </summary>
    public static DeviceRates Again(FlashPackage package, EngineOptions engine, DeviceRates first)
    {
        ArgumentNullException.ThrowIfNull(package);
        ArgumentNullException.ThrowIfNull(engine);
        ArgumentNullException.ThrowIfNull(first);
        ThreadRole.AssertNotGrainTurn("measuring the device");
        List<ReadCost> second = Reads(package, engine, [.. first.Reads.Select(static r => r.Bytes)], together: false).Costs;
        return first.Better(second);
    }

    /// <summary>What reads of a package cost, in a fifth of a second: for deciding about gaps when it starts, before it is opened. Null, and nothing is read, where there is little to read.</summary>
    public static GapCost? Gaps(string package, EngineOptions engine)
    {
        ArgumentNullException.ThrowIfNull(engine);
        ThreadRole.AssertNotGrainTurn("measuring the device");
        Manifest manifest = FlashPackage.ReadManifest(package);
        if (PackageLayout.StreamedBytes(manifest.Model, manifest.Weights, manifest.Lean) < GapsMatter) return null;
        try
        {
            using FlashFile slice = DirectFile.Open(Path.Combine(package, PackageLayout.SlicePath(manifest.Model.Layers / 2)));
            using FlashReader reader = new(engine.IoThreads);
            // A page, which no device reads less of for less, and the longest gap.
            List<ReadCost> costs = Reads([slice], reader, [PackageLayout.Page, ReadPlanner.GapLimit], 0.1);
            return costs.Count < 2 ? null : GapCost.Fit(costs[0], costs[1]);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FlashException)
        {
            // Who opens the package says what is wrong with it.
            return null;
        }
    }

    /// <summary>Seconds of one measurement: a small model is not kept waiting.</summary>
    private static double Slice(Manifest manifest) => manifest.Bytes < 1 << 28 ? 0.08 : 0.25;

    /// <summary>A model that lives in the processor's cache is measured there.</summary>
    private static double Memory(long modelBytes, int threads, double seconds)
    {
        using NativeBuffer buffer = MemoryToRead(modelBytes);
        return Together(threads, seconds, Reading(buffer, threads));
    }

    private static NativeBuffer MemoryToRead(long modelBytes) => new(Math.Clamp(modelBytes, 4 << 20, 128 << 20), new MemoryLedger(), "probe");

    /// <summary>Of a thread, until the time: the bytes that it has read of its share of the buffer.</summary>
    private static Func<int, long, long> Reading(NativeBuffer buffer, int threads)
    {
        byte* start = buffer.Pointer;
        long share = buffer.Length / threads / 64 * 64;
        return (i, end) =>
        {
            long read = 0;
            Vector<long> a = default, b = default;
            for (; Stopwatch.GetTimestamp() < end; read += share)
            {
                byte* p = start + i * share;
                for (long k = 0; k <= share - 2 * Vector<byte>.Count; k += 2 * Vector<byte>.Count)
                {
                    a ^= *(Vector<long>*)(p + k);
                    b ^= *(Vector<long>*)(p + k + Vector<byte>.Count);
                }
            }
            // Used, so that it is computed.
            return (a ^ b)[0] == 1 ? read + 1 : read;
        };
    }

    /// <summary>
    /// What is left of both rates while all compute threads read memory and the reader is kept busy with long reads: alone before and after, since a device changes, and in between at once, the median of three parts. What
    /// comes before these does not count: a host that counts the time of a guest's processors and of its disk together lets them run beyond their share for a while, and then stops them in every tenth of a second.
    /// </summary>
    private static AtOnce? Both(FlashFile[] files, FlashReader reader, EngineOptions engine, FlashPackage package, double seconds)
    {
        // Whole experts are read in one piece, and a long read costs the processor less than many short ones.
        using ReadLoad load = new(files, package.Config.Experts is { ByNeuron: false } ? s_reads[^1] : LongRead);
        if (!load.Possible) return null;
        using NativeBuffer buffer = MemoryToRead(package.Manifest.Bytes);
        var reading = Reading(buffer, engine.Threads);
        double each = seconds / Parts;
        (double memory, double flash) = Alone();
        _ = Beside(4 * each);
        var beside = Enumerable.Range(0, Parts).Select(_ => Beside(4 * each)).ToList();
        (double memoryAfter, double flashAfter) = Alone();
        return beside.Select(b => new AtOnce(Math.Min(1, 2 * b.Memory / (memory + memoryAfter)), Math.Min(1, 2 * b.Flash / (flash + flashAfter))))
            .OrderBy(static b => b.Memory + b.Flash).ElementAt(Parts / 2);

        (double Memory, double Flash) Alone() => (Once(engine.Threads, each, reading), Rate(each));

        double Rate(double time)
        {
            (long reads, double took) = load.Run(reader, time);
            return reads / took;
        }

        (double Memory, double Flash) Beside(double time)
        {
            double rate = 0;
            Thread beside = new(() => rate = Once(engine.Threads, time, reading), 256 * 1024) { IsBackground = true, Name = "flash-probe" };
            beside.Start();
            double flashRate = Rate(time);
            beside.Join();
            return (rate, flashRate);
        }
    }

    /// <summary>Multiply-adds a second: each thread one panel of sixteen rows again and again, in its cache, with so many tokens.</summary>
    private static double Products(Manifest manifest, EngineOptions engine, int tokens, double seconds)
    {
        Kernels kernels = Kernels.Choose(engine.Kernels);
        WeightFormat format = manifest.Weights.Of(manifest.Model.Layers / 2, "attn.qkv");
        int cols = manifest.Model.HiddenSize, rows = WeightLayout.PanelRows;
        long stride = WeightLayout.IsQuantized(format) ? Kernels.QuantizedBytes(cols) : cols * 4;
        long panel = (WeightLayout.PanelBytes(format, cols) + 63L) & ~63L, all = panel + stride * tokens + 4L * rows * tokens;
        all = (all + NativeBuffer.Page - 1) & -NativeBuffer.Page;
        using NativeBuffer buffer = new(all * engine.Threads, new MemoryLedger(), "probe");
        byte* start = buffer.Pointer;
        // Zeros: the numbers do not matter to the time.
        return Together(engine.Threads, seconds, (i, end) =>
        {
            byte* weights = start + i * all, x = weights + panel;
            float* y = (float*)(x + stride * tokens);
            long done = 0;
            for (; Stopwatch.GetTimestamp() < end; done += (long)rows * cols * tokens)
                kernels.Panels(format, weights, 0, 1, rows, cols, x, (nint)stride, tokens, y, rows);
            return done;
        });
    }

    private static (List<ReadCost> Costs, AtOnce? AtOnce, string Method) Reads(FlashPackage package, EngineOptions engine, int[] sizes, bool together)
    {
        int layers = package.Config.Layers, count = Math.Min(8, layers);
        List<PackageFile> slices = [];
        try
        {
            for (int i = 0; i < count; i++) slices.Add(package.OpenSlice(i * layers / count));
            using FlashReader reader = new(engine.IoThreads);
            FlashFile[] files = [.. slices.Select(static s => s.File)];
            double seconds = Slice(package.Manifest);
            List<ReadCost> costs = Reads(files, reader, sizes, seconds);
            return (costs, together ? Both(files, reader, engine, package, seconds) : null, package.Access.StartsWith("direct", StringComparison.Ordinal) ? reader.Method : "threads");
        }
        finally
        {
            foreach (PackageFile slice in slices) slice.Dispose();
        }
    }

    private static List<ReadCost> Reads(FlashFile[] files, FlashReader reader, int[] sizes, double seconds)
    {
        List<ReadCost> costs = [];
        foreach (int size in sizes)
        {
            using ReadLoad load = new(files, size);
            if (!load.Possible) continue;
            costs.Add(new ReadCost(size, Enumerable.Range(0, Parts).Min(_ =>
            {
                (long reads, double took) = load.Run(reader, seconds / Parts);
                return took / reads;
            })));
        }
        return costs;
    }

    /// <summary>What all threads did in a second, in the best of three parts of the time: a limit is what the machine can do, not what others left of it.</summary>
    private static double Together(int threads, double seconds, Func<int, long, long> work) =>
        Enumerable.Range(0, Parts).Max(_ => Once(threads, seconds / Parts, work));

    private const int Parts = 3;

    private static double Once(int threads, double seconds, Func<int, long, long> work)
    {
        long begin = Stopwatch.GetTimestamp(), end = begin + (long)(seconds * Stopwatch.Frequency), sum = 0;
        Exception? failure = null;
        Thread[] all = [.. Enumerable.Range(0, threads).Select(i => new Thread(() =>
        {
            try { Interlocked.Add(ref sum, work(i, end)); }
            catch (Exception e) { failure = e; }
        }, 256 * 1024) { IsBackground = true, Name = "flash-probe" })];
        foreach (var thread in all) thread.Start();
        foreach (var thread in all) thread.Join();
        if (failure != null) throw new FlashException($"the machine cannot be measured: {failure.Message}", failure);
        return sum / Stopwatch.GetElapsedTime(begin).TotalSeconds;
    }
}
