using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// The metadata of a GGUF file → <see cref="ModelConfig"/>, names of tensors and vocabulary. Architectures whose conventions were checked against reference logits
/// (<see cref="GgufArchitecture"/>) are supported, others are refused by name: a file that is read wrongly computes nonsense without a word.
/// </summary>
internal static class GgufConfig
{
    public static (ModelConfig Config, TensorNames Names, GgufKeys Keys) Read(GgufFile file)
    {
        var keys = new GgufKeys(file);
        GgufArchitecture architecture = GgufArchitecture.For(keys);
        ModelConfig config = architecture.ReadConfig(keys);
        keys.DemandNoOtherKeys();
        return (config, architecture.Names(keys, config), keys);
    }

    /// <summary>The tokenizer, or null where the file brings none.</summary>
    public static VocabularySource? Vocabulary(GgufMetadata m)
    {
        if (m.String("tokenizer.ggml.model") is not { } model || m.Tokens is not { } tokens) return null;
        int? Token(string name) => m.Int32($"tokenizer.ggml.{name}_token_id");
        return new VocabularySource
        {
            Model = model,
            Pre = m.String("tokenizer.ggml.pre"),
            Name = m.String("general.name"),
            Tokens = tokens,
            Scores = m.Scores ?? [],
            TokenTypes = m.TokenTypes ?? [],
            Merges = m.Merges ?? [],
            Bos = Token("bos"),
            Eos = Token("eos"),
            Eot = Token("eot"),
            Unknown = Token("unknown"),
            Padding = Token("padding"),
            AddBos = m.Bool("tokenizer.ggml.add_bos_token"),
            AddEos = m.Bool("tokenizer.ggml.add_eos_token"),
            AddSpacePrefix = m.Bool("tokenizer.ggml.add_space_prefix"),
            ChatTemplate = m.String("tokenizer.chat_template"),
        };
    }
}
