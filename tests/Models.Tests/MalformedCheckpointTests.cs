using System.Text.Json;
using System.Text.Json.Nodes;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

/// <summary>
/// Every malformed checkpoint is refused with one clear line, quickly and without large allocations; the controls load. The most important
/// ones are in tests/data/bad; the whole set is read from beside the repository when it is there.
/// </summary>
public sealed class MalformedCheckpointTests
{
    public static readonly TheoryData<string> Own = [.. Entries(TestData.Repo("tests", "data", "bad")).Select(e => e.Path)];

    [Theory, MemberData(nameof(Own))]
    public void Own_cases_are_refused_clearly_and_controls_load(string path) => Check(TestData.Repo("tests", "data", "bad"), path);

    [Fact]
    public void All_cases_beside_the_repository_are_refused_clearly_and_controls_load()
    {
        string folder = TestData.Shared("golden", "bad");
        int count = 0;
        foreach ((string path, _) in Entries(folder))
        {
            Check(folder, path);
            count++;
        }
        Assert.True(count > 50, $"only {count} checkpoint cases");
    }

    /// <summary>A configuration may promise more tensors than fit in memory: the first that is missing must be the last that is thought of.</summary>
    [Fact]
    public void A_small_folder_that_promises_millions_of_tensors_is_refused_with_little_memory()
    {
        string good = TestData.Repo("tests", "data", "bad", "ok-checkpoint");
        using var folder = new TemporaryFolder();
        folder.Write("model.safetensors", File.ReadAllBytes(Path.Combine(good, "model.safetensors")));
        JsonObject config = JsonNode.Parse(File.ReadAllBytes(Path.Combine(good, "config.json")))!.AsObject();
        (config["architectures"], config["model_type"]) = (new JsonArray("MixtralForCausalLM"), "mixtral");
        (config["num_hidden_layers"], config["num_local_experts"], config["num_experts_per_tok"]) = (256, 1024, 2);
        folder.Write("config.json", JsonSerializer.SerializeToUtf8Bytes(config));
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Throws<ModelFormatException>(() => Checkpoint.Open(folder.Path));
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 4 << 20);
    }

    private static void Check(string folder, string path)
    {
        bool good = Entries(folder).Single(e => e.Path == path).Expect == "ok";
        string checkpoint = Path.Combine(folder, path);
        if (good)
        {
            ReadAll(checkpoint);
            return;
        }
        long before = GC.GetAllocatedBytesForCurrentThread();
        var e = Assert.Throws<ModelFormatException>(() => ReadAll(checkpoint));
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.DoesNotContain('\n', e.Message);
        Assert.Contains(path, e.Message, StringComparison.Ordinal);
        Assert.True(e.Message.Length < checkpoint.Length + 300, e.Message);
        Assert.True(allocated < 4 << 20, $"{path}: {allocated} bytes were allocated before it was refused");
    }

    private static void ReadAll(string folder)
    {
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        foreach (string name in checkpoint.Tensors) checkpoint.Read(name);
    }

    private static IEnumerable<(string Path, string Expect)> Entries(string folder) =>
        TestData.Json(Path.Combine(folder, "index.json")).EnumerateArray()
            .Where(e => e.GetProperty("kind").GetString() == "checkpoint")
            .Select(e => (e.GetProperty("path").GetString()!, e.GetProperty("expect").GetString()!));
}
