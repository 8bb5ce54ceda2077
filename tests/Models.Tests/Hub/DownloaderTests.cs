using System.Globalization;
using System.Text;
using FlashOrleans.Models.Hub;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Hub;

/// <summary>Connections that break, servers that lie, and what is on disk afterwards.</summary>
public sealed class DownloaderTests : IDisposable
{
    private const int Piece = PullBench.PieceBytes;
    private readonly PullBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Fact]
    public async Task A_file_comes_in_ranges_that_cover_it_once_and_nothing_else_is_left_beside_it()
    {
        byte[] content = _bench.AddModel();
        PullPlan plan = await _bench.RunAsync();
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
        Assert.Equal(Enumerable.Range(0, 6).Select(i => ((long)i * Piece, Math.Min((i + 1L) * Piece, content.Length))), Ranges().Order());
        Assert.Equal(["fox--lantern--lantern-Q8_0/lantern-Q8_0.gguf"], _bench.Files());
        Assert.Empty(_bench.Clock.Waits);
    }

    [Fact]
    public async Task Progress_counts_up_to_all_bytes_of_all_files()
    {
        var files = _bench.Hub.Add(PullBench.Repository);
        byte[] config = files["config.json"] = File.ReadAllBytes(Path.Combine(TestData.Golden("llama-relu"), "config.json"));
        files["model.safetensors"] = new byte[3 * Piece];
        files["tokenizer.json"] = [];
        long last = 0, most = 0;
        bool down = false;
        _bench.Progress = p =>
        {
            down |= p.Done < last;
            (last, most) = (p.Done, Math.Max(most, p.Done));
            if (p.Total != 0) Assert.Equal(3 * Piece + config.Length, p.Total);
        };
        await _bench.RunAsync();
        Assert.False(down);
        Assert.Equal(3 * Piece + config.Length, most);
        Assert.Equal(3, _bench.Files().Length);
    }

    [Fact]
    public async Task After_a_cut_only_what_is_missing_is_asked_for_again()
    {
        byte[] content = _bench.AddModel();
        bool cut = false;
        _bench.Hub.Answer = r => r.Range is (Piece, _) && !cut && (cut = true) ? FakeHub.File(content, r) with { CutAfter = 40_000 } : null;
        PullPlan plan = await _bench.RunAsync();
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
        Assert.Single(_bench.Clock.Waits);
        // How much of the 40 000 came through a reset is the network's affair; not nothing of them is asked for again, and not more.
        (long from, long to) = Assert.Single(Ranges(), r => r.From != Piece && r.From > Piece && r.From < 2 * Piece);
        Assert.Equal(2 * Piece, to);
        Assert.InRange(from, Piece + 1, Piece + 40_000);
    }

    [Fact]
    public async Task A_server_that_always_cuts_is_given_up_and_the_next_pull_goes_on_there()
    {
        byte[] content = _bench.AddModel();
        _bench.Hub.Answer = r => r.Range is (2 * Piece, _) ? new FakeReply(206, []) { Announced = Piece, Headers = { ["Content-Range"] = $"bytes {2 * Piece}-{3 * Piece - 1}/{content.Length}" } } : null;
        _bench.Connections = 1;
        string message = await _bench.FailureAsync();
        Assert.Contains($"tried {HubRetries.Attempts} times; run the command again later, it goes on where it stopped", message, StringComparison.Ordinal);
        Assert.Equal(["fox--lantern--lantern-Q8_0/lantern-Q8_0.gguf.part", "fox--lantern--lantern-Q8_0/lantern-Q8_0.gguf.part.journal"], _bench.Files());
        int before = _bench.Hub.Requests.Count;
        _bench.Hub.Answer = null;
        PullPlan plan = await _bench.RunAsync();
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
        Assert.Equal([2 * Piece, 3 * Piece, 4 * Piece, 5 * Piece], Ranges(before).Select(r => r.From));
    }

    [Fact]
    public async Task A_cancelled_pull_keeps_every_byte_that_arrived_and_the_next_one_asks_for_the_others_only()
    {
        byte[] content = _bench.AddModel();
        _bench.Connections = 1;
        using var cancel = new CancellationTokenSource();
        _bench.Hub.Answer = r =>
        {
            if (r.Range is not (3 * Piece, _)) return null;
            cancel.Cancel();
            return FakeHub.File(content, r) with { CutAfter = 0, FallSilent = true };
        };
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => _bench.RunAsync(cancel: cancel.Token));
        int before = _bench.Hub.Requests.Count;
        long resumed = -1;
        _bench.Progress = p => { if (resumed < 0 && p.Step == PullMeter.Downloading) resumed = p.Done; };
        _bench.Hub.Answer = null;
        PullPlan plan = await _bench.RunAsync();
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
        Assert.Equal([3 * Piece, 4 * Piece, 5 * Piece], Ranges(before).Select(r => r.From));
        Assert.InRange(resumed, 3 * Piece, 4 * Piece);
    }

    [Fact]
    public async Task A_connection_that_falls_silent_is_given_up_and_its_piece_asked_for_again()
    {
        byte[] content = _bench.AddModel();
        bool silent = false;
        _bench.Hub.Answer = r => r.Range is (Piece, _) && !silent && (silent = true) ? FakeHub.File(content, r) with { CutAfter = 1000, FallSilent = true } : null;
        Task<PullPlan> pull = _bench.RunAsync();
        await _bench.Hub.Silent;
        // The watch may just be wound up anew for the bytes that came: it ends as often as it takes.
        while (_bench.Clock.Waits.Count == 0 && !pull.IsCompleted)
        {
            _bench.Clock.EndSilence();
            await Task.Yield();
        }
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(await pull)));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public async Task A_server_that_ignores_ranges_gives_the_whole_file_once(int connections)
    {
        byte[] content = _bench.AddModel();
        _bench.Connections = connections;
        _bench.Hub.Answer = r => r.Path.Contains("/resolve/", StringComparison.Ordinal) ? new FakeReply(200, content) : null;
        PullPlan plan = await _bench.RunAsync();
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
        FakeRequest whole = Assert.Single(_bench.Hub.Requests, r => r.Path.Contains("/resolve/", StringComparison.Ordinal) && r.Range == null);
        Assert.Same(whole, _bench.Hub.Requests[^1]);
    }

    [Fact]
    public async Task A_whole_file_that_is_cut_begins_at_its_first_byte_again()
    {
        byte[] content = _bench.AddModel();
        int whole = 0;
        _bench.Hub.Answer = r => !r.Path.Contains("/resolve/", StringComparison.Ordinal) ? null
            : r.Range == null && whole++ < 2 ? new FakeReply(200, content) { CutAfter = 3 * Piece } : new FakeReply(200, content);
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(await _bench.RunAsync())));
        Assert.Equal(2, _bench.Clock.Waits.Count);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(-1)]
    public async Task A_byte_that_went_wrong_once_costs_one_more_download_and_always_costs_the_pull(int times)
    {
        byte[] content = _bench.AddModel();
        _bench.Connections = 1;
        int left = times;
        _bench.Hub.Answer = r =>
        {
            if (r.Range is not (Piece, _) || left-- == 0) return null;
            FakeReply reply = FakeHub.File(content, r);
            reply.Body[777] ^= 1;
            return reply;
        };
        if (times > 0)
        {
            Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(await _bench.RunAsync())));
            Assert.Equal(12, Ranges().Count());
            return;
        }
        Assert.Contains("lantern-Q8_0.gguf: arrived damaged twice", await _bench.FailureAsync(), StringComparison.Ordinal);
        Assert.Equal(12, Ranges().Count());
        Assert.Empty(_bench.Files());
    }

    [Fact]
    public async Task A_small_file_is_checked_against_the_id_that_git_gives_it()
    {
        var files = _bench.Hub.Add(PullBench.Repository);
        files["config.json"] = Encoding.UTF8.GetBytes("{\"a\": 1}");
        files["model.safetensors"] = new byte[10];
        _bench.Hub.Answer = r => r.Path.EndsWith("/config.json", StringComparison.Ordinal) ? new FakeReply(200, Encoding.UTF8.GetBytes("{\"a\": 2}")) : null;
        Assert.Contains("config.json: arrived damaged twice", await _bench.FailureAsync(), StringComparison.Ordinal);
        Assert.DoesNotContain(_bench.Files(), f => f.EndsWith("config.json", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_file_that_changes_between_pieces_is_begun_again()
    {
        byte[] content = _bench.AddModel(), old = [.. content];
        old[5] ^= 1;
        int asked = 0;
        _bench.Connections = 1;
        _bench.Hub.Answer = r =>
        {
            if (r.Range == null) return null;
            bool before = asked++ < 2;
            FakeReply reply = FakeHub.File(before ? old : content, r);
            reply.Headers["ETag"] = before ? "\"old\"" : "\"new\"";
            return reply;
        };
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(await _bench.RunAsync())));
        // Two of the old, one that tells, then all six: the sum was not what found it.
        Assert.Equal(9, asked);
    }

    [Fact]
    public async Task Without_a_checksum_a_file_that_keeps_changing_is_refused()
    {
        using var server = new FakeHub();
        byte[] content = new byte[3 * Piece];
        int tag = 0;
        server.Answer = r =>
        {
            FakeReply reply = FakeHub.File(content, r);
            reply.Headers["ETag"] = $"\"{tag++}\"";
            return reply;
        };
        Assert.Contains("changes the file while it is downloaded", await _bench.FailureAsync($"{server.Url}a.gguf"), StringComparison.Ordinal);
        Assert.Empty(_bench.Files());
    }

    [Theory]
    [InlineData("longer", "announces 100 bytes where 50 were listed")]
    [InlineData("shorter", "announces 20 bytes where 50 were listed")]
    [InlineData("endless", "sends more than the 50 bytes that are listed")]
    [InlineData("early", "ends after 20 of 50 bytes; tried 8 times")]
    [InlineData("cut", "was cut; tried 8 times")]
    [InlineData("linked", "lists 50 bytes and offers 51")]
    [InlineData("other", "lists other content than it offers")]
    [InlineData("page", "announces 6 bytes where 50 were listed")]
    public async Task A_length_that_is_not_the_listed_one_is_found_out(string lie, string says)
    {
        byte[] content = _bench.AddModel(50);
        _bench.Hub.LargestGitFile = 0;
        _bench.Hub.Answer = r => !r.Path.Contains("/resolve/", StringComparison.Ordinal) ? null : lie switch
        {
            "longer" => new FakeReply(200, new byte[100]),
            "shorter" => new FakeReply(200, content[..20]),
            "endless" => new FakeReply(200, new byte[100]) { Announced = -1 },
            "early" => r.Range is var (from, _) && from > 0
                ? new FakeReply(206, []) { Announced = -1, Headers = { ["Content-Range"] = $"bytes {from}-49/50" } }
                : new FakeReply(200, content[..20]) { Announced = -1 },
            "cut" => r.Range is var (from, _) && from > 0
                ? new FakeReply(206, []) { Announced = 50 - from, Headers = { ["Content-Range"] = $"bytes {from}-49/50" } }
                : new FakeReply(200, content[..20]) { Announced = 50 },
            "linked" => new FakeReply(200, content) { Headers = { ["X-Linked-Size"] = "51" } },
            "other" => new FakeReply(200, content) { Headers = { ["X-Linked-ETag"] = new string('0', 64) } },
            _ => new FakeReply(200, "<html>"u8.ToArray()),
        };
        Assert.Contains(says, await _bench.FailureAsync(), StringComparison.Ordinal);
        Assert.DoesNotContain(_bench.Files(), f => f.EndsWith(".gguf", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_range_that_is_not_the_one_asked_for_is_found_out()
    {
        byte[] content = _bench.AddModel();
        _bench.Hub.Answer = r => r.Range is (Piece, var to)
            ? new FakeReply(206, content[..Piece]) { Headers = { ["Content-Range"] = $"bytes 0-{Piece - 1}/{content.Length}" } } : null;
        Assert.Contains("answers another range", await _bench.FailureAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Without_room_for_download_and_package_nothing_is_asked_of_the_disk()
    {
        byte[] content = _bench.AddModel();
        _bench.Free = content.Length + 999;
        string message = await _bench.FailureAsync(packageBytes: 1000);
        Assert.Contains("do not fit", message, StringComparison.Ordinal);
        Assert.Contains("make room", message, StringComparison.Ordinal);
        Assert.DoesNotContain(_bench.Hub.Requests, r => r.Path.Contains("/resolve/", StringComparison.Ordinal));
        _bench.Free = content.Length + 1000;
        await _bench.RunAsync(packageBytes: 1000);
    }

    [Fact]
    public async Task What_is_there_already_needs_no_room_and_no_request()
    {
        _bench.AddModel();
        PullPlan plan = await _bench.RunAsync();
        int before = _bench.Hub.Requests.Count;
        _bench.Free = 0;
        await _bench.RunAsync();
        Assert.Empty(Ranges(before));
        // The same length and other bytes: not it.
        byte[] content = File.ReadAllBytes(PullBench.ModelFile(plan));
        content[^1] ^= 1;
        File.WriteAllBytes(PullBench.ModelFile(plan), content);
        _bench.Free = long.MaxValue / 2;
        await _bench.RunAsync();
        content[^1] ^= 1;
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
    }

    [Theory]
    [InlineData("0 100000\n200000 300000\n", 4)]
    [InlineData("0 100000\n200000 300000\n300000 4000", 4)]
    [InlineData("0 100000\n200000 300000\n300000", 4)]
    [InlineData("0 60000\n50000 100000\n", 5)]
    [InlineData("0 100000\n9 8\n", 6)]
    [InlineData("0 100000\n0 999999999\n", 6)]
    [InlineData("0 100000\nnonsense\n", 6)]
    [InlineData("", 6)]
    public async Task A_killed_pull_is_resumed_from_what_its_journal_vouches_for(string journal, int asked)
    {
        byte[] content = _bench.AddModel();
        PullPlan plan = await _bench.PlanAsync();
        Leave(plan, content, content.Length, plan.Files[0].Identity, journal);
        await _bench.RunAsync();
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
        Assert.Equal(asked, Ranges().Count());
        Assert.Single(_bench.Files());
    }

    [Fact]
    public async Task Remains_of_other_content_or_of_another_length_are_not_used()
    {
        byte[] content = _bench.AddModel();
        PullPlan plan = await _bench.PlanAsync();
        foreach ((int length, string identity) in new[] { (content.Length, "sha256:" + new string('0', 64)), (content.Length - 1, plan.Files[0].Identity) })
        {
            int before = _bench.Hub.Requests.Count;
            Leave(plan, new byte[length], length, identity, "0 500000\n");
            await _bench.RunAsync();
            Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
            Assert.Equal(6, Ranges(before).Count());
            File.Delete(PullBench.ModelFile(plan));
        }
    }

    [Fact]
    public async Task A_part_whose_noted_bytes_are_wrong_is_found_by_its_sum_and_begun_again()
    {
        byte[] content = _bench.AddModel();
        PullPlan plan = await _bench.PlanAsync();
        Leave(plan, new byte[content.Length], content.Length, plan.Files[0].Identity, $"0 {content.Length}\n");
        await _bench.RunAsync();
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
    }

    [Fact]
    public async Task Files_that_the_repository_no_longer_has_leave_the_folder()
    {
        _bench.AddModel();
        PullPlan plan = await _bench.PlanAsync();
        Directory.CreateDirectory(plan.Folder);
        File.WriteAllText(Path.Combine(plan.Folder, "model.safetensors"), "of last year");
        await _bench.RunAsync();
        Assert.Single(_bench.Files());
    }

    [Fact]
    public async Task Two_pulls_of_one_model_do_not_write_into_each_other()
    {
        _bench.AddModel();
        using HubPull pull = _bench.Pull();
        PullPlan plan = await pull.PlanAsync(PullBench.Reference(PullBench.Repository), _bench.Downloads, default);
        using (await pull.DownloadAsync(plan, 0, false, default)) Assert.Contains("another flash pull is at work", await _bench.FailureAsync(), StringComparison.Ordinal);
        await _bench.RunAsync();
    }

    /// <summary>What a pull that was killed leaves.</summary>
    private static void Leave(PullPlan plan, byte[] content, int length, string identity, string journal)
    {
        string part = PullBench.ModelFile(plan) + PartFile.Ending;
        Directory.CreateDirectory(plan.Folder);
        File.WriteAllBytes(part, content[..length]);
        File.WriteAllText(part + ".journal", string.Create(CultureInfo.InvariantCulture, $"flash part 1 {length} {Convert.ToHexStringLower(Encoding.UTF8.GetBytes(identity))}\n{journal}"));
    }

    private IEnumerable<(long From, long To)> Ranges(int after = 0) => _bench.Hub.Requests.Skip(after).Where(r => r.Range != null).Select(r => r.Range!.Value);
}
