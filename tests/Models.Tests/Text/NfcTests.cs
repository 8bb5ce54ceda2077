using System.Globalization;
using FlashOrleans.Models.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Text;

public sealed class NfcTests
{
    [Fact]
    public void Random_sequences_compose_as_the_reference_says()
    {
        int compared = 0;
        foreach (string line in File.ReadLines(TestData.Repo("tests", "data", "tokenizers", "nfc-cases.txt")).Where(l => !l.StartsWith('#')))
        {
            string[] sides = line.Split(';');
            Assert.Equal(sides[1], Points(Nfc.Normalize(Text(sides[0])).ToString()));
            Assert.Equal(sides[1], Points(Nfc.Normalize(Text(sides[1])).ToString()));
            compared++;
        }
        Assert.Equal(400, compared);
    }

    [Fact]
    public void Hangul_syllables_and_their_letters_are_the_same()
    {
        for (int syllable = 0xAC00; syllable <= 0xD7A3; syllable += 13)
        {
            int s = syllable - 0xAC00, tail = s % 28;
            string letters = $"{(char)(0x1100 + s / 588)}{(char)(0x1161 + s % 588 / 28)}" + (tail == 0 ? "" : $"{(char)(0x11A7 + tail)}");
            Assert.Equal(((char)syllable).ToString(), Nfc.Normalize(letters).ToString());
        }
    }

    [Fact]
    public void Text_that_cannot_change_is_given_back_as_it_is()
    {
        ReadOnlySpan<char> text = "plain text, naïve café ŉ";
        Assert.True(Nfc.Normalize(text) == text);
    }

    private static string Text(string points) => string.Concat(points.Split(' ').Select(p => char.ConvertFromUtf32(int.Parse(p, NumberStyles.HexNumber, CultureInfo.InvariantCulture))));

    private static string Points(string text) => string.Join(' ', text.EnumerateRunes().Select(r => r.Value.ToString("X", CultureInfo.InvariantCulture)));
}
