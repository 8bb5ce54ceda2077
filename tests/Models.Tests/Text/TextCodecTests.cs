using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using FlashOrleans.Models.Text;
using FlashOrleans.Tests;
using Microsoft.ML.Tokenizers;

namespace FlashOrleans.Models.Tests.Text;

public sealed class TextCodecTests
{
    public static TheoryData<string> Names => CodecData.All;

    [Theory]
    [MemberData(nameof(Names))]
    public void Ids_are_those_of_the_reference(string name)
    {
        var (wrong, compared) = Wrong(CodecData.Codec(name), CodecData.Folder(name));
        Assert.Empty(wrong);
        Assert.True(compared > 150);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Decoded_text_is_that_of_the_reference(string name) => CheckDecoded(CodecData.Codec(name), CodecData.Folder(name));

    [Fact]
    public void Every_case_beside_the_repository_comes_out()
    {
        string[] folders = Directory.GetDirectories(TestData.Shared("golden", "tokenizers"));
        Assert.True(folders.Length >= 7);
        foreach (string folder in folders)
        {
            var codec = TextCodec.FromFolder(folder)!;
            Assert.Empty(Wrong(codec, folder).Wrong);
            CheckDecoded(codec, folder);
            StreamingDecoderTests.CheckPieces(codec, folder);
        }
    }

    private static (List<string> Wrong, int Compared) Wrong(TextCodec codec, string folder)
    {
        var wrong = new List<string>();
        int compared = 0;
        foreach (var c in TestData.Json(Path.Combine(folder, "cases.json")).EnumerateArray())
        {
            string text = CodecData.Text(c, "text");
            Check("ids", codec.Encode(text, parseSpecial: true));
            Check("ids_with_special", codec.Encode(text, parseSpecial: true, addSpecial: true));
            if (c.TryGetProperty("ids_no_special_parsing", out _)) Check("ids_no_special_parsing", codec.Encode(text, parseSpecial: false));

            void Check(string what, int[] ids)
            {
                compared++;
                int[] expected = TestData.Ints(c.GetProperty(what));
                if (!ids.SequenceEqual(expected)) wrong.Add($"{what} of {JsonSerializer.Serialize(text)}: expected {string.Join(',', expected)}, got {string.Join(',', ids)}");
            }
        }
        return (wrong, compared);
    }

    private static void CheckDecoded(TextCodec codec, string folder)
    {
        foreach (var c in TestData.Json(Path.Combine(folder, "cases.json")).EnumerateArray())
        {
            Assert.Equal(CodecData.Text(c, "decoded"), codec.Decode(TestData.Ints(c.GetProperty("ids")), skipSpecial: false));
            Assert.Equal(CodecData.Text(c, "decoded_skip_special"), codec.Decode(TestData.Ints(c.GetProperty("ids_with_special")), skipSpecial: true));
        }
    }

    [Fact]
    public void The_bundled_model_encodes_its_prompts_and_decodes_its_answers_as_the_reference()
    {
        var codec = CodecData.Emberling;
        var golden = TestData.Json(TestData.Repo("models", "emberling", "golden.json"));
        var cases = golden.GetProperty("cases").EnumerateArray().ToArray();
        Assert.Equal(12, cases.Length);
        foreach (var c in cases)
        {
            Assert.Equal(TestData.Ints(c.GetProperty("prompt_ids")), codec.Encode(CodecData.Text(c, "prompt"), parseSpecial: true));
            Assert.Equal(CodecData.Text(c, "greedy_text"), codec.Decode(TestData.Ints(c.GetProperty("greedy_ids")), skipSpecial: false));
        }
        Assert.Equal(TestData.Ints(golden.GetProperty("eos_ids")).Order(), codec.StopTokens.Order());
    }

    [Fact]
    public void Stop_tokens_come_from_the_tokenizer_config_where_nothing_else_names_them()
    {
        Assert.Equal([1499], CodecData.Codec("llama3-bytelevel").StopTokens);
        Assert.Equal([1399], CodecData.Codec("qwen2-bytelevel").StopTokens);
        Assert.Equal(1500, CodecData.Codec("llama3-bytelevel").VocabSize);
    }

    [Fact]
    public void Random_texts_give_the_ids_of_an_independent_implementation()
    {
        string folder = CodecData.Folder("gpt2-bytelevel");
        var model = TestData.Json(Path.Combine(folder, "tokenizer.json")).GetProperty("model");
        var other = BpeTokenizer.Create(new BpeOptions(model.GetProperty("vocab").EnumerateObject().Select(p => KeyValuePair.Create(p.Name, p.Value.GetInt32())))
        {
            Merges = model.GetProperty("merges").EnumerateArray().Select(m => $"{m[0]} {m[1]}"),
            ByteLevel = true,
            PreTokenizer = new RegexPreTokenizer(new Regex(@"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), null),
        });
        var codec = CodecData.Codec("gpt2-bytelevel");
        const string alphabet = "etaoin shrdlu  THE and license software \n\t'sll.,;12é中ñ—";
        var random = new Random(1);
        for (int i = 0; i < 2000; i++)
        {
            string text = string.Concat(Enumerable.Range(0, random.Next(80)).Select(_ => alphabet[random.Next(alphabet.Length)]));
            int[] ids = codec.Encode(text, parseSpecial: false);
            Assert.Equal(other.EncodeToIds(text, considerNormalization: false), ids);
            Assert.Equal(text, codec.Decode(ids, skipSpecial: false));
        }
    }

    [Theory]
    [InlineData("gpt2-bytelevel")]
    [InlineData("llama3-bytelevel")]
    [InlineData("falcon")]
    [InlineData("sp-bpe-llama")]
    [InlineData("sp-bpe-gemma")]
    public void Every_text_survives_the_round_trip(string name)
    {
        var codec = CodecData.Codec(name);
        var random = new Random(2);
        for (int i = 0; i < 500; i++)
        {
            var text = new System.Text.StringBuilder();
            for (int n = random.Next(40); n > 0; n--)
            {
                int point = random.Next(4) switch { 0 => random.Next(0x80), 1 => random.Next(0x800), 2 => random.Next(0xD800), _ => random.Next(0x10000, 0x110000) };
                text.Append(char.ConvertFromUtf32(point));
            }
            Assert.Equal(text.ToString(), codec.Decode(codec.Encode(text.ToString(), parseSpecial: false), skipSpecial: false));
        }
    }

    [Fact]
    public void A_letter_beyond_the_basic_plane_is_a_letter_to_the_pattern()
    {
        // " ?\p{L}+" takes the space with the letter; as two surrogates it would be symbols, and 𝕏 would not join "abc".
        var pre = new Models.Text.PreTokenizer([TestData.Json(Path.Combine(CodecData.Folder("gpt2-bytelevel"), "tokenizer.json")).GetProperty("pre_tokenizer")]);
        Assert.Equal(["abc𝕏𠜎d", " 𐍈", "😀", " 𝟘𝟙", "!😀"], Pieces(pre, "abc𝕏𠜎d 𐍈😀 𝟘𝟙!😀"));
        Assert.Equal(["a", "\uD800", "b"], Pieces(pre, "a\uD800b"));
    }

    private static string[] Pieces(Models.Text.PreTokenizer pre, string text)
    {
        var ranges = new List<Range>();
        pre.SplitText(text, ranges);
        return [.. ranges.Select(r => text[r])];
    }

    [Fact]
    public void Pieces_that_are_cut_where_no_merge_can_reach_have_the_ids_of_the_whole()
    {
        foreach (string name in new[] { "sp-bpe-llama", "sp-bpe-gemma" })
        {
            var codec = CodecData.Codec(name);
            var file = JsonNode.Parse(File.ReadAllBytes(Path.Combine(CodecData.Folder(name), "tokenizer.json")))!;
            file["model"]!["ignore_merges"] = true; // which forbids cutting, and changes nothing in a text longer than every entry
            var whole = new TextCodec(JsonSerializer.SerializeToUtf8Bytes(file));
            var random = new Random(9);
            const string alphabet = "etaoin shrdlu  THE and license software \n\t'sll.,;12é中ñ—😀▁";
            for (int i = 0; i < 300; i++)
            {
                string text = new([.. Enumerable.Range(0, 200).Select(_ => alphabet[random.Next(alphabet.Length)])]);
                Assert.Equal(whole.Encode(text, parseSpecial: false), codec.Encode(text, parseSpecial: false));
            }
        }
    }

    [Fact]
    public void An_unpaired_surrogate_is_the_replacement_character()
    {
        var codec = CodecData.Codec("qwen2-bytelevel");
        Assert.Equal(codec.Encode("a\uFFFDb", true), codec.Encode("a\uD800b", true));
        Assert.Equal(codec.Encode("é\uFFFD", true), codec.Encode("e\u0301\uDC00", true));
    }

    [Theory]
    [InlineData("gpt2-bytelevel")]
    [InlineData("sp-bpe-llama")]
    [InlineData("sp-bpe-gemma")]
    [InlineData("sp-unigram")]
    public void A_word_of_a_megabyte_is_encoded_without_quadratic_work(string name)
    {
        var random = new Random(3);
        string word = string.Create(1_000_000, random, static (chars, r) => { foreach (ref char c in chars) c = (char)('a' + r.Next(26)); });
        var codec = CodecData.Codec(name);
        int[] ids = codec.Encode(word, parseSpecial: false);
        Assert.Equal(word, codec.Decode(ids, skipSpecial: false));
        // Merges stop at nothing inside a word, so far from any edge the ids are those of a shorter stretch.
        Assert.Equal(codec.Encode(word[..5000], parseSpecial: false).Take(1000), ids.Take(1000));
    }

    [Fact]
    public void The_cache_forgets_without_changing_the_ids()
    {
        var codec = TextCodec.FromFolder(CodecData.Folder("gpt2-bytelevel"))!;
        string[] words = [.. Enumerable.Range(0, 60_000).Select(i => $" w{i * 7919}")];
        int[][] first = [.. words.Select(w => codec.Encode(w, false))];
        int[] all = codec.Encode(string.Concat(words), false);
        Assert.Equal(first.SelectMany(static ids => ids), all);
    }

    [Fact]
    public void Ids_without_an_entry_have_no_text()
    {
        var codec = CodecData.Emberling;
        Assert.Equal("", codec.Decode([codec.VocabSize, int.MaxValue, -1], skipSpecial: false));
        Assert.Null(codec.TokenId("no such token"));
        Assert.Equal(2, codec.TokenId("<|im_end|>"));
    }

    [Fact]
    public void Added_tokens_obey_their_flags_and_the_longest_of_two_wins()
    {
        const string json = """
            {"added_tokens":[{"id":300,"content":"<a>","special":true},{"id":301,"content":"<a><b>","special":true},{"id":302,"content":"mid","single_word":true},
            {"id":303,"content":"<m>","lstrip":true,"rstrip":true},{"id":304,"content":"","special":true}],
            "pre_tokenizer":null,"model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"m":3,"i":4,"d":5,"<":6,">":7," ":8},"merges":[]}}
            """;
        var codec = new TextCodec(System.Text.Encoding.UTF8.GetBytes(json));
        Assert.Equal([0, 301, 1], codec.Encode("a<a><b>b", parseSpecial: true));
        Assert.Equal([300, 300], codec.Encode("<a><a>", parseSpecial: true));
        Assert.Equal([6, 0, 7], codec.Encode("<a>", parseSpecial: false));
        Assert.Equal([0, 3, 4, 5, 8, 302, 8, 0], codec.Encode("amid mid a", parseSpecial: false));
        Assert.Equal([0, 303, 1], codec.Encode("a  <m> b", parseSpecial: false));
    }
}
