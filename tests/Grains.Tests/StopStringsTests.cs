using CsCheck;

namespace FlashOrleans.Grains.Tests;

public sealed class StopStringsTests
{
    private static (string Shown, string? Found) Run(string[] stops, IEnumerable<string> pieces, string end = "")
    {
        var filter = new StopStrings(stops);
        string shown = string.Concat(pieces.Select(filter.Next));
        return (shown + filter.End(end), filter.Found);
    }

    [Fact]
    public void A_text_ends_before_the_first_stop_string() =>
        Assert.Equal(("one ", "STOP"), Run(["STOP", "two"], ["on", "e S", "TO", "P and two"]));

    [Fact]
    public void What_may_become_a_stop_string_waits_and_comes_out_when_it_does_not()
    {
        var filter = new StopStrings(["\n\nUser:"]);
        Assert.Equal("Hello", filter.Next("Hello\n"));
        Assert.Equal("", filter.Next("\nUs"));
        Assert.Equal("\n\nUsual", filter.Next("ual"));
        Assert.Equal("", filter.Next("\n"));
        Assert.Equal("\n", filter.End(""));
    }

    [Fact]
    public void After_a_stop_string_nothing_comes_out() =>
        Assert.Equal(("a", "b"), Run(["b"], ["abc", "def"], "ghi"));

    [Fact]
    public void The_last_piece_may_complete_one() =>
        Assert.Equal(("a", "bc"), Run(["bc"], ["ab"], "c"));

    [Fact]
    public void Of_two_that_end_together_the_longer_counts() =>
        Assert.Equal(("x", "abc"), Run(["c", "abc"], ["xabc"]));

    [Fact]
    public void How_the_text_is_cut_changes_nothing_and_no_stop_string_is_shown()
    {
        // Few letters, so that stop strings meet, overlap and repeat.
        Gen<string> word = Gen.Char["ab"].Array[1, 4].Select(static c => new string(c));
        Gen.Select(word.Array[1, 4], word.Array[0, 12]).Sample((stops, pieces) =>
        {
            string text = string.Concat(pieces);
            (string shown, string? found) = Run(stops, pieces);
            (string whole, string? foundWhole) = Run(stops, [text]);
            int end = stops.Select(s => text.IndexOf(s, StringComparison.Ordinal) is >= 0 and var at ? at + s.Length : int.MaxValue).Min();
            return (shown, found) == (whole, foundWhole)
                && (end == int.MaxValue ? shown == text && found is null : found is not null && shown == text[..(end - found.Length)])
                && !stops.Any(s => shown.Contains(s, StringComparison.Ordinal));
        });
    }
}
