using System.Numerics;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Where the parts of a step's scratch memory lie, rows x width each: a pure function of the model's shape and formats, of rows and of threads. The step lays out by it, the budget's plan
/// pays for it. Offsets in bytes, multiples of 64.
/// </summary>
internal readonly record struct StepLayout
{
    /// <summary>Rows there is room for.</summary>
    public int Capacity { get; private init; }
    public int PartialBuffers { get; private init; }
    public long X { get; private init; }
    public long Normalised { get; private init; }
    public long Residual { get; private init; }
    public long Sum { get; private init; }
    public long Qkv { get; private init; }
    public long Attended { get; private init; }
    public long Quantised { get; private init; }
    public long AttendedQuantised { get; private init; }
    /// <summary>Pre-activations of the selector, or scores of a predictor.</summary>
    public long Selected { get; private init; }
    /// <summary>Weights of the experts, 0 for those that a row does not use.</summary>
    public long Routed { get; private init; }
    public long Partials { get; private init; }
    /// <summary>A dense feed-forward's activations, by partial buffer.</summary>
    public long Activations { get; private init; }
    /// <summary>The inputs of experts' tokens: a row for each of the partial sums; where experts are read by neuron, a tile for each worker.</summary>
    public long Gathered { get; private init; }
    public long GatheredStride { get; private init; }
    /// <summary>A panel that rows are woven into, and the products of one item, twice; for each worker.</summary>
    public long Woven { get; private init; }
    /// <summary>What the input is multiplied to where there is a latent; a latent, normalised, and its quantised form; the keys' parts that are made of it.</summary>
    public long Projected { get; private init; }
    public long Latent { get; private init; }
    public long LatentQuantised { get; private init; }
    public long KeyParts { get; private init; }
    /// <summary>The shared expert's activations, and twice as many numbers where it is gated; then their quantised form.</summary>
    public long Shared { get; private init; }
    public long SharedQuantised { get; private init; }
    public long WovenBytes { get; private init; }
    public long Products { get; private init; }
    public long Embedding { get; private init; }
    public long Angles { get; private init; }
    public long Low { get; private init; }
    public long LowQuantised { get; private init; }
    /// <summary>What a worker needs for one split of a tile's queries; largest score and sum of every row's heads; splits that wait to be merged, in numbers so many.</summary>
    public long Attention { get; private init; }
    public long Softmax { get; private init; }
    public long Splits { get; private init; }
    public long SplitsRoom { get; private init; }
    public long Bytes { get; private init; }

    /// <summary>Numbers of the products of one item.</summary>
    public static long ProductFloats(int capacity) => Math.Max(WeightLayout.PanelRows * capacity, Numerics.NeuronBlock * Math.Clamp(capacity, LayerStep.TiledRows, LayerStep.SlabTokens));

    public static StepLayout For(Manifest manifest, int rows, int threads, long partialBytes)
    {
        ModelConfig c = manifest.Model;
        int predictorRank = manifest.Predictors?.MaxRank ?? 0;
        long woven = manifest.Weights.All.Max(f => (WeightLayout.PanelBytes(f, c.HiddenSize) + 63L) & ~63L);
        long gathered = c.Experts == null ? 0 : Kernels.QuantizedBytes(c.HiddenSize) + (manifest.Weights.All.All(WeightLayout.IsQuantized) ? 0 : c.HiddenSize * 4L);
        int capacity = Math.Max(8, (int)BitOperations.RoundUpToPowerOf2((uint)rows)), wide = c.AttendedSize;
        // One arena serves every layer of the model, whichever of them it was made for.
        int single = c.Experts is { ByNeuron: true } e ? Math.Max(c.FfnSize, e.Count * e.Size) : c.FfnSize;
        int blocks = Math.Max((single + Numerics.NeuronBlock - 1) / Numerics.NeuronBlock, c.Experts?.Count ?? 0);
        int latent = Math.Max(c.Latent?.KvRank ?? 0, c.Latent?.QueryRank ?? 0), shared = c.Experts?.SharedSize ?? 0;
        int partials = (int)Math.Clamp(partialBytes / ((long)capacity * c.HiddenSize * 4), 2, Math.Max(2, blocks));
        // One thread has nobody to share positions with.
        long splits = threads > 1 ? threads * AttentionTile.SplitsPerThread * AttentionTile.Of(c).SplitFloats : 0;
        long offset = 0;
        long Take(long bytes)
        {
            long at = offset;
            offset += (bytes + 63) & ~63L;
            return at;
        }
        long d = (long)capacity * c.HiddenSize * 4;
        return new StepLayout
        {
            Capacity = capacity,
            PartialBuffers = partials,
            X = Take(d),
            Normalised = Take(d),
            Residual = Take(d),
            Sum = Take(d),
            Qkv = Take((long)capacity * c.QkvRows * 4),
            Attended = Take((long)capacity * wide * 4),
            Quantised = Take((long)capacity * Kernels.QuantizedBytes(Math.Max(c.HiddenSize, c.EmbeddingSize))),
            AttendedQuantised = Take((long)capacity * Kernels.QuantizedBytes(wide)),
            Selected = Take(c.IsSparse ? (long)capacity * single * 4 : 0),
            Routed = Take((long)capacity * (c.Experts?.Count ?? 0) * 4),
            Partials = Take(d * partials),
            Activations = Take((long)partials * Numerics.NeuronBlock * capacity * 4),
            Gathered = Take((c.Experts is { ByNeuron: true } ? (long)threads * LayerStep.SlabTokens : partials * capacity) * gathered),
            GatheredStride = gathered,
            Woven = Take(threads * woven),
            WovenBytes = woven,
            Products = Take(threads * 2 * ProductFloats(capacity) * 4),
            Embedding = Take((long)capacity * c.EmbeddingSize * 4),
            Angles = Take(c.RopeByLength ? (long)capacity * c.HeadDim * 4 : 0),
            Low = Take((long)capacity * predictorRank * 4),
            LowQuantised = Take((long)capacity * Kernels.QuantizedBytes(predictorRank)),
            Projected = Take(c.Latent != null ? (long)capacity * c.ProjectedRows * 4 : 0),
            Latent = Take((long)capacity * latent * 4),
            LatentQuantised = Take((long)capacity * Kernels.QuantizedBytes(latent)),
            KeyParts = Take(c.Latent is { } l ? (long)capacity * c.Heads * (c.HeadDim - l.RopeDim) * 4 : 0),
            Shared = Take((long)capacity * shared * (c.Gated ? 2 : 1) * 4),
            SharedQuantised = Take((long)capacity * Kernels.QuantizedBytes(shared)),
            Attention = Take(threads * AttentionTile.Of(c).Floats * 4),
            Softmax = Take((long)capacity * c.Heads * 2 * 4),
            Splits = Take(splits * 4),
            SplitsRoom = splits,
            Bytes = offset,
        };
    }
}
