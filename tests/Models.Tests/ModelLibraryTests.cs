using FlashOrleans.Flash;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

public sealed class ModelLibraryTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-library").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public void Emberling_is_found_from_the_test_executable_and_imported_on_first_use_only()
    {
        Assert.Contains("emberling", BundledModels.Names());
        var store = new PackageStore(_folder);
        string path = ModelLibrary.Ensure("emberling", store);
        Assert.Equal(store.Target("emberling"), path);
        DateTime written = File.GetLastWriteTimeUtc(Path.Combine(path, "manifest.json"));
        Assert.Equal(path, ModelLibrary.Ensure("emberling", store));
        Assert.Equal(written, File.GetLastWriteTimeUtc(Path.Combine(path, "manifest.json")));
        using FlashPackage package = FlashPackage.Open(path);
        Assert.Equal(("emberling", WeightFormat.Q8), (package.Name, package.Format));
    }

    [Fact]
    public void Models_beside_the_executable_come_before_those_of_the_current_folder()
    {
        string executable = Make("bin", "a"), current = Make("here", "a");
        Make("here", "b");
        Directory.CreateDirectory(Path.Combine(current, "models", "empty"));
        Assert.Equal(Path.Combine(executable, "models", "a"), BundledModels.Find("a", executable, current));
        Assert.Equal(Path.Combine(current, "models", "b"), BundledModels.Find("b", executable, current));
        Assert.Null(BundledModels.Find("empty", executable, current));
        Assert.Null(BundledModels.Find("../models/a", executable, current));
        Assert.Equal(["a", "b"], BundledModels.Names(executable, current));
    }

    [Fact]
    public void A_working_copy_is_found_above_the_executable()
    {
        string root = Make("repo", "a"), executable = Path.Combine(root, "artifacts", "bin", "x");
        Directory.CreateDirectory(executable);
        Assert.Null(BundledModels.Find("a", executable, _folder));
        File.WriteAllText(Path.Combine(root, "FlashOrleans.sln"), "");
        Assert.Equal(Path.Combine(root, "models", "a"), BundledModels.Find("a", executable, _folder));
    }

    [Fact]
    public void Of_many_that_want_a_model_at_once_one_imports_and_all_use_its_package()
    {
        var store = new PackageStore(_folder);
        string[] paths = new string[6];
        int imports = 0;
        var threads = new Thread[paths.Length];
        for (int i = 0; i < threads.Length; i++)
        {
            int me = i;
            threads[i] = new Thread(() =>
            {
                bool imported = false;
                var progress = new Immediate(p => imported |= p.Step == "embedding");
                paths[me] = ModelLibrary.Ensure("m", store, TestData.Golden("llama-relu"), progress, default);
                if (imported) Interlocked.Increment(ref imports);
            });
            threads[i].Start();
        }
        foreach (Thread t in threads) t.Join();
        Assert.All(paths, p => Assert.Equal(store.Target("m"), p));
        Assert.Equal(1, imports);
        Assert.Equal([store.Target("m")], Directory.GetFileSystemEntries(store.Folder));
    }

    [Fact]
    public void Waiting_for_another_import_can_be_cancelled()
    {
        var store = new PackageStore(_folder);
        Directory.CreateDirectory(store.Folder);
        using FileStream other = new(store.Target("m") + ".lock", FileMode.Create, FileAccess.ReadWrite, FileShare.None);
        using var cancel = new CancellationTokenSource();
        var progress = new Immediate(p => cancel.Cancel());
        Assert.Throws<OperationCanceledException>(() => ModelLibrary.Ensure("m", store, TestData.Golden("llama-relu"), progress, cancel.Token));
    }

    [Fact]
    public void An_unknown_name_is_refused_by_the_store() =>
        Assert.Throws<FlashException>(() => ModelLibrary.Ensure("no-such-model", new PackageStore(_folder)));

    private string Make(string folder, string model)
    {
        string path = Path.Combine(_folder, folder);
        Directory.CreateDirectory(Path.Combine(path, "models", model));
        File.WriteAllText(Path.Combine(path, "models", model, "config.json"), "{}");
        return path;
    }

    private sealed class Immediate(Action<ImportProgress> act) : IProgress<ImportProgress>
    {
        public void Report(ImportProgress value) => act(value);
    }
}
