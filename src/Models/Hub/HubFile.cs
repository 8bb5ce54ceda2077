using System.Buffers;
using System.Security.Cryptography;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Models.Hub;

/// <summary>A file to download.</summary>
/// <param name="Label">What errors call it: repository and path, or its address.</param>
/// <param name="Path">Inside its repository, checked by <see cref="RemotePath"/>.</param>
/// <param name="Url">Where it is asked for; the server may redirect.</param>
/// <param name="Size">Bytes, as listed.</param>
/// <param name="Sum">What its content must hash to; null where nobody says.</param>
/// <param name="ETag">What the server called this content, where there is no sum.</param>
internal sealed record HubFile(string Label, string Path, Uri Url, long Size, Checksum? Sum, string? ETag = null)
{
    /// <summary>Two downloads with the same identity are of the same bytes; empty when nothing tells.</summary>
    public string Identity => Sum?.ToString() ?? ETag ?? "";
}

/// <summary>How the hub names content: sha256 for large files, git's blob id (a sha1 with a header) for the others.</summary>
internal sealed record Checksum
{
    private readonly bool _git;
    private readonly string _hex;

    private Checksum(bool git, string hex) => (_git, _hex) = (git, hex);

    /// <summary>64 hex digits, "sha256:" before them or not.</summary>
    public static Checksum? Sha256(string? text)
    {
        const string prefix = "sha256:";
        if (text?.StartsWith(prefix, StringComparison.Ordinal) == true) text = text[prefix.Length..];
        return IsHex(text, 64) ? new Checksum(false, text!.ToLowerInvariant()) : null;
    }

    public static Checksum? GitBlob(string? text) => IsHex(text, 40) ? new Checksum(true, text!.ToLowerInvariant()) : null;

    public bool IsSha256 => !_git;

    public override string ToString() => (_git ? "git:" : "sha256:") + _hex;

    /// <summary>Reads the open file from its first to its last byte.</summary>
    public async Task<bool> MatchesAsync(SafeFileHandle file, CancellationToken cancel)
    {
        long length = RandomAccess.GetLength(file);
        using IncrementalHash hash = Begin(length);
        byte[] buffer = ArrayPool<byte>.Shared.Rent(1 << 20);
        try
        {
            int read;
            for (long at = 0; (read = await RandomAccess.ReadAsync(file, buffer, at, cancel)) > 0; at += read) hash.AppendData(buffer, 0, read);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
        return End(hash);
    }

    public bool Matches(ReadOnlySpan<byte> content)
    {
        using IncrementalHash hash = Begin(content.Length);
        hash.AppendData(content);
        return End(hash);
    }

    private IncrementalHash Begin(long length)
    {
        // git names its blobs by sha1: no choice of ours, and the length is checked besides.
#pragma warning disable CA5350
        IncrementalHash hash = IncrementalHash.CreateHash(_git ? HashAlgorithmName.SHA1 : HashAlgorithmName.SHA256);
#pragma warning restore CA5350
        if (_git) hash.AppendData(Encoding.ASCII.GetBytes($"blob {length}\0"));
        return hash;
    }

    private bool End(IncrementalHash hash) => Convert.ToHexStringLower(hash.GetHashAndReset()) == _hex;

    private static bool IsHex(string? text, int digits) => text?.Length == digits && text.All(char.IsAsciiHexDigit);
}
