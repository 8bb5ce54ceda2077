namespace FlashOrleans.Models.Hub;

/// <summary>Paths that a server names: forward slashes, relative, and never out of the folder that they are put into.</summary>
internal static class RemotePath
{
    public static bool IsSafe(string path)
    {
        if (path.Length is 0 or > 1024) return false;
        foreach (char c in path)
            if (char.IsControl(c) || c is '\\' or ':' or '*' or '?' or '"' or '<' or '>' or '|') return false;
        foreach (string part in path.Split('/'))
            if (part.Length == 0 || part is "." or ".." || part[^1] is '.' or ' ') return false;
        return true;
    }

    /// <summary>Where a file of the server goes.</summary>
    public static string Under(string folder, string path)
    {
        if (!IsSafe(path)) throw Refusal(path);
        string root = Path.GetFullPath(folder), full = Path.GetFullPath(Path.Combine(root, path));
        // What the rules above overlooked must not pass here either.
        if (!full.StartsWith(Path.TrimEndingDirectorySeparator(root) + Path.DirectorySeparatorChar, StringComparison.Ordinal)) throw Refusal(path);
        return full;
    }

    public static HubException Refusal(string path) => new($"the server names a file '{path}', which is no plain path inside its repository; refused, do not trust this repository");

    /// <summary>As part of an address.</summary>
    public static string Escape(string path) => string.Join('/', path.Split('/').Select(Uri.EscapeDataString));
}
