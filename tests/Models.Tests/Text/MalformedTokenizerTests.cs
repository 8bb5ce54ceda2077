using System.Text;
using System.Text.Json;
using CsCheck;
using FlashOrleans.Models.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Text;

/// <summary>What cannot be used is refused in one line that says what and where; nothing is skipped silently.</summary>
public sealed class MalformedTokenizerTests
{
    private static readonly byte[][] s_short = [.. CodecData.Names.Select(static n => TokenizerMutations.Shorten(CodecData.Folder(n)))];

    private static byte[] Bad(string name) => File.ReadAllBytes(TestData.Repo("tests", "data", "tokenizers", "bad", name + ".json"));

    private static string Refusal(string json, string? config = null, string? generation = null)
    {
        static byte[]? Bytes(string? s) => s is null ? null : Encoding.UTF8.GetBytes(s);
        return Assert.Throws<ModelFormatException>(() => new TextCodec(Encoding.UTF8.GetBytes(json), Bytes(config), Bytes(generation))).Message;
    }

    [Theory]
    [InlineData("bad-regex", "(unclosed[a-")]
    [InlineData("broken-json", "not valid JSON")]
    [InlineData("id-beyond-int32", "token \"ab\" has id 1099511627776")]
    [InlineData("merge-malformed", "model.merges[0] is \"abc\"")]
    [InlineData("merge-not-in-vocab", "names \"z\"")]
    [InlineData("merge-result-not-in-vocab", "makes \"ba\"")]
    [InlineData("negative-id", "token \"b\" has id -1")]
    [InlineData("no-model", "no \"model\"")]
    [InlineData("unknown-model", "\"Quantum\"")]
    [InlineData("unknown-pretokenizer", "\"Teleport\"")]
    public void Each_malformed_file_is_its_own_clear_error(string name, string says)
    {
        var error = Assert.Throws<ModelFormatException>(() => new TextCodec(Bad(name)));
        Assert.StartsWith("tokenizer.json: ", error.Message, StringComparison.Ordinal);
        Assert.Contains(says, error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
    }

    [Fact]
    public void Every_malformed_tokenizer_beside_the_repository_is_refused_with_little_memory()
    {
        string[] folders = Directory.GetDirectories(TestData.Shared("golden", "bad"), "tokenizer-*");
        Assert.True(folders.Length >= 11);
        foreach (string folder in folders)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            if (folder.EndsWith("-ok", StringComparison.Ordinal)) Assert.NotNull(TextCodec.FromFolder(folder));
            else Assert.DoesNotContain('\n', Assert.Throws<ModelFormatException>(() => TextCodec.FromFolder(folder)).Message);
            Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 8 << 20);
        }
    }

    [Fact]
    public void The_control_file_loads_and_merges()
    {
        var codec = new TextCodec(Bad("ok"));
        Assert.Equal([2, 0], codec.Encode("aba", parseSpecial: true));
        Assert.Equal("aba", codec.Decode([2, 0], skipSpecial: false));
        Assert.Null(codec.ChatTemplate);
        Assert.Empty(codec.StopTokens);
    }

    [Fact]
    public void One_huge_id_is_no_reason_for_a_huge_table()
    {
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Contains("id 2000000000", Refusal("""{"model":{"type":"BPE","vocab":{"a":2000000000},"merges":[]}}"""), StringComparison.Ordinal);
        Assert.Contains("id 2147483647", Refusal("""{"added_tokens":[{"id":2147483647,"content":"x"}],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"""), StringComparison.Ordinal);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
    }

    [Theory]
    [InlineData("[]", "expected an object")]
    [InlineData("", "not valid JSON")]
    [InlineData("""{"model":[]}""", "\"model\"")]
    [InlineData("""{"model":{"type":7}}""", "\"type\"")]
    [InlineData("""{"model":{"type":"BPE","merges":[]}}""", "model.vocab")]
    [InlineData("""{"model":{"type":"BPE","vocab":{},"merges":[]}}""", "empty")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":1.5},"merges":[]}}""", "1.5")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":"0"},"merges":[]}}""", "id \"0\"")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0}}}""", "model.merges")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0},"merges":[[1,2]]}}""", "merges[0]")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"?"}}""", "unk_token")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"ignore_merges":1}}""", "ignore_merges")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"continuing_subword_prefix":"##"}}""", "continuing_subword_prefix")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"\ud800":0},"merges":[]}}""", "text")]
    [InlineData("""{"added_tokens":{},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "added_tokens")]
    [InlineData("""{"added_tokens":[{"id":1}],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "added_tokens[0]")]
    [InlineData("""{"added_tokens":[{"content":"x"}],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "\"x\" has id none")]
    [InlineData("""{"normalizer":{"type":"Lowercase"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "\"Lowercase\"")]
    [InlineData("""{"decoder":{"type":"WordPiece"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "\"WordPiece\"")]
    [InlineData("""{"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "both or none")]
    [InlineData("""{"post_processor":{"type":"Bert"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "\"Bert\"")]
    [InlineData("""{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"?"}}]},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "post_processor.single")]
    [InlineData("""{"pre_tokenizer":{"type":"Sequence"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "pre_tokenizer.pretokenizers")]
    [InlineData("""{"pre_tokenizer":{"type":"Split"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "no pattern")]
    [InlineData("""{"pre_tokenizer":{"type":"Split","pattern":{"String":"x"},"behavior":"MergedWithFriend"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "MergedWithFriend")]
    [InlineData("""{"decoder":{"type":"Strip","content":" ","start":1},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "decoder \"Strip\"")]
    [InlineData("""{"decoder":{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "after Fuse")]
    [InlineData("""{"normalizer":{"type":"Sequence","normalizers":[{"type":"Precompiled","precompiled_charsmap":""}]},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "\"Precompiled\"")]
    [InlineData("""{"normalizer":{"type":"Replace","content":"x"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "no pattern")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":0.1}}""", "dropout")]
    [InlineData("""{"model":{"type":"Unigram","vocab":[["a",0]]}}""", "unk_id")]
    [InlineData("""{"model":{"type":"Unigram","unk_id":1,"vocab":[["a",0]]}}""", "unk_id is 1")]
    [InlineData("""{"model":{"type":"Unigram","unk_id":0,"vocab":[["a",1e999]]}}""", "vocab[0]")]
    [InlineData("""{"model":{"type":"Unigram","unk_id":0,"vocab":[["a"]]}}""", "vocab[0]")]
    [InlineData("""{"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{}},{"Sequence":{}}]},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "post_processor.single")]
    [InlineData("""{"pre_tokenizer":{"type":"Metaspace","prepend_scheme":"maybe"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "\"maybe\"")]
    [InlineData("""{"pre_tokenizer":{"type":"BertPreTokenizer"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", "\"BertPreTokenizer\"")]
    public void What_is_missing_or_of_the_wrong_kind_is_named(string json, string says) => Assert.Contains(says, Refusal(json), StringComparison.Ordinal);

    [Fact]
    public void Deep_nesting_is_refused() =>
        Assert.Contains("not valid JSON", Refusal(string.Concat(Enumerable.Repeat("{\"a\":", 100_000))), StringComparison.Ordinal);

    [Theory]
    [InlineData("{", null, "tokenizer_config.json")]
    [InlineData("[]", null, "tokenizer_config.json")]
    [InlineData("""{"eos_token":5}""", null, "eos_token")]
    [InlineData("""{"chat_template":5}""", null, "chat_template")]
    [InlineData("""{"\ud800_token":"x"}""", null, "tokenizer_config.json")]
    [InlineData("""{"eos_token":"\ud800"}""", null, "tokenizer_config.json")]
    [InlineData(null, "nothing", "generation_config.json")]
    [InlineData(null, """{"eos_token_id":"2"}""", "eos_token_id")]
    [InlineData(null, """{"eos_token_id":[2,-1]}""", "eos_token_id")]
    public void Side_files_are_checked_as_well(string? config, string? generation, string says) =>
        Assert.Contains(says, Refusal("""{"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""", config, generation), StringComparison.Ordinal);

    [Theory]
    [InlineData(@"(a)\1", "\\1")]
    [InlineData(@"\p{Han}+", "Han")]
    [InlineData(@"[a-z&&[^x]]", "&&")]
    [InlineData(@"[[:alpha:]]", "class inside a class")]
    [InlineData(@"a{2}+", "possessive interval")]
    [InlineData(@"(?<name>a)", "kind of group")]
    [InlineData(@"(?i:é)", "beyond ASCII")]
    [InlineData(@"a**", "repeats")]
    [InlineData(@"*a", "repeats nothing")]
    [InlineData(@"a)", ") without")]
    [InlineData(@"[z-a]", "range")]
    [InlineData(@"a\", "ends with")]
    public void A_pattern_that_could_mean_something_else_is_refused(string pattern, string says) =>
        Assert.Contains(says, Refusal($$$"""{"pre_tokenizer":{"type":"Split","pattern":{"Regex":{{{JsonSerializer.Serialize(pattern)}}}}},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"""), StringComparison.Ordinal);

    // CsCheck_Iter=30000 runs more of them.
    [Fact]
    public void Mutations_of_good_files_load_or_are_refused_but_never_crash() =>
        Gen.Select(Gen.Int[0, CodecData.Names.Length - 1], Gen.Int).Sample(static (file, seed) =>
        {
            byte[] bytes = TokenizerMutations.Make(s_short[file], new Random(seed));
            try
            {
                var codec = new TextCodec(bytes);
                int[] ids = codec.Encode("Some text, 1234 and\n\n  moré <|endoftext|></s> 中文😀\uD800", parseSpecial: true, addSpecial: true);
                codec.Decode(ids, skipSpecial: false);
            }
            catch (ModelFormatException)
            {
                // The other of the two permitted outcomes.
            }
        });
}
