using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// Rows of a sketch in 2, 3 or 4 bits, as q4 rows, so that the engine's kernels multiply them: blocks of 32 with an f16 scale. Of 2 and 3 bits the levels are whole multiples of the
/// scale, none of them zero (a level of its own would be wasted on it); of 3 bits they are either evenly spread or denser in the middle, where most weights of a block are, whichever fits it
/// better. Scale and spread are those of least squared error, each number's weighed by what it will be multiplied with. Pure; any thread.
/// </summary>
internal static class SketchRows
{
    /// <summary>How much of the largest number the outermost level reaches.</summary>
    private static ReadOnlySpan<float> Reaches => [1f, 0.9f, 0.8f, 0.7f, 0.6f, 0.5f];
    private const int Passes = 2;

    /// <summary>Positive levels, ascending; the negative ones mirror them.</summary>
    private static ReadOnlySpan<byte> Two => [1, 3];
    private static ReadOnlySpan<byte> Even => [1, 3, 5, 7];
    private static ReadOnlySpan<byte> Dense => [1, 2, 4, 7];

    /// <param name="bits">2, 3 or 4.</param>
    /// <param name="row">Numbers, in whole blocks.</param>
    /// <param name="dst">A q4 row.</param>
    /// <param name="squares">Mean squares of what the numbers are multiplied with; empty: all alike.</param>
    public static void Quantize(int bits, ReadOnlySpan<float> row, Span<byte> dst, ReadOnlySpan<float> squares = default)
    {
        if (bits == 4)
        {
            Quantizer.QuantizeRow(WeightFormat.Q4, row, dst);
            return;
        }
        dst.Clear();
        Span<float> alike = stackalloc float[WeightLayout.Block];
        alike.Fill(1);
        int blocks = row.Length / WeightLayout.Block;
        for (int b = 0; b < blocks; b++)
        {
            ReadOnlySpan<float> w = row.Slice(b * WeightLayout.Block, WeightLayout.Block), weigh = squares.IsEmpty ? alike : squares.Slice(b * WeightLayout.Block, WeightLayout.Block);
            ReadOnlySpan<byte> levels = bits == 2 ? Two : Even;
            (Half scale, double error) = Scale(w, weigh, levels);
            if (bits == 3)
            {
                (Half other, double otherError) = Scale(w, weigh, Dense);
                if (otherError < error)
                {
                    scale = other;
                    levels = Dense;
                }
            }
            Span<byte> integers = dst.Slice(b * 16, 16);
            for (int i = 0; i < 16; i++) integers[i] = (byte)((Level(w[i], (float)scale, levels) + 8) | (Level(w[i + 16], (float)scale, levels) + 8) << 4);
            BitConverter.TryWriteBytes(dst[(blocks * 16 + 2 * b)..], scale);
        }
    }

    /// <summary>The scale of least error among a few, each fitted to the levels it picks.</summary>
    private static (Half Scale, double Error) Scale(ReadOnlySpan<float> w, ReadOnlySpan<float> weigh, ReadOnlySpan<byte> levels)
    {
        float largest = 0;
        foreach (float v in w) largest = MathF.Max(largest, MathF.Abs(v));
        Half best = default;
        double bestError = double.PositiveInfinity;
        foreach (float reach in Reaches)
        {
            Half scale = (Half)(largest * reach / levels[^1]);
            for (int pass = 0; pass < Passes; pass++)
            {
                float s = (float)scale;
                if (s == 0 || !float.IsFinite(s)) break;
                double error = 0, wq = 0, qq = 0;
                for (int i = 0; i < w.Length; i++)
                {
                    int q = Level(w[i], s, levels);
                    double off = (double)w[i] - q * s;
                    error += weigh[i] * off * off;
                    wq += (double)weigh[i] * w[i] * q;
                    qq += (double)weigh[i] * q * q;
                }
                if (error < bestError) (bestError, best) = (error, scale);
                scale = (Half)(wq / qq);
            }
        }
        return (best, bestError);
    }

    /// <summary>The nearest level.</summary>
    private static int Level(float v, float scale, ReadOnlySpan<byte> levels)
    {
        if (scale == 0) return 0;
        float size = MathF.Abs(v / scale);
        int at = 0;
        while (at + 1 < levels.Length && size > (levels[at] + levels[at + 1]) * 0.5f) at++;
        return v < 0 ? -levels[at] : levels[at];
    }
}
