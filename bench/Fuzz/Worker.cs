using System.Diagnostics;

namespace FlashOrleans.Fuzz.Bench;

/// <summary>One thread's cases of one format, in a folder of its own, and what they came to. A case is a function of (seed, number), so that it repeats alone.</summary>
internal sealed class Worker
{
    private readonly Format _format;
    private readonly int _seed;
    private readonly string _folder;
    private long _started;

    public Worker(Format format, int seed, string folder)
    {
        (_format, _seed, _folder) = (format, seed, folder);
        Directory.CreateDirectory(Path.Combine(folder, "files"));
    }

    public int Number { get; private set; }
    public int Read { get; private set; }
    public int Refused { get; private set; }
    public string? Refusal { get; private set; }
    public (double Ms, int Number) Longest { get; private set; }
    public (long Bytes, int Number) Most { get; private set; }
    /// <summary>Of the case under way; any thread.</summary>
    public double RunningSeconds => Volatile.Read(ref _started) is var started && started == 0 ? 0 : Stopwatch.GetElapsedTime(started).TotalSeconds;

    /// <summary>Null, or what is wrong with how the case was answered.</summary>
    public string? Run(int number, double mostSeconds, long mostBytes)
    {
        Number = number;
        File.WriteAllText(Path.Combine(_folder, "case"), $"{_format.Name} --seed {_seed} --case {number}");
        Action read = _format.Prepare(new Random(Mix(_seed, number)), Path.Combine(_folder, "files"));
        string? wrong = null;
        Refusal = null;
        long bytes = GC.GetAllocatedBytesForCurrentThread(), started = Stopwatch.GetTimestamp();
        Volatile.Write(ref _started, started);
        try
        {
            read();
            Read++;
        }
        catch (Exception e) when (e.GetType() == _format.Refusal)
        {
            Refused++;
            Refusal = e.Message;
        }
        catch (Exception e)
        {
            wrong = e.ToString();
        }
        Volatile.Write(ref _started, 0);
        double ms = Stopwatch.GetElapsedTime(started).TotalMilliseconds;
        bytes = GC.GetAllocatedBytesForCurrentThread() - bytes;
        if (ms > Longest.Ms) Longest = (ms, number);
        if (bytes > Most.Bytes) Most = (bytes, number);
        if (wrong != null) return wrong;
        if (Refusal is { } text && (text.Length == 0 || text.AsSpan().ContainsAny("\n\r\u2028\u2029\u0085"))) return $"was refused in other than one line: {text}";
        if (ms > mostSeconds * 1000) return $"took {ms:0} ms";
        return bytes > mostBytes ? $"allocated {bytes} bytes" : null;
    }

    /// <summary>Neighbouring seeds give Random neighbouring numbers; these are no neighbours.</summary>
    private static int Mix(int seed, int number)
    {
        ulong x = ((ulong)(uint)seed << 32 | (uint)number) + 0x9e3779b97f4a7c15;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
        x = (x ^ x >> 27) * 0x94d049bb133111eb;
        return (int)(x ^ x >> 31);
    }
}
