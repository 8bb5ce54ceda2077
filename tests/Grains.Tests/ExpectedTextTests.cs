namespace FlashOrleans.Grains.Tests;

/// <summary>Where an answer stands in the text that it will probably be.</summary>
public sealed class ExpectedTextTests
{
    private static readonly int[] s_text = [.. Enumerable.Range(100, 40)];

    /// <summary>What is guessed behind each token of an answer, three tokens at a time.</summary>
    private static List<int[]> Guesses(int[] expected, int[] answer)
    {
        var place = new ExpectedText(expected);
        List<int[]> all = [];
        int[] prompt = [1, 2, 3], guess = new int[3];
        for (int n = 0; n <= answer.Length; n++) all.Add(guess[..place.Next([.. prompt, .. answer[..n]], n, guess)]);
        return all;
    }

    [Fact]
    public void An_answer_that_is_the_text_is_guessed_from_its_first_token_to_its_last()
    {
        List<int[]> guesses = Guesses(s_text, s_text);
        for (int n = 0; n < s_text.Length; n++) Assert.Equal(s_text.Skip(n).Take(3), guesses[n]);
        Assert.Empty(guesses[^1]);
    }

    [Theory]
    // What stands where ten tokens of the text were, or between them.
    [InlineData(10, 1, 1)]
    [InlineData(10, 10, 0)]
    [InlineData(10, 0, 5)]
    [InlineData(0, 2, 1)]
    public void Where_the_answer_goes_another_way_it_is_found_again_after_three_tokens(int at, int gone, int other)
    {
        int[] answer = [.. s_text[..at], .. Enumerable.Range(500, other), .. s_text[(at + gone)..]];
        List<int[]> guesses = Guesses(s_text, answer);
        for (int n = at + other + 3; n < answer.Length; n++) Assert.Equal(answer.Skip(n).Take(3), guesses[n]);
        for (int n = at + 1; n < at + other; n++) Assert.Empty(guesses[n]);
    }

    [Fact]
    public void In_text_that_repeats_itself_the_nearest_place_is_taken()
    {
        int[] again = [.. s_text, 7, 7, 7, .. s_text];
        // One token is another one in the second half.
        int[] answer = [.. again];
        answer[60] = 999;
        List<int[]> guesses = Guesses(again, answer);
        Assert.Equal(again.Skip(64).Take(3), guesses[64]);
    }

    [Fact]
    public void An_answer_that_has_nothing_of_the_text_is_not_guessed()
    {
        Assert.All(Guesses(s_text, [.. Enumerable.Range(900, 10)]).Skip(1), Assert.Empty);
        Assert.All(Guesses([], s_text), Assert.Empty);
    }
}
