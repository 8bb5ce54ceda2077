using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What the SIMD variants share of a feed-forward for several tokens: a tile of 32 columns of the down rows is made into floats once, in the first cache, and then serves all
/// tokens, eight at a time in registers. A variant says how a tile is expanded and how it is summed. Needs AVX2. No state, no allocation, any thread.
/// </summary>
internal abstract unsafe class VectorKernels : Kernels
{
    /// <summary>Columns of a tile: one block.</summary>
    protected const int TileColumns = WeightLayout.Block;
    // Blocks whose parameters are widened at once: a super-block.
    private const int StripBlocks = 8;

    /// <summary>Asks for some lines of memory, into the second cache. Little at a time: what the processor's queues have no room for is dropped.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    protected static void Ask(byte* at, nint bytes)
    {
        for (nint line = 0; line < bytes; line += 64) Sse.Prefetch1(at + line);
    }

    /// <summary>w[32 i + k] = row_i's number at column + k as the axpy takes it: the integer of q8 and q4 (there minus 8), else the weight. Parameters of the block lie 8 numbers apart.</summary>
    protected abstract void Expand(WeightFormat format, byte** rows, int n, int column, float* scales, float* minima, float* w);

    /// <summary>c[8 i + k] = a[8 i + k] * scales[8 i].</summary>
    protected abstract void Scaled(float* a, float* scales, int n, float* c);

    /// <summary>y_t[k] = fma(c[8 i + t], w[32 i + k], y_t[k]) for i ascending, t below <paramref name="tokens"/> (at most 8) and 32 columns; whole: from +0, and then added to y.</summary>
    protected abstract void Sum(float* w, float* c, int n, int tokens, float* y, nint yStride, bool whole);

    [SkipLocalsInit]
    public sealed override void Columns(WeightFormat format, byte** rows, int n, int cols, int from, int to, float* a, nint aStride, int tokens, float* y, nint yStride, bool whole)
    {
        float* w = stackalloc float[ColumnRows * TileColumns], c = stackalloc float[ColumnRows * TokenGroup];
        float* scales = stackalloc float[ColumnRows * StripBlocks], minima = stackalloc float[ColumnRows * StripBlocks];
        bool quantized = WeightLayout.IsQuantized(format), scaled = quantized && !WeightLayout.HasMinimum(format);
        int column = from;
        while (column + TileColumns <= to)
        {
            int block = column / TileColumns, strip = Math.Min(StripBlocks - block % StripBlocks, (to - column) / TileColumns);
            if (quantized) Widen(format, rows, n, cols, block - block % StripBlocks, scales, minima);
            for (int end = block + strip; block < end; block++, column += TileColumns)
            {
                float* s = scales + block % StripBlocks;
                Expand(format, rows, n, column, s, minima + block % StripBlocks, w);
                for (int t = 0; t < tokens; t += TokenGroup)
                {
                    float* group = a + t / TokenGroup * aStride;
                    if (scaled) Scaled(group, s, n, c);
                    Sum(w, scaled ? c : group, n, Math.Min(TokenGroup, tokens - t), y + t * yStride + column, yStride, whole);
                }
            }
        }
        // f32 and bf16 rows of any length.
        for (; column < to; column++)
            for (int t = 0; t < tokens; t++)
            {
                float* at = y + t * yStride + column, group = a + t / TokenGroup * aStride + t % TokenGroup;
                float sum = whole ? 0f : *at;
                for (int i = 0; i < n; i++)
                    sum = MathF.FusedMultiplyAdd(group[TokenGroup * i], format == WeightFormat.F32 ? ((float*)rows[i])[column] : FloatMath.FromBFloat16(((ushort*)rows[i])[column]), sum);
                *at = whole ? *at + sum : sum;
            }
    }

    /// <summary>Scales and minima of 8 blocks (fewer at the end of a row) of every row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Widen(WeightFormat format, byte** rows, int n, int cols, int block, float* scales, float* minima)
    {
        int count = Math.Min(StripBlocks, cols / WeightLayout.Block - block);
        nint at = WeightLayout.IntegerBytes(format, cols) + (nint)block * WeightLayout.ParameterBytes(format);
        for (int i = 0; i < n; i++, scales += StripBlocks, minima += StripBlocks)
        {
            byte* parameters = rows[i] + at;
            if (format == WeightFormat.Q4B) Avx2Kernels.Parameters<FormB>(parameters, count, scales, minima);
            else if (format == WeightFormat.Q4K) Avx2Kernels.Parameters<FormK>(parameters, count, scales, minima);
            else if (count == StripBlocks) StoredF16.Eight(parameters, 0).Store(scales);
            else
                for (int b = 0; b < count; b++) scales[b] = FloatMath.FromHalf(((ushort*)parameters)[b]);
        }
    }
}
