using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The forms of q4 with a minimum: w = scale * q + minimum, q in 0..15. Both search for the least squared error from the same grids, laid over the block's range and a little inside it,
/// and fit scale and minimum to the integers each grid picks (least squares). Form B does so among f16 pairs. Form K fits its eight blocks freely, rounds the fits to 6 bits of a common
/// d and dmin, and then improves both by turns. Round-to-nearest over the whole range is among the candidates, so the search never does worse.
/// Arithmetic is Vector256 of the base library or plain float and double: the same bytes on every machine.
/// </summary>
public static partial class Quantizer
{
    private const int MostSteps = 15, MostSix = 63;

    /// <summary>Steps that the range of a block is divided into: fewer than 15 leave room around it, more clip it for a finer grid.</summary>
    private static ReadOnlySpan<float> Divisions => [15f, 14.5f, 15.5f, 16f, 16.75f, 17.5f, 18.5f, 19.5f];

    /// <summary>A grid this much worse than the best is not worth fitting: on normal weights giving it up costs a thousandth of the error and saves half the time.</summary>
    private const float Hopeless = 1.35f;

    /// <summary>What a block's integers and the distances from them add up to, in steps: enough to fit a better grid.</summary>
    private readonly record struct Residual(float Error, float Q, float QQ, float D, float DQ);

    private static void Q4BBlock(ReadOnlySpan<float> row, int first, Span<byte> dst, Span<ushort> parameters)
    {
        ReadOnlySpan<float> w = row.Slice(first, WeightLayout.Block);
        (float low, float high) = Range(w);
        if (!IsFinite(FloatMath.ToHalf(low)) || !IsFinite(FloatMath.ToHalf((high - low) / MostSteps))) RefuseOverflow(w, first, 1);
        ushort bestScale = 0, bestMinimum = 0;
        float bestError = float.PositiveInfinity;
        for (int start = 0; start < 3 * Divisions.Length; start++)
        {
            (float scale, float minimum) = Start(start, low, high);
            for (int pass = 0; pass < 3; pass++)
            {
                ushort s = FloatMath.ToHalf(scale), m = FloatMath.ToHalf(minimum);
                if (!IsFinite(s) || !IsFinite(m)) break;
                (scale, minimum) = (FloatMath.FromHalf(s), FloatMath.FromHalf(m));
                Residual residual = Measure(w, scale, minimum);
                if (residual.Error < bestError) (bestError, bestScale, bestMinimum) = (residual.Error, s, m);
                else if (residual.Error > Hopeless * bestError) break;
                (scale, minimum) = Refit(residual, scale, minimum);
            }
        }
        (parameters[0], parameters[1]) = (bestScale, bestMinimum);
        StoreSteps(w, FloatMath.FromHalf(bestScale), FloatMath.FromHalf(bestMinimum), dst);
    }

    private static void Q4KSuperBlock(ReadOnlySpan<float> row, int first, Span<byte> dst, Span<byte> parameters)
    {
        ReadOnlySpan<float> w = row.Slice(first, WeightLayout.SuperBlock);
        (float low, float high) = Range(w);
        low = MathF.Min(low, 0f);
        if (!IsFinite(FloatMath.ToHalf(low / MostSix)) || !IsFinite(FloatMath.ToHalf((high - low) / (MostSteps * MostSix)))) RefuseOverflow(w, first, MostSix);

        Span<float> scales = stackalloc float[8], minima = stackalloc float[8];
        for (int b = 0; b < 8; b++)
        {
            (low, high) = Range(Part(w, b));
            (scales[b], minima[b]) = Start(0, MathF.Min(low, 0f), high);
        }
        SuperBlock best = Improve(w, Round(scales, minima), rounds: 1);
        for (int b = 0; b < 8; b++) (scales[b], minima[b]) = FitFreely(Part(w, b));
        SuperBlock fitted = Improve(w, Round(scales, minima), rounds: 4);
        if (fitted.Error < best.Error) best = fitted;

        Span<uint> words = MemoryMarshal.Cast<byte, uint>(parameters);
        words[0] = best.D | (uint)best.DMin << 16;
        (words[1], words[2], words[3]) = SixBits.Pack(best.Scales, best.Minima);
        for (int b = 0; b < 8; b++) StoreSteps(Part(w, b), best.Scale(b), best.Minimum(b), dst.Slice(b * 16, 16));
    }

