namespace FlashOrleans.Grains;

/// <summary>
/// Ends a text at the first stop string in it: text goes in piece by piece, and comes out as soon as no stop string can begin in it any more, so no reader ever sees part of
/// one. The first to be complete counts, of several with the same end the longest: how the text is cut into pieces changes nothing, and a turn that is
/// replayed ends where it ended. Owned by a turn; the session grain's scheduler.
/// </summary>
internal sealed class StopStrings(string[] stops)
{
    private readonly int _longest = stops.Max(static s => s.Length);
    private string _held = "";

    /// <summary>The stop string that was met; from then on nothing comes out.</summary>
    public string? Found { get; private set; }

    /// <summary>What may be shown once this piece is there.</summary>
    public string Next(string piece)
    {
        if (Found is not null || piece.Length == 0) return "";
        string text = _held + piece;
        int end = int.MaxValue;
        foreach (string stop in stops)
        {
            int at = text.IndexOf(stop, StringComparison.Ordinal);
            if (at < 0 || at + stop.Length > end || (at + stop.Length == end && stop.Length <= Found!.Length)) continue;
            (Found, end) = (stop, at + stop.Length);
        }
        int shown = Found is null ? text.Length - Beginning(text) : end - Found.Length;
        _held = Found is null ? text[shown..] : "";
        return text[..shown];
    }

    /// <summary>The last piece: what was held back comes out, since nothing follows.</summary>
    public string End(string piece)
    {
        string shown = Next(piece);
        if (Found is not null) return shown;
        shown += _held;
        _held = "";
        return shown;
    }

    /// <summary>How many characters at the end of the text may be the beginning of a stop string.</summary>
    private int Beginning(string text)
    {
        for (int count = Math.Min(_longest - 1, text.Length); count > 0; count--)
        {
            ReadOnlySpan<char> last = text.AsSpan(text.Length - count);
            foreach (string stop in stops)
            {
                if (stop.Length > count && stop.AsSpan().StartsWith(last, StringComparison.Ordinal)) return count;
            }
        }
        return 0;
    }
}
