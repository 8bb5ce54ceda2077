using System.Text.Json;

namespace FlashOrleans.Tests;

/// <summary>Where tests find their files: the repository's own <c>tests/data</c> and <c>models</c>, and the larger sets beside the repository when they are there.</summary>
internal static class TestData
{
    public static string Root { get; } = FindRoot();

    /// <summary>A file or folder of the repository.</summary>
    public static string Repo(params string[] parts) => Path.Combine([Root, .. parts]);

    public static string Golden(string family) => Repo("tests", "data", "golden", "models", family);

    /// <summary>A file or folder of the larger sets, or the test is skipped with the reason.</summary>
    public static string Shared(params string[] parts)
    {
        // A work tree may lie one folder deeper than the repository itself.
        foreach (string up in new[] { "..", "../.." })
        {
            string path = Path.GetFullPath(Path.Combine([Root, up, "shared", .. parts]));
            if (Path.Exists(path)) return path;
        }
        Assert.Skip($"shared/{string.Join('/', parts)} is not beside the repository");
        return "";
    }

    public static JsonElement Json(string path)
    {
        using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(path));
        return document.RootElement.Clone();
    }

    public static int[] Ints(JsonElement array) => [.. array.EnumerateArray().Select(e => e.GetInt32())];

    private static string FindRoot()
    {
        for (DirectoryInfo? d = new(AppContext.BaseDirectory); d != null; d = d.Parent)
            if (File.Exists(Path.Combine(d.FullName, "FlashOrleans.sln"))) return d.FullName;
        throw new InvalidOperationException($"no FlashOrleans.sln above {AppContext.BaseDirectory}");
    }
}
