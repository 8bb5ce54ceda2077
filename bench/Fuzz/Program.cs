using System.Diagnostics;
using System.Globalization;

namespace FlashOrleans.Fuzz.Bench;

/// <summary>
/// Damaged files of every format that is read from strangers (<see cref="Format.All"/>): each is read or refused by its format's own exception, in one line, and nothing else.
/// <c>bench/Fuzz [CASES=100000] [FORMAT…] [--seed N] [--case N]</c>, at the root of the repository; one line of the table a format. What goes wrong is told with what repeats it,
/// and the exit code is 1. The case under way is in the file "case" of its thread's folder, for when the process itself does not survive. Memory is what was allocated on the managed heap.
/// </summary>
internal static class Program
{
    private const double MostSeconds = 5;
    /// <summary>A case that goes on for so long will not end.</summary>
    private const double Endless = 60;
    private const long MostBytes = 256L << 20;

    private static int Main(string[] args)
    {
        int cases = 100_000, seed = 1, only = -1;
        var names = new List<string>();
        for (int i = 0; i < args.Length; i++)
        {
            bool option = args[i] is "--seed" or "--case";
            bool number = int.TryParse(args[option && i + 1 < args.Length ? i + 1 : i], NumberStyles.None, CultureInfo.InvariantCulture, out int n);
            if (option && !number || !option && !number && !Format.All.Any(f => f.Name == args[i]))
            {
                Console.Error.WriteLine($"bench/Fuzz [CASES=100000] [FORMAT…] [--seed N] [--case N]; formats: {string.Join(", ", Format.All.Select(static f => f.Name))}");
                return 2;
            }
            if (args[i] == "--seed") seed = n;
            else if (args[i] == "--case") only = n;
            else if (number) cases = n;
            else names.Add(args[i]);
            if (option) i++;
        }
        if (!Directory.Exists(Path.Combine("tests", "data")))
        {
            Console.Error.WriteLine("tests/data: there is no such folder; run this at the root of the repository");
            return 2;
        }
        Format[] formats = [.. Format.All.Where(f => names.Count == 0 || names.Contains(f.Name))];
        string folder = Path.Combine(Directory.Exists("/dev/shm") ? "/dev/shm" : Path.GetTempPath(), "flash-fuzz-" + Path.GetRandomFileName());
        try
        {
            if (only >= 0) return formats.Select(f => Repeat(f, seed, only, folder)).ToArray().All(static good => good) ? 0 : 1;
            Console.WriteLine("| format | cases | read | refused | seconds | longest case ms | most allocated by a case |");
            Console.WriteLine("|---|---|---|---|---|---|---|");
            return formats.Select(f => Row(f, seed, cases, folder)).ToArray().All(static good => good) ? 0 : 1;
        }
        finally
        {
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
        }
    }

    private static bool Repeat(Format format, int seed, int number, string folder)
    {
        var worker = new Worker(format, seed, folder);
        string? wrong = worker.Run(number, MostSeconds, MostBytes);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{format.Name}, seed {seed}, case {number}: {wrong ?? worker.Refusal ?? "read"} ({worker.Longest.Ms:0.0} ms, {worker.Most.Bytes} bytes)"));
        return wrong == null;
    }

    private static bool Row(Format format, int seed, int cases, string folder)
    {
        int next = -1, wrong = 0;
        Worker[] workers = [.. Enumerable.Range(0, Environment.ProcessorCount).Select(i => new Worker(format, seed, Path.Combine(folder, format.Name, i.ToString(CultureInfo.InvariantCulture))))];
        var clock = Stopwatch.StartNew();
        Thread[] threads = [.. workers.Select(worker => new Thread(() =>
        {
            for (int number; (number = Interlocked.Increment(ref next)) < cases;)
            {
                if (worker.Run(number, MostSeconds, MostBytes) is not { } what) continue;
                Interlocked.Increment(ref wrong);
                Tell(format, seed, number, what);
            }
        }) { IsBackground = true })];
        foreach (Thread thread in threads) thread.Start();
        foreach (Thread thread in threads)
        {
            while (!thread.Join(1000))
            {
                if (workers.FirstOrDefault(static w => w.RunningSeconds > Endless) is not { } stuck) continue;
                Tell(format, seed, stuck.Number, $"did not end in {Endless} seconds; the format is given up");
                Volatile.Write(ref next, cases);
                return false;
            }
        }
        (double ms, int slow) = workers.Max(static w => w.Longest);
        (long bytes, int large) = workers.Max(static w => w.Most);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"| {format.Name} | {cases} | {workers.Sum(static w => w.Read)} | {workers.Sum(static w => w.Refused)} | {clock.Elapsed.TotalSeconds:0} | {ms:0} (case {slow}) | {bytes / 1048576.0:0.0} MiB (case {large}) |"));
        return wrong == 0;
    }

    private static void Tell(Format format, int seed, int number, string what) =>
        Console.Error.WriteLine($"{format.Name}, seed {seed}, case {number}: {what}\n  again: bench/Fuzz {format.Name} --seed {seed} --case {number}");
}
