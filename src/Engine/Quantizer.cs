using System.Runtime.InteropServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Turns float rows into the stored formats and back (byte layouts: <see cref="WeightLayout"/>). A matrix is quantised row by row; a panel is woven from finished rows, so a
/// neuron's numbers are the same whether they come from a bundle or from a resident panel. Import thread or any other; no state. The result is the same bytes on every machine.
/// A weight that is not a number, or a block too large for an f16 scale, is refused with an <see cref="ArgumentException"/> that names the column.
/// </summary>
public static partial class Quantizer
{
    /// <summary>Writes one row in row layout, padding included; <paramref name="dst"/> has <see cref="WeightLayout.RowBytes"/> bytes or more.</summary>
    public static void QuantizeRow(WeightFormat format, ReadOnlySpan<float> row, Span<byte> dst)
    {
        int cols = row.Length;
        dst = dst[..WeightLayout.RowBytes(format, cols)];
        for (int k = 0; k < cols; k++)
            if (!float.IsFinite(row[k])) throw new ArgumentException($"column {k}: the weight is {row[k]}; only finite weights can be stored", nameof(row));
        dst.Clear();
        switch (format)
        {
            case WeightFormat.F32:
                row.CopyTo(MemoryMarshal.Cast<byte, float>(dst));
                break;
            case WeightFormat.BF16:
                Span<ushort> narrow = MemoryMarshal.Cast<byte, ushort>(dst);
                for (int k = 0; k < cols; k++)
                {
                    narrow[k] = FloatMath.ToBFloat16(row[k]);
                    if ((narrow[k] & 0x7FFF) == 0x7F80) throw new ArgumentException($"column {k}: the weight {row[k]} is too large for bf16", nameof(row));
                }
                break;
            case WeightFormat.Q8:
                for (int block = 0; block < cols / WeightLayout.Block; block++)
                    Q8Block(row, block, dst.Slice(block * WeightLayout.Block, WeightLayout.Block), Scales(format, dst, cols));
                break;
            case WeightFormat.Q4:
                for (int block = 0; block < cols / WeightLayout.Block; block++)
                    Q4Block(row, block, dst.Slice(block * WeightLayout.Block / 2, WeightLayout.Block / 2), Scales(format, dst, cols));
                break;
            case WeightFormat.Q4B:
                for (int block = 0; block < cols / WeightLayout.Block; block++)
                    Q4BBlock(row, block * WeightLayout.Block, dst.Slice(block * WeightLayout.Block / 2, WeightLayout.Block / 2), Scales(format, dst, cols).Slice(2 * block, 2));
                break;
            case WeightFormat.Q4K:
                for (int first = 0; first < cols; first += WeightLayout.SuperBlock)
                    Q4KSuperBlock(row, first, dst.Slice(first / 2, WeightLayout.SuperBlock / 2), dst.Slice(cols / 2 + first / 16, 16));
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(format));
        }
    }

    /// <summary>The floats a stored row stands for: integer * scale for q8 and q4, integer * scale + minimum for q4b and q4k, each product and sum rounded to float.</summary>
    public static void DequantizeRow(WeightFormat format, ReadOnlySpan<byte> row, int cols, Span<float> dst)
    {
        row = row[..WeightLayout.RowBytes(format, cols)];
        switch (format)
        {
            case WeightFormat.F32:
                MemoryMarshal.Cast<byte, float>(row)[..cols].CopyTo(dst);
                return;
            case WeightFormat.BF16:
                ReadOnlySpan<ushort> narrow = MemoryMarshal.Cast<byte, ushort>(row);
                for (int k = 0; k < cols; k++) dst[k] = FloatMath.FromBFloat16(narrow[k]);
                return;
        }
        ReadOnlySpan<byte> parameters = row[WeightLayout.IntegerBytes(format, cols)..];
        ReadOnlySpan<ushort> halves = MemoryMarshal.Cast<byte, ushort>(parameters);
        ReadOnlySpan<uint> words = MemoryMarshal.Cast<byte, uint>(parameters);
        for (int block = 0; block < cols / WeightLayout.Block; block++)
        {
            int word = block / 8 * 4;
            (float scale, float minimum) = format switch
            {
                WeightFormat.Q4B => (FloatMath.FromHalf(halves[2 * block]), FloatMath.FromHalf(halves[2 * block + 1])),
                WeightFormat.Q4K => (FloatMath.FromHalf((ushort)words[word]) * SixBits.Scale(words[word + 1], words[word + 3], block % 8),
                    FloatMath.FromHalf((ushort)(words[word] >> 16 ^ 0x8000)) * SixBits.Minimum(words[word + 2], words[word + 3], block % 8)),
                _ => (FloatMath.FromHalf(halves[block]), 0f),
            };
            for (int k = block * WeightLayout.Block; k < (block + 1) * WeightLayout.Block; k++)
            {
                int pair = format == WeightFormat.Q8 ? 0 : row[k / 32 * 16 + k % 16], nibble = k % 32 < 16 ? pair & 15 : pair >> 4;
                dst[k] = format switch
                {
                    WeightFormat.Q8 => (sbyte)row[k] * scale,
                    WeightFormat.Q4 => (nibble - 8) * scale,
                    _ => nibble * scale + minimum,
                };
            }
        }
    }

    private static Span<ushort> Scales(WeightFormat format, Span<byte> row, int cols) =>
        MemoryMarshal.Cast<byte, ushort>(row[WeightLayout.IntegerBytes(format, cols)..]);

    private static void Q8Block(ReadOnlySpan<float> row, int block, Span<byte> dst, Span<ushort> scales)
    {
        ReadOnlySpan<float> w = row.Slice(block * WeightLayout.Block, WeightLayout.Block);
        int largest = Largest(w);
        ushort half = FloatMath.ToHalf(MathF.Abs(w[largest]) / 127f);
        RefuseOverflow(half, w[largest], block * WeightLayout.Block + largest, 127);
        float scale = FloatMath.FromHalf(half);
        if (scale == 0f) return;
        scales[block] = half;
        for (int i = 0; i < w.Length; i++) dst[i] = (byte)(sbyte)Math.Clamp(MathF.Round(w[i] / scale), -127f, 127f);
    }

    private static int Largest(ReadOnlySpan<float> w)
    {
        int largest = 0;
        for (int i = 1; i < w.Length; i++)
            if (MathF.Abs(w[i]) > MathF.Abs(w[largest])) largest = i;
        return largest;
    }

    private static void RefuseOverflow(ushort half, float weight, int column, int steps)
    {
        if ((half & 0x7FFF) >= 0x7C00)
            throw new ArgumentException($"column {column}: the weight {weight} is too large for an f16 scale (at most {steps} * 65504 fits); import this matrix as f32 or bf16");
    }
}
