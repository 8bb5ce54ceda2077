namespace FlashOrleans.Flash;

/// <summary>
/// Attention whose keys and values come from a few numbers (DeepSeek): a position gives a latent of <see cref="KvRank"/> numbers and one rotated key part that all heads share; of the normalised latent two
/// matrices make each head's other key part, and its value. Every head has a key of its own: <see cref="ModelConfig.KvHeads"/> is <see cref="ModelConfig.Heads"/>.
/// </summary>
public sealed record LatentConfig
{
    /// <summary>Numbers of the latent that keys and values are made of.</summary>
    public required int KvRank { get; init; }
    /// <summary>Numbers of a key that are rotated, the same for all heads; their pairs lie first in each half of the head.</summary>
    public required int RopeDim { get; init; }
    /// <summary>Numbers of the latent that queries are made of; 0: they are made of the layer's input.</summary>
    public int QueryRank { get; init; }
    /// <summary>Of the norms of both latents.</summary>
    public float NormEps { get; init; } = 1e-6f;
}
