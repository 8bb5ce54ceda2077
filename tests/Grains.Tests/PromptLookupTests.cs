namespace FlashOrleans.Grains.Tests;

public sealed class PromptLookupTests
{
    private static int[] Guess(PromptLookup lookup, int[] tokens, int count, out int match)
    {
        int[] guess = new int[count];
        return guess[..lookup.Guess(tokens, guess, out match)];
    }

    [Fact]
    public void The_longest_match_wins_over_a_newer_shorter_one()
    {
        int[] tokens = [1, 2, 3, 40, 41, 42, 9, 2, 3, 50, 51, 52, 1, 2, 3];
        Assert.Equal([40, 41, 42], Guess(new PromptLookup(), tokens, 3, out int match));
        Assert.Equal(3, match);
    }

    [Fact]
    public void Of_matches_of_one_length_the_newest_wins()
    {
        int[] tokens = [7, 2, 3, 40, 8, 2, 3, 50, 9, 2, 3];
        Assert.Equal([50, 9], Guess(new PromptLookup(), tokens, 2, out int match));
        Assert.Equal(2, match);
    }

    [Fact]
    public void One_token_alike_is_no_match_and_neither_is_the_end_itself()
    {
        Assert.Empty(Guess(new PromptLookup(), [1, 2, 3, 4, 2], 4, out int match));
        Assert.Equal(0, match);
        Assert.Empty(Guess(new PromptLookup(), [1, 2], 4, out _));
        Assert.Empty(Guess(new PromptLookup(), [], 4, out _));
    }

    [Fact]
    public void A_text_that_turns_in_a_circle_is_guessed_beyond_its_end()
    {
        Assert.Equal([3, 1, 2, 3, 1, 2, 3, 1], Guess(new PromptLookup(), [1, 2, 3, 1, 2, 3, 1, 2], 8, out _));
        Assert.Equal([5, 5, 5], Guess(new PromptLookup(), [5, 5, 5, 5], 3, out _));
    }

    [Fact]
    public void Growing_by_some_tokens_at_a_time_and_being_edited_it_says_only_what_stands_there()
    {
        var random = new Random(3);
        for (int round = 0; round < 50; round++)
        {
            var lookup = new PromptLookup();
            var tokens = new List<int>();
            bool edited = false;
            for (int step = 0; step < 80; step++)
            {
                if (random.Next(12) == 0 && tokens.Count > 0)
                {
                    int kept = random.Next(tokens.Count);
                    tokens.RemoveRange(kept, tokens.Count - kept);
                    lookup.Truncate(kept);
                    edited = true;
                }
                for (int n = random.Next(4); n >= 0; n--) tokens.Add(random.Next(4));
                int[] all = [.. tokens], guess = Guess(lookup, all, 5, out int match);
                int[] fresh = Guess(new PromptLookup(), all, 5, out int freshMatch);
                if (!edited)
                {
                    Assert.Equal(freshMatch, match);
                    Assert.Equal(fresh, guess);
                }
                if (match == 0) continue;
                int end = all.Length - match;
                Assert.Contains(Enumerable.Range(0, end), at => all.AsSpan(at, match).SequenceEqual(all.AsSpan(end)) && all[at + match] == guess[0]);
            }
        }
    }
}
