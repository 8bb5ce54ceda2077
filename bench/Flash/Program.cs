using System.Diagnostics;
using System.Globalization;
using FlashOrleans.Flash;

// What random reads cost, by io_uring and by threads in turn, on a file made here and read past the page cache:
//   dotnet run -c Release --project bench/Flash -- FOLDER [GIGABYTES] [SECONDS]
// Processor time is that of the whole process: submitting, kernel, waking, and nothing else.
string folder = args.Length > 0 ? args[0] : Path.GetTempPath();
long bytes = (long)(double.Parse(args.Length > 1 ? args[1] : "4", CultureInfo.InvariantCulture) * (1L << 30));
double seconds = double.Parse(args.Length > 2 ? args[2] : "1", CultureInfo.InvariantCulture);
string path = Path.Combine(folder, $"flash-bench-{Environment.ProcessId}.bin");
try
{
    using (var to = new FileStream(path, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 20))
    {
        byte[] block = new byte[4 << 20];
        for (long at = 0; at < bytes; at += block.Length)
        {
            Random.Shared.NextBytes(block);
            to.Write(block);
        }
        to.Flush(flushToDisk: true);
    }
    using DirectFile file = DirectFile.Open(path);
    Console.WriteLine($"{Environment.ProcessorCount} processors, {bytes >> 30} GiB, {file.Access}");
    Console.WriteLine("| a read | threads: GB/s | reads/s | processor µs a read | io_uring: GB/s | reads/s | processor µs a read |");
    Console.WriteLine("|---|---|---|---|---|---|---|");
    foreach (int size in new[] { 4608, 7168, 16 << 10, 64 << 10, 256 << 10, 1 << 20 })
    {
        var row = new List<string>();
        foreach (bool ring in new[] { false, true })
        {
            using var load = new Load(file, size);
            using var reader = new FlashReader(ring ? FlashReader.DefaultThreads : 32, ring: ring);
            if (ring && reader.Method != "io_uring") continue;
            load.Run(reader, 0.2);
            var (reads, took, cpu) = load.Run(reader, seconds);
            row.AddRange([$"{reads * size / took / 1e9:0.00}", $"{reads / took:0}", $"{cpu / reads * 1e6:0.0}"]);
        }
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {size} B | {string.Join(" | ", row)} |"));
    }
}
finally
{
    File.Delete(path);
}

/// <summary>Keeps 32 random reads under way: a completion only counts, the main thread submits again.</summary>
internal sealed unsafe class Load : IReadCompletion, IDisposable
{
    private const int Depth = 32;
    private readonly UnitRegion _region;
    private readonly NativeBuffer _memory;
    private readonly ReadRequest[] _requests = new ReadRequest[Depth];
    private readonly Queue<ReadRequest> _done = new(Depth);
    private readonly Random _random = new(1);

    public Load(FlashFile file, int size)
    {
        int stride = (size + 511) / 512 * 512;
        _region = new UnitRegion(file, "units", 0, (int)(file.Length / stride), stride, 0, size);
        _memory = new NativeBuffer((long)Depth * _region.SlotBytes, new MemoryLedger(), "slots");
        for (int i = 0; i < Depth; i++) _requests[i] = new ReadRequest();
    }

    public void Completed(ReadRequest request)
    {
        lock (_done)
        {
            _done.Enqueue(request);
            Monitor.Pulse(_done);
        }
    }

    public (long Reads, double Seconds, double Processor) Run(FlashReader reader, double seconds)
    {
        long reads = 0, start = Stopwatch.GetTimestamp();
        TimeSpan cpu = Process.GetCurrentProcess().TotalProcessorTime;
        for (int i = 0; i < Depth; i++) Submit(reader, _requests[i], i);
        int under = Depth;
        while (under > 0)
        {
            ReadRequest request;
            lock (_done)
            {
                while (!_done.TryDequeue(out request!)) Monitor.Wait(_done);
            }
            if (request.Error is { } error) throw new InvalidOperationException(error);
            reads++;
            if (Stopwatch.GetElapsedTime(start).TotalSeconds < seconds) Submit(reader, request, request.Slots[0]);
            else under--;
        }
        return (reads, Stopwatch.GetElapsedTime(start).TotalSeconds, (Process.GetCurrentProcess().TotalProcessorTime - cpu).TotalSeconds);
    }

    public void Dispose() => _memory.Dispose();

    private void Submit(FlashReader reader, ReadRequest request, int slot)
    {
        request.Reset(_region, ReadClass.Demand, this);
        request.TryAdd(_random.Next(_region.Count), slot, _memory.Pointer + (long)slot * _region.SlotBytes);
        while (!reader.TrySubmit(request)) Thread.Yield();
    }
}
