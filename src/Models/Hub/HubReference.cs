using System.Diagnostics.CodeAnalysis;
using System.Text.RegularExpressions;
using FlashOrleans.Flash;

namespace FlashOrleans.Models.Hub;

/// <summary>
/// What a user calls a model that is not here yet: <c>owner/model</c>, with <c>hf.co/</c> or <c>huggingface.co/</c> before it or not, and <c>:Q4_K_M</c> or
/// <c>:file.gguf</c> behind it or not; an address copied from a page of the hub; or the address of a file anywhere.
/// </summary>
public sealed partial record HubReference
{
    private static readonly string[] s_hosts = ["huggingface.co", "www.huggingface.co", "hf.co"];

    private HubReference() { }

    /// <summary>owner/model, or null where the reference is a <see cref="Url"/>.</summary>
    public string? Repository { get; private init; }
    /// <summary>Branch, tag or commit.</summary>
    public string Revision { get; private init; } = "main";
    /// <summary>A quantisation (Q4_K_M) or a file of the repository (….gguf); null leaves the choice to <see cref="FileChoice"/>.</summary>
    public string? Choice { get; private init; }
    /// <summary>A file outside the hub.</summary>
    public Uri? Url { get; private init; }

    /// <summary>A name for the package: the model's without its owner, or the file's without its ending. Always one that the store takes.</summary>
    public string ModelName
    {
        get
        {
            string raw = Repository != null ? Repository[(Repository.IndexOf('/', StringComparison.Ordinal) + 1)..] : GgufName.Parse(FileName(Url!)).Stem;
            string name = NotOfAName().Replace(raw, "-").TrimStart('-', '.', '_');
            if (name.EndsWith(PackageStore.Extension, StringComparison.Ordinal)) name = name[..^PackageStore.Extension.Length];
            if (name.Length > 100) name = name[..100];
            return PackageStore.IsValidName(name) ? name : "model";
        }
    }

    public override string ToString() => Url?.GetLeftPart(UriPartial.Path) ?? (Choice == null ? Repository! : $"{Repository}:{Choice}");

    public static bool TryParse(string text, [NotNullWhen(true)] out HubReference? reference, out string fault)
    {
        ArgumentNullException.ThrowIfNull(text);
        reference = null;
        fault = $"'{text}' is not a model of the hub: owner/model, owner/model:Q4_K_M, owner/model:file.gguf, or the address of a .gguf file";
        string path = text.Trim();
        if (path.Contains("://", StringComparison.Ordinal))
        {
            if (!Uri.TryCreate(path, UriKind.Absolute, out Uri? url) || url.Scheme is not ("http" or "https")) return false;
            if (!s_hosts.Contains(url.Host, StringComparer.OrdinalIgnoreCase)) return TryFile(url, out reference, ref fault);
            path = Uri.UnescapeDataString(url.AbsolutePath).Trim('/');
        }
        else
        {
            string? host = s_hosts.FirstOrDefault(h => path.StartsWith(h + "/", StringComparison.OrdinalIgnoreCase));
            if (host != null) path = path[(host.Length + 1)..];
            else if (path.StartsWith('.') || path.StartsWith('/') || path.StartsWith('~')) fault = $"'{text}' is a path; a folder on this machine is imported with flash import PATH";
        }
        return TryRepository(path, out reference, ref fault);
    }

    private static bool TryRepository(string path, [NotNullWhen(true)] out HubReference? reference, ref string fault)
    {
        reference = null;
        int colon = path.IndexOf(':', StringComparison.Ordinal);
        string? choice = colon < 0 ? null : path[(colon + 1)..];
        string[] parts = (colon < 0 ? path : path[..colon]).Split('/');
        if (parts.Length < 2 || !Part().IsMatch(parts[0]) || !Part().IsMatch(parts[1])) return false;
        string revision = "main";
        // Addresses of the hub's pages: …/tree/main, …/blob/main/file.gguf, …/resolve/main/file.gguf
        if (parts.Length > 2)
        {
            if (parts[2] is not ("tree" or "blob" or "resolve") || parts.Length < 4 || colon >= 0) return false;
            revision = parts[3];
            if (parts[2] != "tree")
            {
                choice = string.Join('/', parts[4..]);
                if (!GgufName.Is(choice))
                {
                    fault = $"{parts[^1]} is one file of a model; only a .gguf file is a whole one: pull {parts[0]}/{parts[1]}";
                    return false;
                }
            }
        }
        if (!Part().IsMatch(revision)) return false;
        if (choice != null && !IsChoice(choice, ref fault)) return false;
        reference = new HubReference { Repository = $"{parts[0]}/{parts[1]}", Revision = revision, Choice = choice };
        return true;
    }

    private static bool IsChoice(string choice, ref string fault)
    {
        if (GgufName.Is(choice)) return RemotePath.IsSafe(choice);
        if (Part().IsMatch(choice)) return true;
        fault = $"'{choice}' chooses nothing: after the colon stands a quantisation (Q4_K_M) or a .gguf file";
        return false;
    }

    private static bool TryFile(Uri url, [NotNullWhen(true)] out HubReference? reference, ref string fault)
    {
        reference = null;
        string file = FileName(url);
        if (!GgufName.Is(file) || !RemotePath.IsSafe(file) || file.Contains('/', StringComparison.Ordinal))
        {
            fault = $"{url.GetLeftPart(UriPartial.Path)} is not the address of a .gguf file; a model of several files is pulled as owner/model";
            return false;
        }
        reference = new HubReference { Url = url };
        return true;
    }

    internal static string FileName(Uri url) => Uri.UnescapeDataString(url.Segments[^1]);

    [GeneratedRegex(@"\A(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._-]{0,95}\z")]
    private static partial Regex Part();

    [GeneratedRegex(@"[^A-Za-z0-9._-]+")]
    private static partial Regex NotOfAName();
}
