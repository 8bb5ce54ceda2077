using System.Text.Json;
using FlashOrleans.Models.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Text;

/// <summary>Tokenizers from GGUF metadata. The two small vocabularies are kept as the side files a package would hold.</summary>
public sealed class GgufVocabularyTests
{
    private static string Data(string file) => TestData.Repo("tests", "data", "tokenizers", "gguf", file);

    private static VocabularySource Source(string name) => VocabularySource.Parse(File.ReadAllBytes(Data(name + ".tokenizer.gguf.json")));

    private static int CheckCases(TextCodec codec, string file)
    {
        int count = 0;
        foreach (var c in TestData.Json(file).EnumerateArray())
        {
            string text = CodecData.Text(c, "text");
            Assert.Equal(TestData.Ints(c.GetProperty("ids")), codec.Encode(text, parseSpecial: true));
            Assert.Equal(TestData.Ints(c.GetProperty("ids_with_special")), codec.Encode(text, parseSpecial: true, addSpecial: true));
            Assert.Equal(CodecData.Text(c, "decoded"), codec.Decode(TestData.Ints(c.GetProperty("ids")), skipSpecial: false));
            count++;
        }
        return count;
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("qwen2")]
    public void Ids_and_texts_are_those_of_the_reference(string name) => Assert.Equal(66, CheckCases(new(Source(name)), Data(name + ".cases.json")));

    [Theory]
    [InlineData("llama", "llama-F32.gguf")]
    [InlineData("llama", "llama-Q4_K_M.gguf")]
    [InlineData("qwen2", "qwen2-Q8_0.gguf")]
    public void The_metadata_of_the_golden_files_give_the_same_before_and_after_storing(string name, string file)
    {
        var source = GgufMetadata.Vocabulary(TestData.Shared("golden", "gguf", file));
        byte[] stored = source.ToJson();
        Assert.Equal(66, CheckCases(new(source), TestData.Shared("golden", "gguf", $"tokenizer-{name}.cases.json")));
        Assert.Equal(66, CheckCases(new(VocabularySource.Parse(stored)), TestData.Shared("golden", "gguf", $"tokenizer-{name}.cases.json")));
        Assert.Equal(stored, VocabularySource.Parse(stored).ToJson());
    }

    [Fact]
    public void SmolLM2_gets_the_ids_of_its_golden_file_and_splits_every_digit()
    {
        var source = GgufMetadata.Vocabulary(TestData.Shared("models", "smollm2-135m-instruct-q4_1.gguf"));
        var codec = new TextCodec(VocabularySource.Parse(source.ToJson()));
        var plain = new TextCodec(source with { Pre = "gpt-2" });
        int prompts = 0, trapped = 0;
        foreach (var p in TestData.Json(TestData.Shared("models", "smollm2-135m-instruct.golden.json")).GetProperty("prompts").EnumerateArray())
        {
            int[] ids = TestData.Ints(p.GetProperty("ids"));
            Assert.Equal(ids, codec.Encode(CodecData.Text(p, "text"), parseSpecial: true, addSpecial: true));
            Assert.Equal(CodecData.Text(p, "text"), codec.Decode(ids, skipSpecial: false));
            if (!ids.SequenceEqual(plain.Encode(CodecData.Text(p, "text"), parseSpecial: true))) trapped++;
            prompts++;
        }
        Assert.Equal(12, prompts);
        Assert.True(trapped > 0);
        Assert.Superset(new HashSet<int> { 0, 2 }, codec.StopTokens.ToHashSet());
    }

    [Fact]
    public void A_package_with_the_side_file_has_a_codec()
    {
        byte[] stored = File.ReadAllBytes(Data("llama.tokenizer.gguf.json"));
        var codec = TextCodec.FromFiles(name => name == VocabularySource.FileName ? stored : null)!;
        Assert.Contains(VocabularySource.FileName, TextCodec.FileNames);
        Assert.Equal(384, codec.VocabSize);
        Assert.Equal([2], codec.StopTokens);
        Assert.True(codec.IsSpecial(1));
    }

    private static VocabularySource Small(string model = "llama") => new()
    {
        Model = model,
        Tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab", "▁", "▁ab", "<0x41>", "<tool>"],
        Scores = [0, 0, 0, -10, -11, -1, -12, -2, 0, 0],
        TokenTypes = [2, 3, 3, 1, 1, 1, 1, 1, 6, 4],
    };

