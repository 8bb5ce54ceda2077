using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// Turns blocks of float rows into stored rows and keeps account of what that cost. Rows are quantised one by one, on all processors, each
/// independent of the others: the bytes do not depend on how rows are cut into blocks. One import, one thread calls it.
/// </summary>
internal sealed class RowStore(string blame, RowPreparation? prepare = null)
{
    private readonly Dictionary<string, (double Error, double Energy, double Worst)> _kinds = new(StringComparer.Ordinal);
    private (double Error, double Energy)[] _rows = [];

    /// <summary>Stores, in a format, <paramref name="count"/> rows of <paramref name="cols"/> numbers; row i goes to <paramref name="to"/> at i times <paramref name="stride"/> plus <paramref name="offset"/>.</summary>
    public void Store(WeightFormat format, string kind, int firstRow, float[] from, int count, int cols, byte[] to, int stride, int offset)
    {
        if (_rows.Length < count) _rows = new (double, double)[count];
        int rowBytes = WeightLayout.RowBytes(format, cols);
        string? refused = null;
        Parallel.For(0, count, () => new float[cols], (i, loop, back) =>
        {
            ReadOnlySpan<float> row = from.AsSpan(i * cols, cols);
            Span<byte> stored = to.AsSpan(i * stride + offset, rowBytes);
            try
            {
                ReadOnlySpan<float> prepared = row;
                if (prepare != null)
                {
                    row.CopyTo(back);
                    prepare(kind, back);
                    prepared = back;
                }
                Quantizer.QuantizeRow(format, prepared, stored);
            }
            catch (ArgumentException e)
            {
                Volatile.Write(ref refused, $"{kind} row {firstRow + i}, {e.Message}");
                loop.Stop();
                return back;
            }
            Quantizer.DequantizeRow(format, stored, cols, back);
            double error = 0, energy = 0;
            for (int k = 0; k < cols; k++)
            {
                double d = (double)back[k] - row[k];
                error += d * d;
                energy += (double)row[k] * row[k];
            }
            _rows[i] = (error, energy);
            return back;
        }, static _ => { });
        if (refused != null) throw new ModelFormatException(blame, refused);
        Account(kind, count);
    }

    /// <summary>Rows that went over as they were stored.</summary>
    public void Kept(string kind) => _kinds.TryAdd(kind, default);

    /// <summary>Per kind, in the order of first appearance.</summary>
    public IReadOnlyList<QuantizationError> Errors =>
        [.. _kinds.Select(k => new QuantizationError(k.Key, Ratio(k.Value.Error, k.Value.Energy), k.Value.Worst))];

    private void Account(string kind, int count)
    {
        (double error, double energy, double worst) = _kinds.GetValueOrDefault(kind);
        for (int i = 0; i < count; i++)
        {
            error += _rows[i].Error;
            energy += _rows[i].Energy;
            worst = Math.Max(worst, Ratio(_rows[i].Error, _rows[i].Energy));
        }
        _kinds[kind] = (error, energy, worst);
    }

    private static double Ratio(double error, double energy) => energy > 0 ? Math.Sqrt(error / energy) : 0;
}
