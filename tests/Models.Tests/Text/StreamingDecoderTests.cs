using System.Text.Json;
using FlashOrleans.Models.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Text;

public sealed class StreamingDecoderTests
{
    // The Unigram cases have no streaming part.
    public static TheoryData<string> Names => [.. CodecData.Names.Where(static n => n != "sp-unigram")];

    [Theory]
    [MemberData(nameof(Names))]
    public void Pieces_are_those_of_the_reference(string name) => Assert.True(CheckPieces(CodecData.Codec(name), CodecData.Folder(name)) > 0);

    /// <summary>How many of the streams of a folder end inside a character.</summary>
    internal static int CheckPieces(TextCodec codec, string folder)
    {
        int truncated = 0;
        foreach (var c in TestData.Json(Path.Combine(folder, "streaming.json")).EnumerateArray())
        {
            var decoder = new StreamingDecoder(codec, skipSpecial: false);
            int[] ids = TestData.Ints(c.GetProperty("ids"));
            string[] pieces = [.. ids.Select(decoder.Next)];
            Assert.Equal(c.GetProperty("pieces").EnumerateArray().Select(p => p.GetString()!), pieces);
            string flushed = decoder.Flush();
            Assert.Equal(CodecData.Text(c, "flush"), flushed);
            Assert.Equal(codec.Decode(ids, skipSpecial: false), string.Concat(pieces) + flushed);
            if (c.TryGetProperty("truncated_by", out _)) truncated++;
        }
        return truncated;
    }

    [Fact]
    public void The_space_before_the_first_word_is_taken_off_once_and_again_after_a_flush()
    {
        foreach (string name in new[] { "sp-bpe-llama", "sp-unigram" })
        {
            var codec = CodecData.Codec(name);
            int[] ids = codec.Encode("Hello  there", parseSpecial: false, addSpecial: true);
            var decoder = new StreamingDecoder(codec);
            for (int i = 0; i < 2; i++) Assert.Equal("Hello  there", string.Concat(ids.Select(decoder.Next)) + decoder.Flush());
            var rest = new StreamingDecoder(codec, replay: ids.AsSpan(0, ids.Length - 1));
            Assert.EndsWith(rest.Next(ids[^1]), "Hello  there", StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Whatever_the_tokens_the_pieces_together_are_the_decoded_text()
    {
        var codec = CodecData.Codec("gpt2-bytelevel");
        var random = new Random(6);
        for (int i = 0; i < 500; i++)
        {
            int[] ids = [.. Enumerable.Range(0, 30).Select(_ => random.Next(3) == 0 ? random.Next(codec.VocabSize + 5) : random.Next(256))];
            var decoder = new StreamingDecoder(codec);
            Assert.Equal(codec.Decode(ids, skipSpecial: true), string.Concat(ids.Select(decoder.Next)) + decoder.Flush());
        }
    }

    [Fact]
    public void A_decoder_made_from_a_prefix_goes_on_inside_a_character()
    {
        var codec = CodecData.Codec("llama3-bytelevel");
        foreach (string text in new[] { "👩‍👩‍👧‍👦 family", "世界 中é😀 x", "plain" })
        {
            int[] ids = codec.Encode(text, parseSpecial: false);
            var whole = new StreamingDecoder(codec);
            string[] pieces = [.. ids.Select(whole.Next)];
            for (int cut = 0; cut <= ids.Length; cut++)
            {
                var rest = new StreamingDecoder(codec, replay: ids.AsSpan(0, cut));
                Assert.Equal(pieces[cut..], ids[cut..].Select(rest.Next));
            }
        }
    }

    [Fact]
    public void Special_tokens_have_no_text_unless_asked_for()
    {
        var codec = CodecData.Emberling;
        Assert.Equal("", new StreamingDecoder(codec).Next(2));
        Assert.Equal("<|im_end|>", new StreamingDecoder(codec, skipSpecial: false).Next(2));
    }

    [Fact]
    public void Flush_leaves_the_decoder_as_new()
    {
        var codec = CodecData.Codec("gpt2-bytelevel");
        int[] smile = codec.Encode("😀", parseSpecial: false);
        var decoder = new StreamingDecoder(codec);
        Assert.Equal("", decoder.Next(smile[0]));
        Assert.Equal("\uFFFD", decoder.Flush());
        Assert.Equal("", decoder.Flush());
        Assert.Equal("😀", string.Concat(smile.Select(decoder.Next)));
    }
}
