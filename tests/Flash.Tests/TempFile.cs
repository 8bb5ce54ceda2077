namespace FlashOrleans.Flash.Tests;

/// <summary>A file of known bytes in the temp directory, gone with the test. FLASH_TEST_DIR chooses another filesystem.</summary>
internal sealed class TempFile : IDisposable
{
    public TempFile(byte[] content)
    {
        string folder = Environment.GetEnvironmentVariable("FLASH_TEST_DIR") ?? System.IO.Path.GetTempPath();
        Path = System.IO.Path.Combine(folder, $"flash-{Guid.NewGuid():N}.bin");
        File.WriteAllBytes(Path, content);
    }

    public string Path { get; }

    public void Dispose() => File.Delete(Path);

    /// <summary>Bytes that differ everywhere, the same for the same length.</summary>
    public static byte[] Pattern(int bytes, int seed = 1)
    {
        byte[] content = new byte[bytes];
        new Random(seed).NextBytes(content);
        return content;
    }
}
