using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Silo.Tests;

/// <summary>A program of this build as a process of its own. Killed when the test is done with it.</summary>
internal sealed partial class Child : IDisposable
{
    private readonly StringBuilder _errors = new();
    private readonly Process _process;

    private Child(Process process)
    {
        _process = process;
        process.ErrorDataReceived += (_, line) =>
        {
            if (line.Data is null) return;
            lock (_errors) _errors.AppendLine(line.Data);
        };
        process.BeginErrorReadLine();
    }

    public StreamReader Output => _process.StandardOutput;

    public string Errors
    {
        get { lock (_errors) return _errors.ToString(); }
    }

    public static Child Start(string project, string program, params string[] arguments) => StartIn(null, project, program, arguments);

    /// <param name="home">$FLASH_HOME, where it is not that of the tests.</param>
    /// <param name="project">Whose program.</param>
    /// <param name="program">Its name.</param>
    /// <param name="arguments">And what it is told.</param>
    public static Child StartIn(string? home, string project, string program, params string[] arguments)
    {
        // artifacts/bin/Silo.Tests/debug → artifacts/bin/<project>/debug
        var here = new DirectoryInfo(AppContext.BaseDirectory);
        string folder = Path.Combine(here.Parent!.Parent!.FullName, project, here.Name);
        var start = new ProcessStartInfo(Path.Combine(folder, program)) { RedirectStandardOutput = true, RedirectStandardError = true };
        if (home is not null) start.Environment["FLASH_HOME"] = home;
        foreach (string argument in arguments) start.ArgumentList.Add(argument);
        return new Child(Process.Start(Interruptible.Make(start)) ?? throw new InvalidOperationException($"{program} did not start"));
    }

    /// <summary>The first line of output that begins so.</summary>
    public async Task<string> LineAsync(string beginning)
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromMinutes(2));
        while (await Output.ReadLineAsync(patience.Token) is { } line)
        {
            if (line.StartsWith(beginning, StringComparison.Ordinal)) return line;
        }
        throw new InvalidOperationException($"the program ended before it printed \"{beginning}\"; errors: {Errors}");
    }

    public async Task<int> ExitAsync()
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromMinutes(2));
        await _process.WaitForExitAsync(patience.Token);
        return _process.ExitCode;
    }

    /// <summary>SIGKILL.</summary>
    public void Kill() => _process.Kill();

    /// <summary>What Ctrl-C sends.</summary>
    public void Interrupt() => _ = kill(_process.Id, 2);

    public void Dispose()
    {
        if (!_process.HasExited) _process.Kill();
        _process.Dispose();
    }

    [LibraryImport("libc")]
    private static partial int kill(int process, int signal);
}
