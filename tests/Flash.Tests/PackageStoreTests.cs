namespace FlashOrleans.Flash.Tests;

public sealed class PackageStoreTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();
    private readonly PackageStore _store;

    public PackageStoreTests() => _store = new PackageStore(_folder["home"]);

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Packages_are_found_by_name_path_and_hash()
    {
        string hash = Add("one", 1);
        Add("two", 2);
        string path = Path.Combine(_folder.Path, "home", "models", "one.flash");
        Assert.Equal(path, _store.Find("one"));
        Assert.Equal(path, _store.Find(path));
        Assert.Equal(path, _store.Find(hash));
        using FlashPackage package = _store.Open("two");
        Assert.Equal("two", package.Name);
        Assert.True(_store.Contains("one"));
        Assert.False(_store.Contains("three"));
    }

    [Fact]
    public void An_unknown_name_is_told_what_there_is()
    {
        Assert.Contains("flash import", Assert.Throws<FlashException>(() => _store.Find("one")).Message, StringComparison.Ordinal);
        Add("one", 1);
        Assert.Contains("there are: one", Assert.Throws<FlashException>(() => _store.Find("two")).Message, StringComparison.Ordinal);
        Assert.Throws<FlashException>(() => _store.Find(""));
        Assert.Throws<FlashException>(() => _store.Find("../home"));
        Assert.Throws<FlashException>(() => _store.Find("./none.flash"));
        Assert.Throws<FlashException>(() => _store.Find(new string('0', 32)));
    }

    [Fact]
    public void The_list_reads_manifests_only_and_shows_what_is_broken()
    {
        Assert.Empty(_store.List());
        string hash = Add("b", 1);
        Add("a", 2);
        File.Delete(Path.Combine(_store.Target("b"), "edge.bin"));
        File.WriteAllText(Path.Combine(_store.Target("a"), "manifest.json"), "{");
        Directory.CreateDirectory(_store.Target("c") + ".tmp-0123456789abcdef");
        PackageInfo[] found = [.. _store.List()];
        Assert.Equal(["a", "b"], found.Select(static p => p.Name));
        Assert.Null(found[0].Manifest);
        Assert.Contains("manifest.json", found[0].Fault!, StringComparison.Ordinal);
        Assert.Equal(hash, found[1].Manifest!.Hash);
        Assert.Null(found[1].Fault);
    }

    [Fact]
    public void Removing_takes_one_package_and_nothing_else()
    {
        Add("one", 1);
        Add("two", 2);
        _store.Remove("one");
        Assert.Equal([_store.Target("two")], Directory.EnumerateFileSystemEntries(_store.Folder));
        Assert.Throws<FlashException>(() => _store.Remove("one"));
        Assert.Throws<FlashException>(() => _store.Remove("../models/two"));
        Assert.True(_store.Contains("two"));
    }

    [Theory]
    [InlineData(""), InlineData("."), InlineData(".."), InlineData("../x"), InlineData("a/b"), InlineData("a\\b"), InlineData(".hidden"), InlineData("-x"), InlineData("a b"), InlineData("a\n"), InlineData("ä"), InlineData("x.flash")]
    public void A_name_is_never_a_path(string name)
    {
        Assert.False(PackageStore.IsValidName(name));
        Assert.DoesNotContain('\n', Assert.Throws<FlashException>(() => _store.Target(name)).Message);
    }

    [Theory, InlineData("emberling"), InlineData("Qwen3-4B.q4_1"), InlineData("7b")]
    public void Ordinary_names_are_names(string name) => Assert.True(PackageStore.IsValidName(name));

    [Fact]
    public void The_home_is_FLASH_HOME_or_dot_flash()
    {
        string? before = Environment.GetEnvironmentVariable("FLASH_HOME");
        try
        {
            Environment.SetEnvironmentVariable("FLASH_HOME", _folder["elsewhere"]);
            Assert.Equal(_folder["elsewhere"], PackageStore.Default().Home);
            Environment.SetEnvironmentVariable("FLASH_HOME", null);
            Assert.Equal(Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".flash"), PackageStore.Default().Home);
        }
        finally
        {
            Environment.SetEnvironmentVariable("FLASH_HOME", before);
        }
    }

    private string Add(string name, int seed) => PackageTiny.Write(_store.Target(name), PackageTiny.Gated, WeightFormat.Q8, seed, name);
}
