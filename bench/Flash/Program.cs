using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using FlashOrleans.Flash;

// What random reads cost, by threads, by io_uring, by io_uring into memory that is lent to it, and by fio where it is installed, in turn, on a file made here and read past the page cache:
//   dotnet run -c Release --project bench/Flash -- FOLDER [GIGABYTES] [SECONDS] [ROUNDS]
// Medians over the rounds. Processor time is that of the whole process: submitting, kernel, waking, and nothing else; "ring" that of the thread of the ring alone.
string folder = args.Length > 0 ? args[0] : Path.GetTempPath();
long bytes = (long)(double.Parse(args.Length > 1 ? args[1] : "4", CultureInfo.InvariantCulture) * (1L << 30));
double seconds = double.Parse(args.Length > 2 ? args[2] : "1", CultureInfo.InvariantCulture);
int rounds = int.Parse(args.Length > 3 ? args[3] : "3", CultureInfo.InvariantCulture);
string path = Path.Combine(folder, $"flash-bench-{Environment.ProcessId}.bin");
string[] ways = ["threads", "io_uring", "io_uring, lent", "fio"];
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
    Console.WriteLine($"{Environment.ProcessorCount} processors, {bytes >> 30} GiB, {file.Access}, {ReadLoad.Depth} reads under way ({ReadLoad.Depth} threads)");
    Console.WriteLine($"| a read |{string.Concat(ways.Select(static w => $" {w}: GB/s | reads/s | processor µs (ring) |"))}");
    Console.WriteLine($"|---|{string.Concat(ways.Select(static _ => "---|---|---|"))}");
    foreach (int size in new[] { 4608, 7168, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 3456 << 10 })
    {
        var figures = ways.ToDictionary(static w => w, static _ => new List<(double Rate, double Cpu, double Ring)>());
        for (int round = 0; round < rounds; round++)
            foreach (string way in ways)
                if (Measure(way, file, size) is { } figure) figures[way].Add(figure);
        string row = string.Concat(ways.Select(way => figures[way].Count == 0 ? " | | |" : string.Create(CultureInfo.InvariantCulture,
            $" {Median(figures[way], static f => f.Rate) * size / 1e9:0.00} | {Median(figures[way], static f => f.Rate):0} | {Median(figures[way], static f => f.Cpu):0.0}{(way.StartsWith("io_", StringComparison.Ordinal) ? $" ({Median(figures[way], static f => f.Ring):0.0})" : "")} |")));
        Console.WriteLine($"| {size} B |{row}");
    }
}
finally
{
    File.Delete(path);
}

double Median(List<(double, double, double)> of, Func<(double Rate, double Cpu, double Ring), double> what) => of.Select(what).Order().ElementAt(of.Count / 2);

(double Rate, double Cpu, double Ring)? Measure(string way, DirectFile file, int size)
{
    if (way == "fio") return Fio(size);
    bool ring = way != "threads", lend = way.EndsWith("lent", StringComparison.Ordinal);
    using var load = new ReadLoad([file], size);
    using var reader = new FlashReader(ring ? FlashReader.DefaultThreads : ReadLoad.Depth, ring: ring);
    if (ring && reader.Method != "io_uring") return null;
    load.Run(reader, 0.2, lend);
    long ringBefore = reader.Stats.RingNanos;
    TimeSpan before = Process.GetCurrentProcess().TotalProcessorTime;
    var (reads, took) = load.Run(reader, seconds, lend);
    double cpu = (Process.GetCurrentProcess().TotalProcessorTime - before).TotalSeconds;
    return (reads / took, cpu / reads * 1e6, (reader.Stats.RingNanos - ringBefore) / 1e3 / reads);
}

(double, double, double)? Fio(int size)
{
    string arguments = $"--name=flash --filename={path} --readonly --direct=1 --ioengine=io_uring --rw=randread --bs={size} --iodepth={ReadLoad.Depth} --iodepth_batch_submit=16 --iodepth_batch_complete_min=16 --iodepth_batch_complete_max={ReadLoad.Depth} --fixedbufs --registerfiles --time_based --size={bytes} --output-format=json --runtime={Math.Max(1, (int)Math.Round(seconds))}";
    try
    {
        using Process fio = Process.Start(new ProcessStartInfo("fio", arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        using JsonDocument said = JsonDocument.Parse(fio.StandardOutput.ReadToEnd());
        JsonElement job = said.RootElement.GetProperty("jobs")[0], read = job.GetProperty("read");
        double reads = read.GetProperty("total_ios").GetDouble();
        return (read.GetProperty("iops").GetDouble(), job.GetProperty("job_runtime").GetDouble() * 10 * (job.GetProperty("usr_cpu").GetDouble() + job.GetProperty("sys_cpu").GetDouble()) / reads, 0);
    }
    catch (Exception e) when (e is System.ComponentModel.Win32Exception or JsonException)
    {
        return null;
    }
}
