using System.Buffers.Binary;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The blocks of GGUF that a stored row can hold as they are: every number of the result (<see cref="Quantizer.DequantizeRow"/>) is, bit for bit, the float that the block stands for.
/// Only places change, no value is computed. One row at a time, blocks in order along it; import thread or any other, no state. A scale that is infinite or not a number is
/// refused with an <see cref="ArgumentException"/> that names its block, and a length that is not that of the row is, too.
/// </summary>
public static class GgufBlocks
{
    // Bytes of a block of Q4_0, Q4_1, Q8_0 and Q4_K.
    private const int Q40 = 18, Q41 = 20, Q80 = 34, Q4K = 144;

    /// <summary>Q8_0 (f16 d, 32 × i8; w = d q) to <see cref="WeightFormat.Q8"/>. −128, which our own quantiser never chooses, stays −128.</summary>
    public static void Q8Row(ReadOnlySpan<byte> blocks, int cols, Span<byte> row)
    {
        row = Begin(WeightFormat.Q8, blocks, Q80, WeightLayout.Block, cols, row);
        for (int block = 0; block < cols / WeightLayout.Block; block++, blocks = blocks[Q80..])
        {
            Copy(blocks, 1, block, row[(cols + 2 * block)..]);
            blocks.Slice(2, 32).CopyTo(row[(block * 32)..]);
        }
    }

    /// <summary>Q4_0 (f16 d, 16 bytes of nibbles; w = d (q − 8)) to <see cref="WeightFormat.Q4"/>.</summary>
    public static void Q4Row(ReadOnlySpan<byte> blocks, int cols, Span<byte> row)
    {
        row = Begin(WeightFormat.Q4, blocks, Q40, WeightLayout.Block, cols, row);
        for (int block = 0; block < cols / WeightLayout.Block; block++, blocks = blocks[Q40..])
        {
            Copy(blocks, 1, block, row[(cols / 2 + 2 * block)..]);
            blocks.Slice(2, 16).CopyTo(row[(block * 16)..]);
        }
    }

    /// <summary>Q4_1 (f16 d, f16 m, 16 bytes of nibbles; w = d q + m) to <see cref="WeightFormat.Q4B"/>.</summary>
    public static void Q4BRow(ReadOnlySpan<byte> blocks, int cols, Span<byte> row)
    {
        row = Begin(WeightFormat.Q4B, blocks, Q41, WeightLayout.Block, cols, row);
        for (int block = 0; block < cols / WeightLayout.Block; block++, blocks = blocks[Q41..])
        {
            Copy(blocks, 2, block, row[(cols / 2 + 4 * block)..]);
            blocks.Slice(4, 16).CopyTo(row[(block * 16)..]);
        }
    }

    /// <summary>
    /// Q4_K (f16 d, f16 dmin, 12 bytes of 6-bit numbers, 128 bytes of nibbles; w = d sc q − dmin mn) to <see cref="WeightFormat.Q4K"/>. There a byte pairs the same column of two
    /// blocks, here two columns of one block.
    /// </summary>
    public static void Q4KRow(ReadOnlySpan<byte> blocks, int cols, Span<byte> row)
    {
        row = Begin(WeightFormat.Q4K, blocks, Q4K, WeightLayout.SuperBlock, cols, row);
        for (int super = 0; super < cols / WeightLayout.SuperBlock; super++, blocks = blocks[Q4K..])
        {
            Copy(blocks, 2, super, row[(cols / 2 + 16 * super)..]);
            blocks.Slice(4, 12).CopyTo(row[(cols / 2 + 16 * super + 4)..]);
            for (int pair = 0; pair < 4; pair++)
            {
                ReadOnlySpan<byte> from = blocks.Slice(16 + pair * 32, 32);
                Span<byte> to = row.Slice(super * 128 + pair * 32, 32);
                for (int j = 0; j < 16; j++)
                {
                    to[j] = (byte)((from[j] & 15) | from[j + 16] << 4);
                    to[j + 16] = (byte)(from[j] >> 4 | from[j + 16] & 0xF0);
                }
            }
        }
    }

    private static Span<byte> Begin(WeightFormat format, ReadOnlySpan<byte> blocks, int blockBytes, int multiple, int cols, Span<byte> row)
    {
        row = row[..WeightLayout.RowBytes(format, cols)];
        if (blocks.Length != cols / multiple * blockBytes)
            throw new ArgumentException($"{blocks.Length} bytes of blocks where {cols} columns take {cols / multiple} blocks of {blockBytes} bytes", nameof(blocks));
        row.Clear();
        return row;
    }

    /// <summary>The f16 numbers that a block begins with.</summary>
    private static void Copy(ReadOnlySpan<byte> block, int halves, int index, Span<byte> to)
    {
        for (int i = 0; i < halves; i++)
        {
            float value = FloatMath.FromHalf(BinaryPrimitives.ReadUInt16LittleEndian(block[(2 * i)..]));
            if (!float.IsFinite(value)) throw new ArgumentException($"block {index}: {(i == 0 ? "the scale" : "the minimum")} is {value}; only finite weights can be stored", nameof(block));
        }
        block[..(2 * halves)].CopyTo(to);
    }
}
