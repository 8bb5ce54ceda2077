namespace FlashOrleans.Engine;

/// <summary>
/// The constants that results depend on. Same package, same <see cref="Version"/>: same bits, whatever else differs. Changing any of these, or the order of
/// any sum, is a new version; engines that differ in it do not serve one model together.
/// </summary>
public static class Numerics
{
    public const int Version = 3;
    /// <summary>`down` is summed in blocks of this many neuron ids, each from +0, and the blocks are added in ascending order.</summary>
    public const int NeuronBlock = 128;
    /// <summary>Attention is summed in splits of this many positions, cut at its multiples, each with a softmax of its own; they are merged in ascending order.</summary>
    public const int SplitPositions = 256;
    /// <summary>Scratch for block sums that wait for their turn. Not a numeric constant: how many blocks are open at once changes no result.</summary>
    internal const long PartialBytes = 8 << 20;
}
