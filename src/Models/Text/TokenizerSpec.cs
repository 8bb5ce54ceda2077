namespace FlashOrleans.Models.Text;

/// <summary>
/// A tokenizer, read and checked: what a <c>tokenizer.json</c> (<see cref="TokenizerFile"/>) and the vocabulary of a GGUF file (<see cref="GgufVocabulary"/>) become, and all
/// that <see cref="TextCodec"/> knows of them. Immutable.
/// </summary>
internal sealed class TokenizerSpec
{
    public required Dictionary<string, int> Vocabulary { get; init; }
    public required List<AddedToken> Added { get; init; }
    public required Normalizer Normalizer { get; init; }
    public required PreTokenizer PreTokenizer { get; init; }
    public required PieceModel Model { get; init; }
    public required TokenText Text { get; init; }
    /// <summary>Ids that are put around one text.</summary>
    public required int[] Prefix { get; init; }
    public required int[] Suffix { get; init; }
}
