namespace FlashOrleans.Grains;

/// <summary>
/// Where an answer stands in a text that it will probably be, an earlier version of a file for instance. While the two agree the place is the one behind the last token; where they part it is looked for again, token by
/// token, until the answer's end is found in the text. Pure; one owner at a time. What it says is a guess.
/// </summary>
internal sealed class ExpectedText(int[] tokens)
{
    /// <summary>Fewer tokens alike are chance.</summary>
    private const int LeastMatch = 3;
    /// <summary>More tell no more.</summary>
    private const int MostMatch = 16;
    private int _at, _met;
    private bool _lost;

    /// <summary>Fills in what may follow; returns how many, none while the place is not known.</summary>
    /// <param name="all">All tokens of the session.</param>
    /// <param name="generated">How many of them are the answer's; never fewer than the last time.</param>
    /// <param name="guess">Room for what follows.</param>
    public int Next(ReadOnlySpan<int> all, int generated, Span<int> guess)
    {
        ReadOnlySpan<int> answer = all[(all.Length - generated)..];
        for (; _met < generated; _met++) Meet(answer[..(_met + 1)]);
        if (_lost) return 0;
        ReadOnlySpan<int> rest = tokens.AsSpan(_at);
        rest = rest[..Math.Min(rest.Length, guess.Length)];
        rest.CopyTo(guess);
        return rest.Length;
    }

    private void Meet(ReadOnlySpan<int> answer)
    {
        if (!_lost && _at < tokens.Length && tokens[_at] == answer[^1])
        {
            _at++;
            return;
        }
        int most = LeastMatch - 1, place = -1;
        for (int end = LeastMatch; end <= tokens.Length; end++)
        {
            int alike = Alike(answer, end);
            // Of places that are as good the nearest: text that repeats itself is left where it was left.
            if (alike > most || (alike == most && place >= 0 && Math.Abs(end - _at) < Math.Abs(place - _at))) (most, place) = (alike, end);
        }
        _lost = place < 0;
        if (!_lost) _at = place;
    }

    private int Alike(ReadOnlySpan<int> answer, int end)
    {
        int most = Math.Min(MostMatch, Math.Min(end, answer.Length)), n = 0;
        while (n < most && tokens[end - 1 - n] == answer[answer.Length - 1 - n]) n++;
        return n;
    }
}
