using FlashOrleans.Flash;
using FlashOrleans.Models.Hub;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Hub;

public sealed class PullImportTests : IDisposable
{
    private readonly PullBench _bench = new();
    private readonly PackageStore _store;

    public PullImportTests() => _store = new PackageStore(_bench.Downloads);

    public void Dispose() => _bench.Dispose();

    [Fact]
    public async Task A_pulled_model_becomes_the_package_that_its_folder_becomes()
    {
        string folder = TestData.Repo("models", "emberling");
        _bench.Hub.Add(PullBench.Repository, folder);
        _bench.Hub.Storage = new FakeHub();
        _bench.Hub.Storage.Repositories[PullBench.Repository] = _bench.Hub.Repositories[PullBench.Repository];
        PullPlan plan = await _bench.RunAsync();
        Assert.DoesNotContain("README.md", plan.Paths);
        ImportResult pulled = PulledModel.Import(plan, _store.Target("pulled"), new ImportOptions { Name = "emberling" }, null, default);
        ImportResult direct = Importer.Import(folder, _store.Target("direct"), new ImportOptions { Name = "emberling" });
        Assert.Equal(Contents(direct.Path), Contents(pulled.Path));

    }

    [Fact]
    public async Task Of_a_gguf_model_the_first_file_is_what_is_imported()
    {
        _bench.AddModel();
        PullPlan plan = await _bench.PlanAsync();
        Assert.Equal(PullBench.ModelFile(plan), plan.Checkpoint);
    }

    [Theory]
    [InlineData("q8")]
    [InlineData("q4")]
    [InlineData("bf16")]
    [InlineData("f32")]
    public async Task The_room_kept_for_a_package_is_enough_and_not_absurd(string quant)
    {
        _bench.Hub.Add(PullBench.Repository, TestData.Repo("models", "emberling"));
        PullPlan plan = await _bench.RunAsync();
        long needed = PulledModel.Import(plan, _store.Target("m"), new ImportOptions { Quant = quant }, null, default).Bytes;
        Assert.InRange(PulledModel.PackageBytes(plan, quant), needed, 2 * needed);
    }

    /// <summary>All files of a package but the manifest, which says where it came from.</summary>
    private static SortedDictionary<string, string> Contents(string package)
    {
        var contents = new SortedDictionary<string, string>(StringComparer.Ordinal);
        foreach (string file in Directory.EnumerateFiles(package, "*", SearchOption.AllDirectories))
            if (Path.GetFileName(file) != PackageLayout.ManifestPath) contents.Add(Path.GetRelativePath(package, file), Convert.ToHexString(System.Security.Cryptography.SHA256.HashData(File.ReadAllBytes(file))));
        return contents;
    }
}