    /// <summary>The parameters of a super-block as they are stored, eight 6-bit numbers being the bytes of a word.</summary>
    private struct SuperBlock
    {
        public ulong Scales, Minima;
        public ushort D, DMin;
        public float Error;

        public readonly float Scale(int b) => FloatMath.FromHalf(D) * (byte)(Scales >> 8 * b);
        public readonly float Minimum(int b) => -FloatMath.FromHalf(DMin) * (byte)(Minima >> 8 * b);
        public readonly (int Scale, int Minimum) Six(int b) => ((byte)(Scales >> 8 * b), (byte)(Minima >> 8 * b));

        public void Set(int b, int scale, int minimum)
        {
            ulong others = ~(0xFFUL << 8 * b);
            (Scales, Minima) = (Scales & others | (ulong)scale << 8 * b, Minima & others | (ulong)minimum << 8 * b);
        }
    }

    /// <summary>The nearest to eight free grids: the largest scale and the largest minimum take all of the 6 bits.</summary>
    private static SuperBlock Round(ReadOnlySpan<float> scales, ReadOnlySpan<float> minima)
    {
        float most = 0f, least = 0f;
        for (int b = 0; b < 8; b++) (most, least) = (MathF.Max(most, scales[b]), MathF.Min(least, minima[b]));
        SuperBlock block = new() { D = FloatMath.ToHalf(most / MostSix), DMin = FloatMath.ToHalf(-least / MostSix) };
        for (int b = 0; b < 8; b++) block.Set(b, Sixth(scales[b], FloatMath.FromHalf(block.D)), Sixth(-minima[b], FloatMath.FromHalf(block.DMin)));
        return block;

        static int Sixth(float value, float unit) => unit == 0f ? 0 : (int)Math.Clamp(MathF.Round(value / unit), 0f, MostSix);
    }

    /// <summary>By turns: for every block the best neighbours of its two 6-bit numbers, then d and dmin fitted to all integers. The best of all is returned, the start included.</summary>
    private static SuperBlock Improve(ReadOnlySpan<float> w, SuperBlock block, int rounds)
    {
        SuperBlock best = block;
        best.Error = float.PositiveInfinity;
        for (int round = 0; round < rounds; round++)
        {
            if (!IsFinite(block.D) || !IsFinite(block.DMin)) break;
            block.Error = 0f;
            double aa = 0, ab = 0, bb = 0, ra = 0, rb = 0;
            for (int b = 0; b < 8; b++)
            {
                Residual residual = Neighbours(Part(w, b), ref block, b);
                block.Error += residual.Error;
                // w = d * (sc q) - dmin * mn: the normal equations of the change of d and dmin.
                (int sc, int mn) = block.Six(b);
                double scale = block.Scale(b);
                aa += (double)sc * sc * residual.QQ;
                ab -= (double)sc * mn * residual.Q;
                bb += (double)mn * mn * WeightLayout.Block;
                ra += sc * scale * residual.DQ;
                rb -= mn * scale * residual.D;
            }
            if (block.Error < best.Error) best = block;
            double det = aa * bb - ab * ab;
            if (!(det > 0)) break;
            block.D = FloatMath.ToHalf((float)(FloatMath.FromHalf(block.D) + (ra * bb - rb * ab) / det));
            block.DMin = FloatMath.ToHalf((float)(FloatMath.FromHalf(block.DMin) + (rb * aa - ra * ab) / det));
        }
        return best;
    }

    /// <summary>Moves one block's 6-bit numbers by at most one each to where its error is least.</summary>
    private static Residual Neighbours(ReadOnlySpan<float> w, ref SuperBlock block, int b)
    {
        (int sc, int mn) = block.Six(b);
        Residual best = Measure(w, block.Scale(b), block.Minimum(b));
        SuperBlock chosen = block;
        for (int i = Math.Max(0, sc - 1); i <= Math.Min(MostSix, sc + 1); i++)
            for (int j = Math.Max(0, mn - 1); j <= Math.Min(MostSix, mn + 1); j++)
            {
                if (i == sc && j == mn) continue;
                SuperBlock tried = block;
                tried.Set(b, i, j);
                Residual residual = Measure(w, tried.Scale(b), tried.Minimum(b));
                if (residual.Error < best.Error) (best, chosen) = (residual, tried);
            }
        block = chosen;
        return best;
    }

