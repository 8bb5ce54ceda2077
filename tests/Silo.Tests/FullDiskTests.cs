using System.Diagnostics;
using System.Text.Json;
using FlashOrleans.Engine;
using FlashOrleans.Grains;

namespace FlashOrleans.Silo.Tests;

/// <summary>A disk that really is full: a file system of its own in memory, where one may be mounted.</summary>
public sealed class FullDiskTests(EmberlingFolder models) : IDisposable
{
    private readonly string _disk = Directory.CreateTempSubdirectory("flash-full-").FullName;
    private bool _mounted;

    private string Filler => Path.Combine(_disk, "filler");

    [Fact]
    public async Task Where_sessions_cannot_be_written_they_are_refused_and_others_answered_and_with_room_again_they_go_on()
    {
        Mount("4m");
        await using FlashSilo silo = await FlashSilo.StartAsync(HttpSilo.Options(models) with { Sessions = new SessionStoreOptions { Path = Path.Combine(_disk, "sessions.db") } });
        using HttpClient http = HttpSilo.Of(silo);
        string ask = Wire.Body("\"max_tokens\": 20, \"ignore_eos\": true, \"temperature\": 0");
        string before = Wire.Content(await http.AskAsync(Wire.Chat, ask, ("x-session-id", "before")));

        Fill();
        var (status, error, response) = await http.FailAsync(Wire.Chat, ask, ("x-session-id", "new"));
        response.Dispose();
        Assert.Equal((503, "store_failed"), ((int)status, error.GetProperty("code").GetString()));
        Assert.Contains("the disk is full", error.GetProperty("message").GetString(), StringComparison.Ordinal);
        // Who keeps nothing needs no disk.
        Assert.Equal(before, Wire.Content(await http.AskAsync(Wire.Chat, ask)));

        File.Delete(Filler);
        Assert.Equal(before, Wire.Content(await http.AskAsync(Wire.Chat, ask, ("x-session-id", "new"))));
        Assert.Equal(before, Wire.Content(await http.AskAsync(Wire.Chat, ask, ("x-session-id", "before"))));
        using JsonDocument list = JsonDocument.Parse(await http.GetStringAsync("/v1/sessions"));
        Assert.Equal(2, list.RootElement.GetProperty("data").GetArrayLength());
    }

    [Fact]
    public async Task Where_keys_and_values_cannot_be_written_that_is_one_line_and_answers_are_the_same()
    {
        Mount("4m");
        List<string> log = [];
        FlashSiloOptions options = HttpSilo.Options(models);
        options = options with { Engine = options.Engine with { KvDisk = new KvDiskOptions { Folder = Path.Combine(_disk, "kv"), Bytes = 64 << 20, Log = line => { lock (log) log.Add(line); } } } };
        await using FlashSilo silo = await FlashSilo.StartAsync(options);
        using HttpClient http = HttpSilo.Of(silo);
        // The files are made while there is room, and then there is none.
        await http.AskAsync(Wire.Text, """{"model": "emberling", "prompt": "x", "max_tokens": 1}""");
        Fill();
        const string prompt = "Once upon a time there was a fox who had a lantern";
        for (int i = 0; i < 2; i++)
        {
            JsonElement reply = await http.AskAsync(Wire.Text, $$"""{"model": "emberling", "prompt": "{{prompt}}", "max_tokens": 150, "temperature": 0}""", ("x-session-id", $"s{i}"));
            Assert.Equal(models.TextAlone(prompt, 150), reply.GetProperty("choices")[0].GetProperty("text").GetString());
        }
        // Layers whose files could not be made say so each; that nothing is saved any more is said once.
        lock (log) Assert.InRange(log.Count(static l => l.Contains("no longer saved", StringComparison.Ordinal)), 0, 1);
        lock (log) Assert.NotEmpty(log);
    }

    public void Dispose()
    {
        if (_mounted) Run("umount", "-l", _disk);
        Directory.Delete(_disk, recursive: true);
    }

    private void Mount(string size)
    {
        _mounted = OperatingSystem.IsLinux() && Run("mount", "-t", "tmpfs", "-o", $"size={size}", "tmpfs", _disk);
        if (!_mounted) Assert.Skip("needs the right to mount a file system in memory");
    }

    /// <summary>To the last byte.</summary>
    private void Fill()
    {
        using var file = new FileStream(Filler, FileMode.Append, FileAccess.Write, FileShare.None, bufferSize: 0);
        byte[] page = new byte[4096];
        try
        {
            while (true) file.Write(page);
        }
        catch (IOException)
        {
            // That is what it is for.
        }
    }

    private static bool Run(string program, params string[] arguments)
    {
        try
        {
            using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, RedirectStandardOutput = true })!;
            process.WaitForExit();
            return process.ExitCode == 0;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return false;
        }
    }
}
