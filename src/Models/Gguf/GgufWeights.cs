using System.Buffers;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// The tensors of a GGUF file as a <see cref="WeightSource"/>. Rows of q8_0, q4_0, q4_1 and q4_K have a format of the package that holds them without loss; the other
/// quantisations are nearest to q8. Owns the file.
/// </summary>
internal sealed class GgufWeights(GgufFile file) : WeightSource
{
    public override string Name => file.Path;
    public override IReadOnlyList<string> Paths => file.Paths;
    public override long Bytes => file.Bytes;

    /// <summary>The tokenizer that the metadata describe, or null where there is none.</summary>
    public VocabularySource? Vocabulary => GgufConfig.Vocabulary(file.Metadata);

    /// <summary>PowerInfer's threshold of the predictors in the file.</summary>
    public float SparseThreshold => file.Metadata.Float32("powerinfer.sparse_threshold") ?? 0;

    public override bool Has(string tensor) => file.Tensors.ContainsKey(tensor);

    public override IReadOnlyList<long> Shape(string tensor) => [.. file.Tensors[tensor].Dims.Reverse()];

    public override string PathOf(string tensor) => file.Paths[file.Tensors[tensor].Part];

    public override void DemandWeights(string tensor)
    {
        GgufType type = file.Tensors[tensor].Type;
        if (!GgufTypes.IsWeight(type)) throw new ModelFormatException(PathOf(tensor), $"tensor {tensor} is of type {type}, which holds no weights");
    }

    public override void ReadRows(string tensor, long firstRow, int count, Span<float> destination) => file.ReadRows(file.Tensors[tensor], firstRow, count, destination);

    public override void ReadBlock(string tensor, long firstRow, int rows, long firstCol, int cols, Span<float> destination)
    {
        GgufTensor info = file.Tensors[tensor];
        (int values, int bytes) = GgufTypes.Block(info.Type);
        // Whole blocks of each row around the wanted columns.
        int skip = (int)(firstCol % values), blocks = (skip + cols + values - 1) / values;
        byte[] stored = ArrayPool<byte>.Shared.Rent(checked((int)info.RowBytes));
        float[] numbers = ArrayPool<float>.Shared.Rent(blocks * values);
        try
        {
            for (int r = 0; r < rows; r++)
            {
                Span<byte> row = stored.AsSpan(0, (int)info.RowBytes);
                file.ReadRaw(info, firstRow + r, 1, row);
                GgufDequantizer.Dequantize(info.Type, row.Slice((int)(firstCol / values) * bytes, blocks * bytes), numbers.AsSpan(0, blocks * values));
                numbers.AsSpan(skip, cols).CopyTo(destination[(r * cols)..]);
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(stored);
            ArrayPool<float>.Shared.Return(numbers);
        }
    }

    public override (WeightFormat Format, bool Lossless) Nearest(string tensor)
    {
        GgufTensor info = file.Tensors[tensor];
        (WeightFormat format, bool lossless) = info.Type switch
        {
            GgufType.F32 => (WeightFormat.F32, false),
            GgufType.F16 or GgufType.BF16 => (WeightFormat.BF16, false),
            GgufType.Q8_0 => (WeightFormat.Q8, true),
            GgufType.Q4_0 => (WeightFormat.Q4, true),
            GgufType.Q4_1 => (WeightFormat.Q4B, true),
            GgufType.Q4_K => (WeightFormat.Q4K, true),
            _ => (WeightFormat.Q8, false),
        };
        return info.Columns % WeightLayout.Multiple(format) == 0 ? (format, lossless) : (WeightFormat.BF16, false);
    }

    public override void ReadStored(string tensor, long row, WeightFormat format, Span<byte> destination)
    {
        GgufTensor info = file.Tensors[tensor];
        byte[] stored = ArrayPool<byte>.Shared.Rent(checked((int)info.RowBytes));
        try
        {
            Span<byte> blocks = stored.AsSpan(0, (int)info.RowBytes);
            file.ReadRaw(info, row, 1, blocks);
            int cols = (int)info.Columns;
            switch (format)
            {
                case WeightFormat.Q8: GgufBlocks.Q8Row(blocks, cols, destination); break;
                case WeightFormat.Q4: GgufBlocks.Q4Row(blocks, cols, destination); break;
                case WeightFormat.Q4B: GgufBlocks.Q4BRow(blocks, cols, destination); break;
                case WeightFormat.Q4K: GgufBlocks.Q4KRow(blocks, cols, destination); break;
                default: throw new InvalidOperationException($"rows of {info.Type} are read as floats");
            }
        }
        catch (ArgumentException e)
        {
            throw new ModelFormatException(PathOf(tensor), $"tensor {tensor} row {row}: {e.Message}", e);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(stored);
        }
    }

    public override void Dispose() => file.Dispose();
}
