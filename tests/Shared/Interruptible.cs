using System.Diagnostics;

namespace FlashOrleans.Tests;

/// <summary>
/// Child processes that Ctrl-C reaches. A test run that a script started in the background has SIGINT ignored, and what is ignored stays so in every child: a
/// test that sends it would wait for ever. env(1) gives the child the default back and becomes the program, so the process id is the same.
/// </summary>
internal static class Interruptible
{
    private const int SigInt = 2;

    public static ProcessStartInfo Make(ProcessStartInfo start)
    {
        if (!IsIgnored()) return start;
        start.ArgumentList.Insert(0, start.FileName);
        start.ArgumentList.Insert(0, "--default-signal=INT");
        start.FileName = "/usr/bin/env";
        return start;
    }

    private static bool IsIgnored()
    {
        const string status = "/proc/self/status", ignored = "SigIgn:";
        if (!File.Exists(status)) return false;
        string? line = File.ReadLines(status).FirstOrDefault(l => l.StartsWith(ignored, StringComparison.Ordinal));
        return line != null && (Convert.ToUInt64(line[ignored.Length..].Trim(), 16) >> (SigInt - 1) & 1) != 0;
    }
}
