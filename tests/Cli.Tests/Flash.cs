using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;

namespace FlashOrleans.Cli.Tests;

/// <summary>What a finished `flash` left behind.</summary>
internal sealed record Outcome(int Code, string Out, string Error)
{
    public JsonElement Json
    {
        get
        {
            Assert.True(Code == 0, $"exit code {Code}: {Error}");
            using var document = JsonDocument.Parse(Out);
            return document.RootElement.Clone();
        }
    }
}

/// <summary>The built `flash` as a child process, its streams redirected.</summary>
internal sealed class Flash : IDisposable
{
    /// <summary>Nothing is expected to take this long, however busy the machine.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    private readonly Process _process;
    private readonly StringBuilder _out = new(), _error = new();
    private readonly Task _reading;
    private readonly List<(string Text, TaskCompletionSource Seen)> _waiting = [];

    private Flash(ProcessStartInfo start)
    {
        start.RedirectStandardInput = start.RedirectStandardOutput = start.RedirectStandardError = true;
        start.StandardOutputEncoding = start.StandardErrorEncoding = start.StandardInputEncoding = new UTF8Encoding(false);
        _process = Process.Start(start)!;
        _reading = Task.WhenAll(ReadAsync(_process.StandardOutput, _out), ReadAsync(_process.StandardError, _error));
    }

    public StreamWriter In => _process.StandardInput;

    /// <summary>Standard output so far.</summary>
    public string Seen
    {
        get { lock (_out) return _out.ToString(); }
    }

    private static string Dll => Path.Combine(AppContext.BaseDirectory, "flash.dll");

    public static Flash Start(FlashHome home, params string[] args) => new(Info(home, "dotnet", [Dll, .. args]));

    /// <summary>On a terminal of its own, by script(1); its input is typed, its output is what the terminal shows.</summary>
    public static Flash StartOnTerminal(FlashHome home, bool colours, params string[] args)
    {
        if (!OperatingSystem.IsLinux() || !File.Exists("/usr/bin/script")) Assert.Skip("needs script(1) of util-linux for a terminal");
        // exec: a shell that stayed between would get the terminal's Ctrl-C too, and end with 130 whatever its child says.
        string command = "exec " + string.Join(' ', new[] { "dotnet", Dll }.Concat(args).Select(static a => $"'{a}'"));
        var start = Info(home, "/usr/bin/script", ["-qfec", command, "/dev/null"]);
        if (!colours) start.Environment["NO_COLOR"] = "1";
        return new Flash(start);
    }

    public static async Task<Outcome> RunAsync(FlashHome home, params string[] args)
    {
        using var flash = Start(home, args);
        flash.In.Close();
        return await flash.EndAsync();
    }

    public async Task<Outcome> EndAsync()
    {
        await _process.WaitForExitAsync().WaitAsync(Patience);
        await _reading.WaitAsync(Patience);
        lock (_out) return new Outcome(_process.ExitCode, _out.ToString(), _error.ToString());
    }

    /// <summary>Completes when the text has appeared on either stream, counted from the last call that found one; fails when the process ends without it.</summary>
    public async Task SeeAsync(string text)
    {
        var seen = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_out)
        {
            _waiting.Add((text, seen));
            Look();
        }
        if (await Task.WhenAny(seen.Task, _reading).WaitAsync(Patience) != seen.Task && !seen.Task.IsCompleted)
            Assert.Fail($"'{text}' did not appear. Output: {_out} Errors: {_error}");
    }

    /// <summary>Text to the terminal.</summary>
    public async Task TypeAsync(string text)
    {
        await In.WriteAsync(text);
        await In.FlushAsync();
    }

    public void Signal(int signal) => Assert.Equal(0, kill(_process.Id, signal));

    public void Dispose()
    {
        if (!_process.HasExited) _process.Kill(entireProcessTree: true);
        _process.Dispose();
    }

    private async Task ReadAsync(StreamReader reader, StringBuilder to)
    {
        char[] buffer = new char[4096];
        int read;
        while ((read = await reader.ReadAsync(buffer)) > 0)
        {
            lock (_out)
            {
                to.Append(buffer, 0, read);
                Look();
            }
        }
    }

    private int _lookedOut, _lookedError;

    private void Look()
    {
        _waiting.RemoveAll(wait =>
        {
            int at = _out.ToString(_lookedOut, _out.Length - _lookedOut).IndexOf(wait.Text, StringComparison.Ordinal);
            int errorAt = _error.ToString(_lookedError, _error.Length - _lookedError).IndexOf(wait.Text, StringComparison.Ordinal);
            if (at < 0 && errorAt < 0) return false;
            if (at >= 0) _lookedOut += at + wait.Text.Length;
            else _lookedError += errorAt + wait.Text.Length;
            wait.Seen.TrySetResult();
            return true;
        });
    }

    private static ProcessStartInfo Info(FlashHome home, string program, IEnumerable<string> args)
    {
        var start = new ProcessStartInfo(program, args) { WorkingDirectory = home.Folder };
        start.Environment["FLASH_HOME"] = home.Folder;
        // A terminal that could take colours: what is redirected must stay plain all the same.
        start.Environment["TERM"] = "xterm-256color";
        start.Environment.Remove("NO_COLOR");
        start.Environment.Remove("FLASH_DEBUG");
        start.Environment.Remove("FLASH_KERNELS");
        start.Environment.Remove("HF_TOKEN");
        start.Environment.Remove("HF_ENDPOINT");
        foreach ((string name, string value) in home.Environment) start.Environment[name] = value;
        return Interruptible.Make(start);
    }

    [DllImport("libc", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int kill(int process, int signal);
}
