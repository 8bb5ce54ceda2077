using FlashOrleans.Models.Text;

namespace FlashOrleans.Models.Gguf;

/// <summary>The tensors of a GGUF file as a <see cref="WeightSource"/>. Owns the file.</summary>
internal sealed class GgufWeights(GgufFile file) : BlockWeights
{
    /// <summary>The key by which a file of random weights says so.</summary>
    public const string SyntheticSeedKey = "flash.synthetic_seed";

    public override string Name => file.Path;
    public override IReadOnlyList<string> Paths => file.Paths;
    public override long Bytes => file.Bytes;
    public override VocabularySource? Vocabulary => GgufConfig.Vocabulary(file.Metadata);
    public override ulong? SyntheticSeed => file.Metadata.UInt64(SyntheticSeedKey);

    /// <summary>PowerInfer's threshold of the predictors in the file.</summary>
    public float SparseThreshold => file.Metadata.Float32("powerinfer.sparse_threshold") ?? 0;

    public override bool Has(string tensor) => file.Tensors.ContainsKey(tensor);

    public override IReadOnlyList<long> Shape(string tensor) => [.. file.Tensors[tensor].Dims.Reverse()];

    public override string PathOf(string tensor) => file.Paths[file.Tensors[tensor].Part];

    public override void ReadRows(string tensor, long firstRow, int count, Span<float> destination) => file.ReadRows(file.Tensors[tensor], firstRow, count, destination);

    public override void Dispose() => file.Dispose();

    protected override GgufType TypeOf(string tensor) => file.Tensors[tensor].Type;

    protected override int Columns(string tensor) => checked((int)file.Tensors[tensor].Columns);

    protected override long RowBytes(string tensor) => file.Tensors[tensor].RowBytes;

    protected override void ReadRaw(string tensor, long firstRow, int count, Span<byte> destination) => file.ReadRaw(file.Tensors[tensor], firstRow, count, destination);

    protected override void ReadBlocks(string tensor, long row, int firstBlock, Span<byte> to) => file.ReadBlocks(file.Tensors[tensor], row, firstBlock, to);
}
