using System.Buffers;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Gguf;

namespace FlashOrleans.Models;

/// <summary>
/// Tensors whose rows are stored in the blocks of GGUF, wherever the blocks come from. Rows of q8_0, q4_0, q4_1 and q4_K have a format of the package that holds them without
/// loss; the other quantisations are nearest to q8.
/// </summary>
internal abstract class BlockWeights : WeightSource
{
    protected abstract GgufType TypeOf(string tensor);
    /// <summary>Numbers in a row.</summary>
    protected abstract int Columns(string tensor);
    /// <summary>Blocks from <paramref name="firstBlock"/> on of one row, as many as <paramref name="to"/> has room for.</summary>
    protected abstract void ReadBlocks(string tensor, long row, int firstBlock, Span<byte> to);

    public override void DemandWeights(string tensor)
    {
        GgufType type = TypeOf(tensor);
        if (!GgufTypes.IsWeight(type)) throw new ModelFormatException(PathOf(tensor), $"tensor {tensor} is of type {type}, which holds no weights");
    }

    public override void ReadRows(string tensor, long firstRow, int count, Span<float> destination)
    {
        int cols = Columns(tensor);
        ReadBlock(tensor, firstRow, count, 0, cols, destination);
    }

    public override void ReadBlock(string tensor, long firstRow, int rows, long firstCol, int cols, Span<float> destination)
    {
        GgufType type = TypeOf(tensor);
        (int values, int bytes) = GgufTypes.Block(type);
        // Whole blocks of each row around the wanted columns.
        int skip = (int)(firstCol % values), blocks = (skip + cols + values - 1) / values;
        Held? held = HeldOf(tensor, firstRow, rows);
        byte[] stored = ArrayPool<byte>.Shared.Rent(checked(blocks * bytes));
        float[] numbers = ArrayPool<float>.Shared.Rent(blocks * values);
        try
        {
            for (int r = 0; r < rows; r++)
            {
                Span<byte> part = stored.AsSpan(0, blocks * bytes);
                if (held == null) ReadBlocks(tensor, firstRow + r, (int)(firstCol / values), part);
                GgufDequantizer.Dequantize(type, held == null ? part : held.Row(firstRow + r).Slice((int)(firstCol / values) * bytes, blocks * bytes), numbers.AsSpan(0, blocks * values));
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
        (WeightFormat format, bool lossless) = TypeOf(tensor) switch
        {
            GgufType.F32 => (WeightFormat.F32, false),
            GgufType.F16 or GgufType.BF16 => (WeightFormat.BF16, false),
            GgufType.Q8_0 => (WeightFormat.Q8, true),
            GgufType.Q4_0 => (WeightFormat.Q4, true),
            GgufType.Q4_1 => (WeightFormat.Q4B, true),
            GgufType.Q4_K => (WeightFormat.Q4K, true),
            _ => (WeightFormat.Q8, false),
        };
        return Columns(tensor) % WeightLayout.Multiple(format) == 0 ? (format, lossless) : (WeightFormat.BF16, false);
    }

    public override void ReadStored(string tensor, long firstRow, int count, WeightFormat format, Span<byte> destination, int stride)
    {
        int cols = Columns(tensor), rowBytes = checked((int)RowBytes(tensor)), done = 0;
        byte[] stored = ArrayPool<byte>.Shared.Rent(checked(count * rowBytes));
        try
        {
            // One read for all of them: a row is a kilobyte or less.
            ReadRaw(tensor, firstRow, count, stored.AsSpan(0, count * rowBytes));
            for (; done < count; done++)
            {
                Keep(stored.AsSpan(done * rowBytes, rowBytes), cols, format, destination[(done * stride)..]);
            }
        }
        catch (ArgumentException e)
        {
            throw new ModelFormatException(PathOf(tensor), $"tensor {tensor} row {firstRow + done}: {e.Message}", e);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(stored);
        }
    }

    public override void ReadStoredBlock(string tensor, long firstRow, int rows, int firstCol, int cols, WeightFormat format, Span<byte> destination, int stride)
    {
        (int values, int bytes) = GgufTypes.Block(TypeOf(tensor));
        int first = firstCol / values, count = cols / values * bytes, done = 0;
        Held? held = HeldOf(tensor, firstRow, rows);
        byte[] stored = ArrayPool<byte>.Shared.Rent(count);
        try
        {
            for (; done < rows; done++)
            {
                Span<byte> part = stored.AsSpan(0, count);
                if (held == null) ReadBlocks(tensor, firstRow + done, first, part);
                Keep(held == null ? part : held.Row(firstRow + done).Slice(first * bytes, count), cols, format, destination[(done * stride)..]);
            }
        }
        catch (ArgumentException e)
        {
            throw new ModelFormatException(PathOf(tensor), $"tensor {tensor} row {firstRow + done}: {e.Message}", e);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(stored);
        }
    }

    /// <summary>Blocks of GGUF as a row of the package.</summary>
    protected static void Keep(ReadOnlySpan<byte> blocks, int cols, WeightFormat format, Span<byte> to)
    {
        Span<byte> row = to[..WeightLayout.RowBytes(format, cols)];
        switch (format)
        {
            case WeightFormat.Q8: GgufBlocks.Q8Row(blocks, cols, row); break;
            case WeightFormat.Q4: GgufBlocks.Q4Row(blocks, cols, row); break;
            case WeightFormat.Q4B: GgufBlocks.Q4BRow(blocks, cols, row); break;
            case WeightFormat.Q4K: GgufBlocks.Q4KRow(blocks, cols, row); break;
            default: throw new InvalidOperationException($"no block of the file is one of {format}");
        }
    }
}
