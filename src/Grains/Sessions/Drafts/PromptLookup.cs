using System.Runtime.InteropServices;

namespace FlashOrleans.Grains;

/// <summary>
/// Guesses what follows from what followed before: finds the longest earlier place in a session's own tokens that ends as they end now, and takes the tokens behind it. Prompts that are quoted, code that
/// repeats names and lists of one form make it right often, and it costs a look into a dictionary. Keeps the places of every pair of neighbours, newest first, and grows with the tokens: no scan.
/// Pure; one owner at a time. What it says is a guess: places that an edit made wrong are noticed because the tokens themselves are compared.
/// </summary>
internal sealed class PromptLookup
{
    /// <summary>Fewer tokens alike are chance.</summary>
    public const int LeastMatch = 2;
    /// <summary>More tell no more.</summary>
    public const int MostMatch = 16;
    /// <summary>Places of one pair that are looked at: of a pair that is everywhere the newest.</summary>
    private const int MostPlaces = 32;

    /// <summary>By pair of tokens: where the newest one ends.</summary>
    private readonly Dictionary<long, int> _newest = [];
    /// <summary>By place: where the pair that ends there ended before, or -1.</summary>
    private readonly List<int> _before = [];

    /// <summary>Tokens from here on are no longer what they were.</summary>
    public void Truncate(int length)
    {
        if (length < _before.Count) CollectionsMarshal.SetCount(_before, length);
    }

    /// <summary>Fills in what may follow the tokens; returns how many. <paramref name="match"/> says how many tokens before it were alike, and with it how much to believe.</summary>
    public int Guess(ReadOnlySpan<int> tokens, Span<int> guess, out int match)
    {
        match = 0;
        if (tokens.Length <= LeastMatch) return 0;
        // The pair at the very end is asked for, and so not among the known ones yet.
        Learn(tokens[..^1]);
        if (!_newest.TryGetValue(Pair(tokens, tokens.Length - 1), out int place)) return 0;
        int best = -1;
        for (int looked = 0; place >= 0 && place < _before.Count && looked < MostPlaces; looked++)
        {
            int alike = Alike(tokens, place);
            if (alike > match) (match, best) = (alike, place);
            if (match == MostMatch) break;
            // Older places only: an edit may have left a link that leads nowhere.
            int older = _before[place];
            if (older >= place) break;
            place = older;
        }
        if (match < LeastMatch)
        {
            match = 0;
            return 0;
        }
        // Where the place is near the end, what follows it goes on with the guess itself: a text that turns in a circle.
        int period = tokens.Length - 1 - best;
        for (int i = 0; i < guess.Length; i++) guess[i] = i < period ? tokens[best + 1 + i] : guess[i - period];
        return guess.Length;
    }

    private void Learn(ReadOnlySpan<int> tokens)
    {
        for (int i = _before.Count; i < tokens.Length; i++)
        {
            if (i == 0)
            {
                _before.Add(-1);
                continue;
            }
            long pair = Pair(tokens, i);
            _before.Add(_newest.TryGetValue(pair, out int older) && older < i ? older : -1);
            _newest[pair] = i;
        }
    }

    private static int Alike(ReadOnlySpan<int> tokens, int place)
    {
        int most = Math.Min(MostMatch, place + 1), n = 0;
        while (n < most && tokens[place - n] == tokens[tokens.Length - 1 - n]) n++;
        return n;
    }

    private static long Pair(ReadOnlySpan<int> tokens, int end) => (long)tokens[end - 1] << 32 | (uint)tokens[end];
}
