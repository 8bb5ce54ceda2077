using System.Text.Json;

namespace FlashOrleans.Models.Text;

/// <summary>
/// What <c>tokenizer.ggml.pre</c> names: GGUF files hold the vocabulary of a byte-level BPE but of its pre-tokeniser the name only. The patterns are those of
/// the published tokenizer.json files; a name not listed is refused, because any other pattern gives other ids without a sign of it.
/// </summary>
internal static class GgufPreTokenizers
{
    internal sealed record Known(string[] Patterns, bool Nfc = false, bool IgnoreMerges = false, bool AddBos = false);

    private const string Llama3 = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Qwen2 = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Tekken = @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Gpt4O = @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string DeepSeek3 = @"[!""#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    // DeepSeek's own list of cased letters, neither a category nor a block; in escapes because editors compose some of them into others.
    private const string CasedLetters =
        "A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386"
        + "\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF"
        + "\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4"
        + "\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115"
        + "\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE"
        + "\u2CF2\u2CF3\uA640-\uA66D\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A"
        + "\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-\U0001E943";
    private const string EastAsian = "[一-龥\u0800-一가-\uD7FF]+";

    private static readonly Dictionary<string, Known> s_known = Make();

    public static Known? Find(string name) => s_known.GetValueOrDefault(name);

    public static string Names => string.Join(", ", s_known.Keys.Append("falcon").Order(StringComparer.Ordinal));

    /// <summary>Falcon's splits after the byte alphabet, which no list of patterns over text can say.</summary>
    public static PreTokenizer Falcon()
    {
        using var steps = JsonDocument.Parse("""
            [{"type":"Punctuation","behavior":"Contiguous"},{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},
             {"type":"Digits","individual_digits":false},{"type":"Split","pattern":{"Regex":"[0-9][0-9][0-9]"},"behavior":"Isolated"}]
            """);
        return new(steps.RootElement.EnumerateArray().ToList());
    }

    private static Dictionary<string, Known> Make()
    {
        var known = new Dictionary<string, Known>(StringComparer.Ordinal);
        // What llama.cpp does with a file that does not say better.
        Add(new([@"[\p{P}$+<=>^~|]+", PreTokenizer.Gpt2Pattern, @"\p{N}+", "[0-9][0-9][0-9]"]), "default");
        Add(new([PreTokenizer.Gpt2Pattern]), "gpt-2", "gpt2", "phi-2", "mpt", "jais", "exaone4");
        Add(new([PreTokenizer.Gpt2Pattern], Nfc: true), "olmo");
        Add(new([@"\p{N}", PreTokenizer.Gpt2Pattern]), "smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b");
        Add(new([@"\p{N}", PreTokenizer.Gpt2Pattern], Nfc: true), "command-r");
        Add(new([Llama3], IgnoreMerges: true, AddBos: true), "llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral");
        Add(new([Llama3]), "dbrx", "smaug-bpe", "glm4", "chatglm-bpe");
        Add(new([Qwen2], Nfc: true), "qwen2", "deepseek-r1-qwen", "megrez");
        Add(new([Qwen2]), "stablelm2");
        Add(new([Tekken], IgnoreMerges: true, AddBos: true), "tekken");
        Add(new([Gpt4O]), "gpt-4o", "llama4");
        Add(new(["[\r\n]", $"\\s?[{CasedLetters}]+", @"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", @"\s+$", EastAsian, @"\p{N}+"]), "deepseek-llm");
        Add(new(["[\r\n]", @"\s?\p{L}+", @"\s?\p{P}+", EastAsian, @"\p{N}"]), "deepseek-coder");
        Add(new([@"\p{N}{1,3}", @"[一-龥\u3040-ゟ゠-ヿ]+", DeepSeek3]), "deepseek-v3", "hunyuan-dense");
        return known;

        void Add(Known pattern, params ReadOnlySpan<string> names)
        {
            foreach (string name in names) known.Add(name, pattern);
        }
    }
}
