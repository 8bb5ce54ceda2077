using System.Text.Json;
using FlashOrleans.Models.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Text;

/// <summary>The tokenizers of tests/data/tokenizers and of the bundled model, loaded once.</summary>
internal static class CodecData
{
    public static readonly string[] Names = ["gpt2-bytelevel", "llama3-bytelevel", "qwen2-bytelevel", "falcon", "sp-bpe-llama", "sp-bpe-gemma", "sp-unigram"];

    public static TheoryData<string> All => [.. Names];

    public static TextCodec Emberling { get; } = TextCodec.FromFolder(TestData.Repo("models", "emberling"))!;

    private static readonly Dictionary<string, TextCodec> s_codecs =
        Names.ToDictionary(n => n, n => TextCodec.FromFolder(Folder(n))!, StringComparer.Ordinal);

    public static TextCodec Codec(string name) => s_codecs[name];

    public static string Folder(string name) => TestData.Repo("tests", "data", "tokenizers", name);

    public static IEnumerable<JsonElement> Cases(string name, string file) => TestData.Json(Path.Combine(Folder(name), file)).EnumerateArray();

    public static string Text(JsonElement of, string name) => of.GetProperty(name).GetString()!;
}