    /// <summary>The best grid of a block among floats, its minimum not above zero (form K subtracts what is not negative).</summary>
    private static (float Scale, float Minimum) FitFreely(ReadOnlySpan<float> w)
    {
        (float low, float high) = Range(w);
        low = MathF.Min(low, 0f);
        (float Scale, float Minimum) best = default;
        float bestError = float.PositiveInfinity;
        for (int start = 0; start < 3 * Divisions.Length; start++)
        {
            (float scale, float minimum) = Start(start, low, high);
            for (int pass = 0; pass < 3 && scale >= 0f; pass++)
            {
                Residual residual = Measure(w, scale, minimum);
                if (residual.Error < bestError) (bestError, best) = (residual.Error, (scale, minimum));
                else if (residual.Error > Hopeless * bestError) break;
                (scale, minimum) = Refit(residual, scale, minimum, notAboveZero: true);
            }
        }
        return best;
    }

    private static ReadOnlySpan<float> Part(ReadOnlySpan<float> superBlock, int b) => superBlock.Slice(b * WeightLayout.Block, WeightLayout.Block);

    private static (float Low, float High) Range(ReadOnlySpan<float> w)
    {
        (float low, float high) = (w[0], w[0]);
        foreach (float v in w) (low, high) = (MathF.Min(low, v), MathF.Max(high, v));
        return (low, high);
    }

    /// <summary>A division of the range, beginning at its low end, ending at its high end, or centred.</summary>
    private static (float Scale, float Minimum) Start(int start, float low, float high)
    {
        float scale = (high - low) / Divisions[start / 3];
        return (scale, (start % 3) switch { 0 => low, 1 => high - MostSteps * scale, _ => (low + high) / 2 - MostSteps / 2f * scale });
    }

    private static Residual Measure(ReadOnlySpan<float> w, float scale, float minimum)
    {
        // Distances are in steps, so that neither tiny nor huge weights leave the range of float; without a step all integers are 0.
        float size = MathF.Abs(scale), step = size > 1e-30f ? 1f / scale : 0f;
        Vector256<float> inverse = Vector256.Create(step == 0f ? 1f : step), m = Vector256.Create(minimum), error = default, q = default, qq = default, d = default, dq = default;
        Vector256<float> most = Vector256.Create(step == 0f ? 0f : MostSteps);
        for (int i = 0; i < WeightLayout.Block; i += 8)
        {
            Vector256<float> u = (Vector256.Create(w.Slice(i, 8)) - m) * inverse;
            Vector256<float> integer = Vector256.Min(Vector256.Max(Vector256.Round(u), Vector256<float>.Zero), most), distance = u - integer;
            error += distance * distance;
            q += integer;
            qq += integer * integer;
            d += distance;
            dq += distance * integer;
        }
        return new Residual(step == 0f ? Fold(error) : Fold(error) * size * size, Fold(q), Fold(qq), Fold(d), Fold(dq));
    }

    /// <summary>The grid that fits a grid's integers best (least squares).</summary>
    private static (float Scale, float Minimum) Refit(Residual r, float scale, float minimum, bool notAboveZero = false)
    {
        const float n = WeightLayout.Block;
        float det = n * r.QQ - r.Q * r.Q;
        if (!(det > 0f) || scale == 0f) return (scale, scale == 0f ? minimum + r.D / n : minimum);
        float slope = (n * r.DQ - r.Q * r.D) / det, shift = (r.D - slope * r.Q) / n;
        if (!notAboveZero || minimum + scale * shift <= 0f) return (scale + scale * slope, minimum + scale * shift);
        // At a minimum of zero only the scale is free.
        shift = -minimum / scale;
        return (scale + scale * ((r.DQ - shift * r.Q) / r.QQ), 0f);
    }

    private static void StoreSteps(ReadOnlySpan<float> w, float scale, float minimum, Span<byte> dst)
    {
        float inverse = scale == 0f ? 0f : 1f / scale;
        for (int i = 0; i < 16; i++) dst[i] = (byte)(Step(w[i], minimum, inverse) | Step(w[i + 16], minimum, inverse) << 4);

        static int Step(float w, float minimum, float inverse) => (int)Math.Clamp(MathF.Round((w - minimum) * inverse), 0f, MostSteps);
    }

    private static bool IsFinite(ushort half) => (half & 0x7FFF) < 0x7C00;

    private static void RefuseOverflow(ReadOnlySpan<float> w, int first, int steps)
    {
        int largest = Largest(w);
        throw new ArgumentException($"column {first + largest}: the weight {w[largest]} is too large for an f16 scale and minimum (at most {steps} * 65504 fits); import this matrix as f32 or bf16");
    }
}
