using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Turns float rows into the stored formats and back (byte layouts: <see cref="WeightLayout"/>). A matrix is quantised row by row; a panel is woven from finished rows, so a
/// neuron's numbers are the same whether they come from a bundle or from a resident panel. Import thread or any other; no state. The result is the same bytes on every machine.
/// A weight that is not a number, or a block too large for an f16 scale, is refused with an <see cref="ArgumentException"/> that names the column.
/// </summary>
public static class Quantizer
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
            default:
                throw new ArgumentOutOfRangeException(nameof(format));
        }
    }

    /// <summary>Weaves up to 16 rows in row layout, one after another, into one panel; missing rows become zeros.</summary>
    public static void PackPanel(WeightFormat format, ReadOnlySpan<byte> rows, int rowCount, int cols, Span<byte> panel)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rowCount, WeightLayout.PanelRows);
        int rowBytes = WeightLayout.RowBytes(format, cols);
        panel = panel[..WeightLayout.PanelBytes(format, cols)];
        panel.Clear();
        for (int r = 0; r < rowCount; r++)
        {
            ReadOnlySpan<byte> row = rows.Slice(r * rowBytes, rowBytes);
            switch (format)
            {
                case WeightFormat.F32 or WeightFormat.BF16:
                    row.CopyTo(panel[(r * rowBytes)..]);
                    continue;
                case WeightFormat.Q8:
                    for (int k = 0; k < cols; k += 4) row.Slice(k, 4).CopyTo(panel[(k / 4 * 64 + r * 4)..]);
                    break;
                case WeightFormat.Q4:
                    for (int block = 0; block < cols / WeightLayout.Block; block++)
                        // The row pairs column j with j + 16; that is step s with step s + 4: the pairs of the panel as well.
                        for (int step = 0; step < 4; step++) row.Slice(block * 16 + step * 4, 4).CopyTo(panel[(block * 256 + step * 64 + r * 4)..]);
                    break;
                default:
                    throw new ArgumentOutOfRangeException(nameof(format));
            }
            ReadOnlySpan<ushort> scales = MemoryMarshal.Cast<byte, ushort>(row[(format == WeightFormat.Q8 ? cols : cols / 2)..]);
            Span<ushort> woven = MemoryMarshal.Cast<byte, ushort>(panel[(format == WeightFormat.Q8 ? cols * 16 : cols * 8)..]);
            for (int block = 0; block < cols / WeightLayout.Block; block++) woven[block * WeightLayout.PanelRows + r] = scales[block];
        }
    }

    /// <summary>The floats a stored row stands for: (float)integer * scale for q8 and q4.</summary>
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
        ReadOnlySpan<ushort> scales = MemoryMarshal.Cast<byte, ushort>(row[(format == WeightFormat.Q8 ? cols : cols / 2)..]);
        for (int k = 0; k < cols; k++)
        {
            int pair = format == WeightFormat.Q4 ? row[k / 32 * 16 + k % 16] : 0;
            int integer = format == WeightFormat.Q8 ? (sbyte)row[k] : (k % 32 < 16 ? pair & 15 : pair >> 4) - 8;
            dst[k] = integer * FloatMath.FromHalf(scales[k / WeightLayout.Block]);
        }
    }

    private static Span<ushort> Scales(WeightFormat format, Span<byte> row, int cols) =>
        MemoryMarshal.Cast<byte, ushort>(row[(format == WeightFormat.Q8 ? cols : cols / 2)..]);

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

    // Steps the largest weight may take: 8 uses the whole range on its side; smaller ones clip it for a finer grid, larger ones centre the grid on the others.
    private static ReadOnlySpan<float> Reaches => [-8f, -7.5f, -7f, -6.5f, -6f, -8.5f, 7f, 7.5f, 6.5f, 6f, 8f];

    private static void Q4Block(ReadOnlySpan<float> row, int block, Span<byte> dst, Span<ushort> scales)
    {
        ReadOnlySpan<float> w = row.Slice(block * WeightLayout.Block, WeightLayout.Block);
        int largest = Largest(w);
        // Refused by the scale every candidate list starts with, so that acceptance does not depend on the search.
        RefuseOverflow(FloatMath.ToHalf(w[largest] / -8f), w[largest], block * WeightLayout.Block + largest, 8);
        ushort best = 0;
        float bestError = float.PositiveInfinity;
        foreach (float reach in Reaches)
        {
            ushort half = FloatMath.ToHalf(w[largest] / reach);
            // One refinement: for the integers this scale picks, the scale that fits them best.
            for (int pass = 0; pass < 2; pass++)
            {
                float scale = FloatMath.FromHalf(half);
                if (scale == 0f || !float.IsFinite(scale)) break;
                float error = Q4Error(w, scale, out float fitted);
                if (error < bestError) (bestError, best) = (error, half);
                half = FloatMath.ToHalf(fitted);
            }
        }
        float chosen = FloatMath.FromHalf(best);
        scales[block] = best;
        for (int i = 0; i < 16; i++)
            dst[i] = (byte)(chosen == 0f ? 0x88 : Nibble(w[i], chosen) | Nibble(w[i + 16], chosen) << 4);
    }

    private static int Nibble(float w, float scale) => (int)Math.Clamp(MathF.Round(w / scale), -8f, 7f) + 8;

    /// <summary>Squared error of the block under a scale, and the scale that fits the chosen integers best. Vector256 of the base library: the same lanes and order on every machine.</summary>
    private static float Q4Error(ReadOnlySpan<float> w, float scale, out float fitted)
    {
        Vector256<float> s = Vector256.Create(scale), error = default, wq = default, qq = default;
        for (int i = 0; i < WeightLayout.Block; i += 8)
        {
            Vector256<float> v = Vector256.Create(w.Slice(i, 8));
            Vector256<float> q = Vector256.Min(Vector256.Max(Vector256.Round(v / s), Vector256.Create(-8f)), Vector256.Create(7f));
            // Relative to the scale, so that neither tiny nor huge weights leave the range of float.
            Vector256<float> u = v / s, d = u - q;
            error += d * d;
            wq += u * q;
            qq += q * q;
        }
        float energy = Fold(qq);
        fitted = energy > 0f ? scale * (Fold(wq) / energy) : 0f;
        return Fold(error) * MathF.Abs(scale) * MathF.Abs(scale);
    }

    private static float Fold(Vector256<float> v)
    {
        Vector128<float> a = v.GetLower() + v.GetUpper();
        return a[0] + a[2] + (a[1] + a[3]);
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
