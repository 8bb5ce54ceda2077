using System.Buffers;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>What storing a block of rows cost: squared error, the numbers' own squares, and the error of the worst row relative to its size.</summary>
internal readonly record struct RowCost(double Error, double Energy, double Worst);

/// <summary>
/// Turns blocks of float rows into stored rows (any thread) and keeps account of what that cost (one thread, in the order of the blocks, so that the sums do not depend on who was
/// faster). Rows are quantised one by one, each independent of the others: the bytes do not depend on how rows are cut into blocks.
/// </summary>
internal sealed class RowStore(string blame, RowPreparation? prepare = null)
{
    private readonly Dictionary<string, RowCost> _kinds = new(StringComparer.Ordinal);

    /// <summary>Stores, in a format, <paramref name="count"/> rows of <paramref name="cols"/> numbers; row i goes to <paramref name="to"/> at i times <paramref name="stride"/> plus <paramref name="offset"/>.</summary>
    public RowCost Store(WeightFormat format, string kind, int firstRow, float[] from, int count, int cols, byte[] to, int stride, int offset, RowQuantizer? quantize = null)
    {
        int rowBytes = WeightLayout.RowBytes(format, cols);
        float[] back = ArrayPool<float>.Shared.Rent(cols);
        var cost = new RowCost();
        for (int i = 0; i < count; i++)
        {
            ReadOnlySpan<float> row = from.AsSpan(i * cols, cols);
            Span<byte> stored = to.AsSpan(i * stride + offset, rowBytes);
            try
            {
                ReadOnlySpan<float> prepared = row;
                if (prepare != null)
                {
                    Span<float> changed = back.AsSpan(0, cols);
                    row.CopyTo(changed);
                    prepare(kind, changed);
                    prepared = changed;
                }
                if (quantize != null) quantize(prepared, stored);
                else Quantizer.QuantizeRow(format, prepared, stored);
            }
            catch (ArgumentException e)
            {
                throw new ModelFormatException(blame, $"{kind} row {firstRow + i}, {e.Message}", e);
            }
            Quantizer.DequantizeRow(format, stored, cols, back);
            double error = 0, energy = 0;
            for (int k = 0; k < cols; k++)
            {
                double d = (double)back[k] - row[k];
                error += d * d;
                energy += (double)row[k] * row[k];
            }
            cost = Sum(cost, new RowCost(error, energy, Ratio(error, energy)));
        }
        ArrayPool<float>.Shared.Return(back);
        return cost;
    }

    /// <summary>Enters what a block of a kind cost; nothing for rows that went over as they were stored.</summary>
    public void Add(string kind, RowCost cost) => _kinds[kind] = Sum(_kinds.GetValueOrDefault(kind), cost);

    /// <summary>Per kind, in the order of first appearance.</summary>
    public IReadOnlyList<QuantizationError> Errors => [.. _kinds.Select(k => new QuantizationError(k.Key, Ratio(k.Value.Error, k.Value.Energy), k.Value.Worst))];

    private static RowCost Sum(RowCost a, RowCost b) => new(a.Error + b.Error, a.Energy + b.Energy, Math.Max(a.Worst, b.Worst));

    private static double Ratio(double error, double energy) => energy > 0 ? Math.Sqrt(error / energy) : 0;
}
