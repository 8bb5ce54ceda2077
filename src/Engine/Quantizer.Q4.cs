using System.Runtime.Intrinsics;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Form A of q4: an f16 scale per block, searched for the least squared error.</summary>
public static partial class Quantizer
{
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
}
