using FlashOrleans.Models.Hub;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Hub;

/// <summary>A hub, a clock, a folder for downloads, and pulls between them.</summary>
internal sealed class PullBench : IDisposable
{
    public const string Repository = "fox/lantern";
    /// <summary>Small, so that a file has several pieces.</summary>
    public const int PieceBytes = 100_000;

    public FakeHub Hub { get; } = new();
    public HurriedClock Clock { get; } = new();
    public string Downloads { get; } = Directory.CreateTempSubdirectory("flash-pull").FullName;
    public string? Token { get; set; }
    public long Free { get; set; } = long.MaxValue / 2;
    public int Connections { get; set; } = 3;
    public Action<PullProgress>? Progress { get; set; }

    public void Dispose()
    {
        Hub.Dispose();
        Hub.Storage?.Dispose();
        Directory.Delete(Downloads, recursive: true);
    }

    /// <summary>A repository with one GGUF file of these bytes.</summary>
    public byte[] AddModel(int bytes = 5 * PieceBytes + 77, string name = "lantern-Q8_0.gguf")
    {
        byte[] content = new byte[bytes];
        new Random(bytes).NextBytes(content);
        if (!Hub.Repositories.TryGetValue(Repository, out var files)) files = Hub.Add(Repository);
        files[name] = content;
        return content;
    }

    public HubPull Pull() => new(new HubOptions
    {
        Endpoint = Hub.Url,
        Token = Token,
        Time = Clock,
        Silence = HurriedClock.Silence,
        PieceBytes = PieceBytes,
        JournalBytes = PieceBytes / 4,
        Connections = Connections,
        FreeBytes = _ => Free,
    }, new Immediate(p => Progress?.Invoke(p)));

    public static HubReference Reference(string text) => HubReference.TryParse(text, out HubReference? reference, out string fault) ? reference : throw new InvalidOperationException(fault);

    public async Task<PullPlan> PlanAsync(string reference = Repository, CancellationToken cancel = default)
    {
        using HubPull pull = Pull();
        return await pull.PlanAsync(Reference(reference), Downloads, cancel);
    }

    /// <summary>Plan and download.</summary>
    public async Task<PullPlan> RunAsync(string reference = Repository, long packageBytes = 0, CancellationToken cancel = default)
    {
        using HubPull pull = Pull();
        PullPlan plan = await pull.PlanAsync(Reference(reference), Downloads, cancel);
        using PullFolder folder = await pull.DownloadAsync(plan, packageBytes, false, cancel);
        return plan;
    }

    public async Task<string> FailureAsync(string reference = Repository, long packageBytes = 0)
    {
        string message = (await Assert.ThrowsAsync<HubException>(() => RunAsync(reference, packageBytes))).Message;
        Assert.DoesNotContain('\n', message);
        return message;
    }

    /// <summary>Files below the downloads, their paths relative to it.</summary>
    public string[] Files() => [.. Directory.EnumerateFiles(Downloads, "*", SearchOption.AllDirectories).Select(f => Path.GetRelativePath(Downloads, f)).Order(StringComparer.Ordinal)];

    public static string ModelFile(PullPlan plan) => Path.Combine(plan.Folder, "lantern-Q8_0.gguf");

    private sealed class Immediate(Action<PullProgress> act) : IProgress<PullProgress>
    {
        public void Report(PullProgress value) => act(value);
    }
}