    [Fact]
    public void Merges_follow_the_scores_bytes_fall_back_and_flags_are_obeyed()
    {
        var codec = new TextCodec(Small());
        Assert.Equal([1, 7, 5], codec.Encode("abab", parseSpecial: false, addSpecial: true));
        Assert.Equal([6, 8, 0, 5], codec.Encode("Azzab", parseSpecial: false)); // a byte, two unknown characters as one, a merge
        Assert.Equal([7, 9, 7, 2], codec.Encode("ab<tool>ab</s>", parseSpecial: true));
        Assert.Equal([7, 9, 6, 0, 3, 0], codec.Encode("ab<tool>[a]", parseSpecial: false));
        Assert.Equal("abA<tool>", codec.Decode([7, 8, 9], skipSpecial: true));
        var bare = new TextCodec(Small() with { AddSpacePrefix = false, AddBos = false, AddEos = true });
        Assert.Equal([5, 2], bare.Encode("ab", parseSpecial: false, addSpecial: true));
        Assert.Equal(" ab", bare.Decode([7], skipSpecial: false));
    }

    [Fact]
    public void A_character_that_only_occurs_inside_longer_entries_still_merges()
    {
        var codec = new TextCodec(new VocabularySource { Model = "llama", Tokens = ["<unk>", "<s>", "</s>", "xy", "xyz"], Scores = [0, 0, 0, -1, -2], TokenTypes = [2, 3, 3, 1, 1], AddSpacePrefix = false });
        Assert.Equal([4, 3, 0], codec.Encode("xyzxyxx", parseSpecial: false));
    }

    [Fact]
    public void Every_known_pre_tokenizer_loads_and_gives_the_text_back()
    {
        const string text = "Hello, I'M 12345 naïve 中文 ＡＢ! don't\r\n\r\n  x = {\"k\": 1.5}\t𝕏𐐀𞤀 👩‍👩‍👧 ";
        string names = Assert.Throws<ModelFormatException>(() => new TextCodec(Source("qwen2") with { Pre = "from-another-world" })).Message;
        Assert.Contains("\"from-another-world\"", names, StringComparison.Ordinal);
        string[] known = names[(names.IndexOf("supported; ", StringComparison.Ordinal) + 11)..^4].Split(", ");
        Assert.True(known.Length >= 30);
        foreach (string pre in known)
        {
            var codec = new TextCodec(Source("qwen2") with { Pre = pre });
            Assert.Equal(text, codec.Decode(codec.Encode(text, parseSpecial: false), skipSpecial: false));
        }
    }

    [Fact]
    public void What_cannot_be_used_is_refused_by_name()
    {
        Says("\"bert\"", Small("bert"));
        Says("no tokens", Small() with { Tokens = [] });
        Says("10 tokens have 2 types", Small() with { TokenTypes = [1, 1] });
        Says("10 tokens have 1 scores", Small() with { Scores = [1] });
        Says("type 9", Small() with { TokenTypes = [2, 3, 3, 1, 1, 1, 1, 1, 6, 9] });
        Says("score", Small() with { Scores = [0, 0, 0, float.NaN, -11, -1, -12, -2, 0, 0] });
        Says("eos_token_id is 10", Small() with { Eos = 10 });
        Says("bos_token_id is -1", Small() with { Bos = -1 });
        Says("is a byte", Small() with { TokenTypes = [2, 3, 3, 6, 1, 1, 1, 1, 6, 4] });
        Says("no merges", Small("gpt2"));
        Says("merges[0] is \"ab\"", Small("gpt2") with { Merges = ["ab"] });
        Says("names \"z\"", Small("gpt2") with { Merges = ["a z"] });
        Says("makes \"ba\"", Small("gpt2") with { Merges = ["b a"] });
        Says("300 characters", Small() with { Tokens = ["<unk>", "<s>", "</s>", new('a', 300), "b", "ab", "▁", "▁ab", "<0x41>", "<tool>"] });

        static void Says(string what, VocabularySource source)
        {
            string message = Assert.Throws<ModelFormatException>(() => new TextCodec(source)).Message;
            Assert.StartsWith("tokenizer.ggml: ", message, StringComparison.Ordinal);
            Assert.Contains(what, message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("[]", "not a JSON object")]
    [InlineData("{", "not valid JSON")]
    [InlineData("""{"format":2}""", "format 1")]
    [InlineData("""{"format":1}""", "\"model\"")]
    [InlineData("""{"format":1,"model":"llama","tokens":[1]}""", "\"tokens\"[0]")]
    [InlineData("""{"format":1,"model":"llama","bos":"x"}""", "\"bos\"")]
    [InlineData("""{"format":1,"model":"llama","add_bos":1}""", "\"add_bos\"")]
    public void A_damaged_side_file_is_one_clear_error(string json, string says)
    {
        string message = Assert.Throws<ModelFormatException>(() => VocabularySource.Parse(System.Text.Encoding.UTF8.GetBytes(json))).Message;
        Assert.StartsWith("tokenizer.gguf.json: ", message, StringComparison.Ordinal);
        Assert.Contains(says, message, StringComparison.Ordinal);
    }
}
