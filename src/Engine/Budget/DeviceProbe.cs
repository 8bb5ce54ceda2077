using System.Diagnostics;
using System.Numerics;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Measures for a plan what the machine gives, in about a second: reading memory with all compute threads, scattered reads of the package's own units at the reader's depth, long reads.
/// Direct reads where the package is read directly; a virtual disk may have its own cache, so that this is what is there now. Blocks; never a grain turn.
/// </summary>
public static unsafe class DeviceProbe
{
    private const int MemoryBytes = 64 << 20, LongRead = 256 * 1024;
    /// <summary>A package that streams less has its neurons in memory before a gap matters.</summary>
    private const long GapsMatter = 256L << 20;
    private static readonly TimeSpan s_slice = TimeSpan.FromMilliseconds(350);

    /// <param name="package">Whose files are read.</param>
    /// <param name="engine">Threads and depth.</param>
    /// <param name="unitBytes">A typical read.</param>
    public static DeviceRates Measure(FlashPackage package, EngineOptions engine, int unitBytes)
    {
        ArgumentNullException.ThrowIfNull(package);
        ArgumentNullException.ThrowIfNull(engine);
        ThreadRole.AssertNotGrainTurn("measuring the device");
        double memory = Memory(engine.Threads);
        PackageFile[] slices = [.. Enumerable.Range(0, Math.Min(8, package.Config.Layers)).Select(i => package.OpenSlice(i * package.Config.Layers / Math.Min(8, package.Config.Layers)))];
        try
        {
            int unit = Math.Clamp(unitBytes, 512, LongRead);
            FlashFile[] files = [.. slices.Select(static s => s.File)];
            (double reads, _) = Reads(files, engine.IoThreads, unit);
            (_, double sequential) = Reads(files, engine.IoThreads, LongRead);
            return new DeviceRates { Memory = memory, Reads = reads, UnitBytes = unit, Sequential = sequential, Cost = Fit(files, engine.IoThreads, s_slice), Source = $"measured on this package's files, {package.Access}" };
        }
        finally
        {
            foreach (var slice in slices) slice.Dispose();
        }
    }

    /// <summary>What reads of a package cost, in a fifth of a second: for deciding about gaps when it starts, before it is opened. Null, and nothing is read, where there is little to read.</summary>
    public static ReadCost? Gaps(string package, EngineOptions engine)
    {
        ArgumentNullException.ThrowIfNull(engine);
        ThreadRole.AssertNotGrainTurn("measuring the device");
        Manifest manifest = FlashPackage.ReadManifest(package);
        if (PackageLayout.StreamedBytes(manifest.Model, manifest.Weights) < GapsMatter) return null;
        try
        {
            using FlashFile slice = DirectFile.Open(Path.Combine(package, PackageLayout.SlicePath(manifest.Model.Layers / 2)));
            return Fit([slice], engine.IoThreads, TimeSpan.FromMilliseconds(100));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FlashException)
        {
            // Who opens the package says what is wrong with it.
            return null;
        }
    }

    /// <summary>A page, which no device reads less of for less, and the longest gap.</summary>
    private static ReadCost Fit(FlashFile[] slices, int threads, TimeSpan time) =>
        ReadCost.Fit(PackageLayout.Page, Reads(slices, threads, PackageLayout.Page, time).Reads, ReadPlanner.GapLimit, Reads(slices, threads, ReadPlanner.GapLimit, time).Reads);

    private static double Memory(int threads)
    {
        using NativeBuffer buffer = new(MemoryBytes, new MemoryLedger(), "probe");
        byte* start = buffer.Pointer;
        long share = MemoryBytes / threads / 64 * 64;
        return Together(threads, (i, end) =>
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
        });
    }

    private static (double Reads, double Bytes) Reads(FlashFile[] slices, int threads, int bytes, TimeSpan? time = null)
    {
        int align = slices[0].Alignment, size = (bytes + align - 1) / align * align;
        using NativeBuffer buffers = new((long)threads * size, new MemoryLedger(), "probe");
        byte* start = buffers.Pointer;
        double reads = Together(threads, (i, end) =>
        {
            // What is read is no matter, but that it is scattered and the same in every run.
            ulong state = (ulong)i * 0x9E3779B97F4A7C15 + 1;
            long done = 0;
            for (; Stopwatch.GetTimestamp() < end; done++)
            {
                state = state * 6364136223846793005 + 1442695040888963407;
                FlashFile slice = slices[(int)((state >> 33) % (ulong)slices.Length)];
                long places = Math.Max(1, (slice.Length - size) / align);
                IoVector part = new() { Base = start + (long)i * size, Length = (nuint)size };
                long got = slice.Read((long)((state >> 20) % (ulong)places) * align, new ReadOnlySpan<IoVector>(in part));
                if (got < 0) throw new FlashException($"{slice.Name}: cannot be read (errno {-got})");
            }
            return done;
        }, time);
        return (reads, reads * size);
    }

    /// <summary>What all threads did in a second.</summary>
    private static double Together(int threads, Func<int, long, long> work, TimeSpan? time = null)
    {
        long begin = Stopwatch.GetTimestamp(), end = begin + (long)((time ?? s_slice).TotalSeconds * Stopwatch.Frequency), sum = 0;
        Exception? failure = null;
        Thread[] all = [.. Enumerable.Range(0, threads).Select(i => new Thread(() =>
        {
            try { Interlocked.Add(ref sum, work(i, end)); }
            catch (Exception e) { failure = e; }
        }, 256 * 1024) { IsBackground = true, Name = "flash-probe" })];
        foreach (var thread in all) thread.Start();
        foreach (var thread in all) thread.Join();
        if (failure != null) throw new FlashException($"the device cannot be measured: {failure.Message}", failure);
        return sum / Stopwatch.GetElapsedTime(begin).TotalSeconds;
    }
}
