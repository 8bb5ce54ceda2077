using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace FlashOrleans.Tests;

/// <summary>A redis-server of a test's own on a free port, in a folder of its own; killed when the test is done with it. Where there is no such program the test is skipped.</summary>
internal sealed class RedisServer : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-redis-").FullName;
    private readonly string[] _arguments;
    private Process _process;
    private int _databases;

    private RedisServer(string[] arguments)
    {
        using (var free = new TcpListener(IPAddress.Loopback, 0))
        {
            free.Start();
            Port = ((IPEndPoint)free.LocalEndpoint).Port;
        }
        _arguments = ["--port", $"{Port}", "--bind", "127.0.0.1", "--dir", _folder, "--save", "", "--databases", "1000", .. arguments];
        _process = Run();
    }

    public int Port { get; }

    /// <summary>A database that nothing was written to yet.</summary>
    public string Fresh(string user = "") => $"redis://{user}127.0.0.1:{Port}/{_databases++}";

    public static RedisServer Start(params string[] arguments)
    {
        Assert.SkipUnless(Program() is not null, "needs redis-server, of the package redis-server");
        return new RedisServer(arguments);
    }

    /// <summary>SIGKILL.</summary>
    public void Kill()
    {
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }

    /// <summary>After a kill: on the same port, with what its files hold.</summary>
    public void Restart() => _process = Run();

    public void Dispose()
    {
        Kill();
        Directory.Delete(_folder, recursive: true);
    }

    private static string? Program() =>
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Select(static folder => Path.Combine(folder, "redis-server")).FirstOrDefault(File.Exists);

    private Process Run()
    {
        var process = new Process { StartInfo = new ProcessStartInfo(Program()!, _arguments) { RedirectStandardOutput = true, RedirectStandardError = true } };
        using var ready = new ManualResetEventSlim();
        process.OutputDataReceived += (_, line) =>
        {
            if (line.Data?.Contains("Ready to accept connections", StringComparison.Ordinal) == true) ready.Set();
        };
        process.Start();
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        if (ready.Wait(TimeSpan.FromMinutes(1))) return process;
        process.Kill();
        throw new InvalidOperationException("redis-server did not start");
    }
}
