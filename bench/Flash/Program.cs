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
            using var load = new ReadLoad([file], size);
            using var reader = new FlashReader(ring ? FlashReader.DefaultThreads : ReadLoad.Depth, ring: ring);
            if (ring && reader.Method != "io_uring") continue;
            load.Run(reader, 0.2);
            TimeSpan before = Process.GetCurrentProcess().TotalProcessorTime;
            var (reads, took) = load.Run(reader, seconds);
            double cpu = (Process.GetCurrentProcess().TotalProcessorTime - before).TotalSeconds;
            row.AddRange([$"{reads * size / took / 1e9:0.00}", $"{reads / took:0}", $"{cpu / reads * 1e6:0.0}"]);
        }
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {size} B | {string.Join(" | ", row)} |"));
    }
}
finally
{
    File.Delete(path);
}
