using System.Text;
using FlashOrleans.Models.Hub;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Hub;

/// <summary>Listing, tokens, redirects, status codes, and hostile listings.</summary>
public sealed class HubProtocolTests : IDisposable
{
    private readonly PullBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Fact]
    public async Task The_listing_is_read_page_by_page()
    {
        for (int i = 0; i < 7; i++) _bench.AddModel(10, $"note-{i}.gguf");
        byte[] content = _bench.AddModel();
        _bench.Hub.PageEntries = 2;
        PullPlan plan = await _bench.RunAsync();
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
        FakeRequest[] pages = [.. _bench.Hub.Requests.Where(r => r.Path == "/api/models/fox/lantern/tree/main")];
        Assert.Equal(4, pages.Length);
        Assert.All(pages, p => Assert.StartsWith("recursive=true&expand=false", p.Query, StringComparison.Ordinal));
    }

    [Fact]
    public async Task The_token_goes_to_the_hub_and_never_to_where_it_redirects()
    {
        byte[] content = Behind(_bench.Hub.Storage = new FakeHub());
        _bench.Token = "hf_secret";
        _bench.Hub.Answer = r => r.Token == "Bearer hf_secret" ? null : new FakeReply(401, []) { Headers = { ["X-Error-Code"] = "GatedRepo" } };
        PullPlan plan = await _bench.RunAsync();
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(plan)));
        Assert.NotEmpty(_bench.Hub.Storage.Requests);
        Assert.All(_bench.Hub.Storage.Requests, r => Assert.Null(r.Token));
    }

    [Fact]
    public async Task Without_a_token_none_is_sent()
    {
        _bench.AddModel();
        await _bench.RunAsync();
        Assert.All(_bench.Hub.Requests, r => Assert.Null(r.Token));
    }

    [Fact]
    public async Task A_redirect_on_the_hub_itself_may_be_relative_and_keeps_the_token()
    {
        byte[] content = _bench.AddModel();
        _bench.Token = "hf_secret";
        _bench.Hub.Answer = r => r.Path.StartsWith("/fox/lantern/resolve", StringComparison.Ordinal) ? new FakeReply(307, []) { Headers = { ["Location"] = "/cache/lantern?x=1" } }
            : r.Path == "/cache/lantern" && r.Token == "Bearer hf_secret" ? FakeHub.File(content, r) : null;
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(await _bench.RunAsync())));
    }

    [Fact]
    public async Task A_signed_address_that_has_run_out_is_asked_for_again()
    {
        byte[] content = Behind(_bench.Hub.Storage = new FakeHub());
        int refused = 0;
        _bench.Hub.Storage.Answer = _ => refused++ < 2 ? new FakeReply(403, []) : null;
        Assert.Equal(content, File.ReadAllBytes(PullBench.ModelFile(await _bench.RunAsync())));
        Assert.Equal(2, _bench.Clock.Waits.Count);
    }

    [Theory]
    [InlineData(401, "GatedRepo", false, "is gated (401): accept its terms at http://", "set HF_TOKEN")]
    [InlineData(403, "GatedRepo", true, "the account of HF_TOKEN may not read it", "accept its terms at http://")]
    [InlineData(401, "", false, "private or gated", "set HF_TOKEN")]
    [InlineData(401, "", true, "does not accept HF_TOKEN", "")]
    [InlineData(404, "RepoNotFound", false, "does not have it (404)", "check the name")]
    [InlineData(404, "RevisionNotFound", false, "no such revision", "")]
    [InlineData(418, "", false, "answers 418", "")]
    public async Task A_refusal_is_one_line_with_the_way_out_and_is_not_tried_again(int status, string code, bool token, string what, string advice)
    {
        _bench.AddModel();
        _bench.Token = token ? "hf_secret" : null;
        _bench.Hub.Answer = _ => new FakeReply(status, Encoding.UTF8.GetBytes("<html>")) { Headers = { ["X-Error-Code"] = code } };
        string message = await _bench.FailureAsync();
        Assert.Contains(what, message, StringComparison.Ordinal);
        Assert.Contains(advice, message, StringComparison.Ordinal);
        Assert.Contains("fox/lantern", message, StringComparison.Ordinal);
        Assert.DoesNotContain("hf_secret", message, StringComparison.Ordinal);
        Assert.Single(_bench.Hub.Requests);
    }

    [Fact]
    public async Task A_gated_file_of_an_open_listing_says_the_same()
    {
        _bench.AddModel();
        _bench.Hub.Answer = r => r.Path.Contains("/resolve/", StringComparison.Ordinal) ? new FakeReply(403, []) { Headers = { ["X-Error-Code"] = "GatedRepo" } } : null;
        Assert.Contains($"accept its terms at {_bench.Hub.Url}fox/lantern and set HF_TOKEN", await _bench.FailureAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_the_server_asks_to_wait_is_waited_in_seconds_or_until_a_date()
    {
        _bench.AddModel();
        int asked = 0;
        _bench.Hub.Answer = _ => asked++ switch
        {
            0 => new FakeReply(429, []) { Headers = { ["Retry-After"] = "90" } },
            // The clock began at midnight, and the 90 s are over.
            1 => new FakeReply(503, []) { Headers = { ["Retry-After"] = "Thu, 01 Jan 2026 00:05:00 GMT" } },
            _ => null,
        };
        await _bench.RunAsync();
        Assert.Equal([TimeSpan.FromSeconds(90), TimeSpan.FromSeconds(210)], _bench.Clock.Waits);
    }

    [Fact]
    public async Task Without_a_word_from_the_server_waits_grow_and_end()
    {
        _bench.AddModel();
        var said = new List<string>();
        _bench.Progress = p => said.Add(p.Step);
        _bench.Hub.Answer = _ => new FakeReply(502, []);
        Assert.Contains($"is busy (502); tried {HubRetries.Attempts} times", await _bench.FailureAsync(), StringComparison.Ordinal);
        Assert.Equal(HubRetries.Attempts, _bench.Hub.Requests.Count);
        IReadOnlyList<TimeSpan> waits = _bench.Clock.Waits;
        Assert.Equal(HubRetries.Attempts - 1, waits.Count);
        // Jitter moves a single wait, not the order of magnitude.
        Assert.True(waits[^1] + waits[^2] > 4 * (waits[0] + waits[1]), string.Join(", ", waits));
        Assert.All(waits, w => Assert.InRange(w, TimeSpan.Zero, TimeSpan.FromSeconds(30)));
        Assert.Contains(said, s => s.StartsWith("waiting ", StringComparison.Ordinal) && s.Contains("is busy (502)", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_server_that_asks_for_an_hour_is_not_waited_for()
    {
        _bench.AddModel();
        _bench.Hub.Answer = _ => new FakeReply(429, []) { Headers = { ["Retry-After"] = "3600" } };
        Assert.Contains("asks to wait 3600 s; try again then", await _bench.FailureAsync(), StringComparison.Ordinal);
        Assert.Empty(_bench.Clock.Waits);
    }

    [Fact]
    public async Task A_hub_that_is_not_there_is_one_line_after_all_attempts()
    {
        _bench.AddModel();
        Uri gone = _bench.Hub.Url;
        _bench.Hub.Dispose();
        Assert.Contains($"{gone.Authority} cannot be reached", await _bench.FailureAsync(), StringComparison.Ordinal);
        Assert.Equal(HubRetries.Attempts - 1, _bench.Clock.Waits.Count);
    }

    [Theory]
    [InlineData("../../evil.gguf")]
    [InlineData("/etc/evil.gguf")]
    [InlineData("a/../../evil.gguf")]
    [InlineData("..\\evil.gguf")]
    [InlineData("C:evil.gguf")]
    [InlineData("evil\n.gguf")]
    public async Task A_listing_with_a_path_that_leaves_its_folder_is_refused_whole(string path)
    {
        _bench.AddModel();
        _bench.Hub.Repositories[PullBench.Repository].Add(path, [1]);
        Assert.Contains("refused", await _bench.FailureAsync(), StringComparison.Ordinal);
        Assert.Single(_bench.Hub.Requests);
        Assert.Empty(_bench.Files());
    }

    [Theory]
    [InlineData("""<html>""", "not JSON")]
    [InlineData("""{"error":"no"}""", "not one")]
    [InlineData("""[{"type":"file","path":"a.gguf","size":-1,"oid":"da39a3ee5e6b4b0d3255bfef95601890afd80709"}]""", "without a size")]
    [InlineData("""[{"type":"file","path":"a.gguf","size":1e30,"oid":"da39a3ee5e6b4b0d3255bfef95601890afd80709"}]""", "without a size")]
    [InlineData("""[{"type":"file","path":"a.gguf","size":9223372036854775807,"oid":"da39a3ee5e6b4b0d3255bfef95601890afd80709"}]""", "without a size")]
    [InlineData("""[{"type":"file","path":"a.gguf","size":5,"oid":"../x"}]""", "without a checksum")]
    [InlineData("""[{"type":"file","path":"a.gguf","size":5,"oid":"da39a3ee5e6b4b0d3255bfef95601890afd80709","lfs":{"oid":"12","size":5}}]""", "without a checksum")]
    [InlineData("""[{"type":"file","size":5}]""", "without a path")]
    [InlineData("""[7]""", "not JSON")]
    public async Task A_listing_that_makes_no_sense_is_refused(string json, string says)
    {
        _bench.Hub.Answer = _ => new FakeReply(200, Encoding.UTF8.GetBytes(json));
        Assert.Contains(says, await _bench.FailureAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_listing_that_goes_on_elsewhere_or_never_ends_is_refused()
    {
        _bench.AddModel();
        using var other = new FakeHub();
        _bench.Token = "hf_secret";
        _bench.Hub.Answer = r => new FakeReply(200, "[]"u8.ToArray()) { Headers = { ["Link"] = $"<{other.Url}x>; rel=\"next\"" } };
        Assert.Contains("refused", await _bench.FailureAsync(), StringComparison.Ordinal);
        Assert.Empty(other.Requests);
        _bench.Hub.Answer = r => new FakeReply(200, "[]"u8.ToArray()) { Headers = { ["Link"] = "</again>; rel=\"next\"" } };
        Assert.Contains("no end", await _bench.FailureAsync(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("/fox/lantern/resolve/main/lantern-Q8_0.gguf", "in a circle")]
    [InlineData("file:///etc/passwd", "to nowhere")]
    public async Task A_redirect_that_leads_nowhere_is_refused(string location, string says)
    {
        _bench.AddModel();
        _bench.Hub.Answer = r => r.Path.Contains("/resolve/", StringComparison.Ordinal) ? new FakeReply(302, []) { Headers = { ["Location"] = location } } : null;
        Assert.Contains(says, await _bench.FailureAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_file_by_its_address_comes_with_all_its_parts_and_without_the_token()
    {
        using var server = new FakeHub();
        _bench.Token = "hf_secret";
        byte[][] parts = [new byte[PullBench.PieceBytes * 2], [1, 2, 3]];
        server.Answer = r => r.Path switch
        {
            "/m/big one-00001-of-00002.gguf" => FakeHub.File(parts[0], r),
            "/m/big one-00002-of-00002.gguf" => FakeHub.File(parts[1], r),
            _ => null,
        };
        PullPlan plan = await _bench.RunAsync($"{server.Url}m/big%20one-00001-of-00002.gguf?key=1");
        Assert.Equal(["big one-00001-of-00002.gguf", "big one-00002-of-00002.gguf"], plan.Paths);
        Assert.Equal(plan.Paths, plan.Unverified);
        Assert.Equal(parts, plan.Paths.Select(p => File.ReadAllBytes(Path.Combine(plan.Folder, p))));
        Assert.Equal("big-one", plan.Reference.ModelName);
        Assert.True(plan.IsGguf);
        Assert.All(server.Requests, r => Assert.Equal((null, "key=1"), (r.Token, r.Query)));
    }

    /// <summary>The repository's large files lie on another server.</summary>
    private byte[] Behind(FakeHub storage)
    {
        byte[] content = _bench.AddModel();
        storage.Repositories[PullBench.Repository] = _bench.Hub.Repositories[PullBench.Repository];
        return content;
    }
}
