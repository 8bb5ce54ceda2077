using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// Rows of a sketch in 2, 3 or 4 bits, as q4 rows, so that the engine's kernels multiply them: blocks of 32 with an f16 scale. Of 2 and 3 bits the levels are the odd multiples of the
/// scale (mid-rise: there is no zero, which would waste a level), searched for the least squared error. Pure; any thread.
/// </summary>
internal static class SketchRows
{
    /// <summary>How much of the largest number the outermost level reaches.</summary>
    private static ReadOnlySpan<float> Reaches => [1f, 0.9f, 0.8f, 0.7f, 0.6f, 0.5f, 0.4f];

    public static void Quantize(int bits, ReadOnlySpan<float> row, Span<byte> dst)
    {
        if (bits == 4)
        {
            Quantizer.QuantizeRow(WeightFormat.Q4, row, dst);
            return;
        }
        dst.Clear();
        int blocks = row.Length / WeightLayout.Block, most = (1 << bits) - 1;
        for (int b = 0; b < blocks; b++)
        {
            ReadOnlySpan<float> w = row.Slice(b * WeightLayout.Block, WeightLayout.Block);
            Half scale = Scale(w, most);
            Span<byte> integers = dst.Slice(b * 16, 16);
            for (int i = 0; i < 16; i++) integers[i] = (byte)((Level(w[i], (float)scale, most) + 8) | (Level(w[i + 16], (float)scale, most) + 8) << 4);
            BitConverter.TryWriteBytes(dst[(blocks * 16 + 2 * b)..], scale);
        }
    }

    /// <summary>The scale of least squared error among a few, each fitted once to the levels it picks.</summary>
    private static Half Scale(ReadOnlySpan<float> w, int most)
    {
        float largest = 0;
        foreach (float v in w) largest = MathF.Max(largest, MathF.Abs(v));
        Half best = default;
        double bestError = double.PositiveInfinity;
        foreach (float reach in Reaches)
        {
            Half scale = (Half)(largest * reach / most);
            for (int pass = 0; pass < 3; pass++)
            {
                float s = (float)scale;
                if (s == 0 || !float.IsFinite(s)) break;
                double error = 0, wq = 0, qq = 0;
                foreach (float v in w)
                {
                    int q = Level(v, s, most);
                    error += ((double)v - q * s) * ((double)v - q * s);
                    wq += (double)v * q;
                    qq += q * q;
                }
                if (error < bestError) (bestError, best) = (error, scale);
                scale = (Half)(wq / qq);
            }
        }
        return best;
    }

    /// <summary>The nearest odd number within ±most.</summary>
    private static int Level(float v, float scale, int most) => scale == 0 ? 0 : (int)Math.Clamp(2 * MathF.Floor(v / scale / 2) + 1, -most, most);
}
