using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>acc += a * row: a tile of columns stays in registers while the rows of a chunk pass by.</summary>
internal sealed unsafe partial class Avx512Kernels
{
    // Rows whose coefficients (a * scale) are prepared at once, and the columns they are prepared for: 16 * 32 floats of stack.
    private const int ChunkRows = Avx2Kernels.ChunkRows, ChunkBlocks = Avx2Kernels.ChunkBlocks;

    public override void Axpys(WeightFormat format, float* a, byte** rows, int n, int cols, float* acc, int after = 0)
    {
        switch (format)
        {
            case WeightFormat.F32: FloatAxpys<StoredF32>(a, rows, n, cols, acc); break;
            case WeightFormat.BF16: FloatAxpys<StoredBF16>(a, rows, n, cols, acc); break;
            case WeightFormat.Q8 or WeightFormat.Q4: QuantizedAxpys(format, a, rows, n, cols, acc, after); break;
            case WeightFormat.Q4B: MinimumAxpys<FormB>(a, rows, n, cols, acc, after); break;
            case WeightFormat.Q4K: MinimumAxpys<FormK>(a, rows, n, cols, acc, after); break;
            default: throw new ArgumentOutOfRangeException(nameof(format));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void QuantizedAxpys(WeightFormat format, float* a, byte** rows, int n, int cols, float* acc, int after)
    {
        float* c = stackalloc float[ChunkRows * ChunkBlocks];
        int blocks = cols / WeightLayout.Block, scales = format == WeightFormat.Q8 ? cols : cols / 2, bytes = scales / blocks;
        for (int first = 0; first < n; first += ChunkRows)
        {
            int count = Math.Min(ChunkRows, n - first), ahead = Math.Min(ChunkRows, n + after - first - count);
            for (int from = 0; from < blocks; from += ChunkBlocks)
            {
                int to = Math.Min(from + ChunkBlocks, blocks);
                // Rows lie anywhere in a window: the same columns of the next rows are asked for while these are added, a tile at a time, as only some twenty reads can be on their way.
                for (int i = 0; i < ahead; i++) Sse.Prefetch0(rows[first + count + i] + scales + from * 2);
                for (int i = 0; i < count; i++) Coefficients(a[first + i], (ushort*)(rows[first + i] + scales) + from, to - from, c + i * ChunkBlocks);
                for (int block = from; block < to; block += block + 4 <= to ? 4 : 1)
                {
                    float* tile = acc + block * WeightLayout.Block;
                    Ask(rows + first + count, ahead, block * bytes, 4 * bytes);
                    if (format == WeightFormat.Q8)
                    {
                        if (block + 4 <= to) Q8Columns128(c + block - from, rows + first, count, block * 32, tile);
                        else Q8Columns32(c + block - from, rows + first, count, block * 32, tile);
                    }
                    else
                    {
                        if (block + 4 <= to) Q4Columns128(c + block - from, rows + first, count, block * 16, tile);
                        else Q4Columns32(c + block - from, rows + first, count, block * 16, tile);
                    }
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Ask(byte** rows, int n, nint from, int bytes)
    {
        for (int i = 0; i < n; i++)
            for (int line = 0; line < bytes; line += 64) Sse.Prefetch0(rows[i] + from + line);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Coefficients(float a, ushort* scales, int blocks, float* c)
    {
        int block = 0;
        for (; block + 16 <= blocks; block += 16) (StoredF16.Sixteen((byte*)scales, block) * Vector512.Create(a)).Store(c + block);
        for (; block + 8 <= blocks; block += 8) (StoredF16.Eight((byte*)scales, block) * Vector256.Create(a)).Store(c + block);
        for (; block < blocks; block++) c[block] = a * FloatMath.FromHalf(scales[block]);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q8Columns128(float* c, byte** rows, int n, int offset, float* acc)
    {
        Vector512<float> t0 = Vector512.Load(acc), t1 = Vector512.Load(acc + 16), t2 = Vector512.Load(acc + 32), t3 = Vector512.Load(acc + 48);
        Vector512<float> t4 = Vector512.Load(acc + 64), t5 = Vector512.Load(acc + 80), t6 = Vector512.Load(acc + 96), t7 = Vector512.Load(acc + 112);
        for (int i = 0; i < n; i++, c += ChunkBlocks)
        {
            sbyte* w = (sbyte*)rows[i] + offset;
            Vector512<float> s = Vector512.Create(c[0]);
            t0 = Mad(s, Floats(w), t0);
            t1 = Mad(s, Floats(w + 16), t1);
            s = Vector512.Create(c[1]);
            t2 = Mad(s, Floats(w + 32), t2);
            t3 = Mad(s, Floats(w + 48), t3);
            s = Vector512.Create(c[2]);
            t4 = Mad(s, Floats(w + 64), t4);
            t5 = Mad(s, Floats(w + 80), t5);
            s = Vector512.Create(c[3]);
            t6 = Mad(s, Floats(w + 96), t6);
            t7 = Mad(s, Floats(w + 112), t7);
        }
        t0.Store(acc); t1.Store(acc + 16); t2.Store(acc + 32); t3.Store(acc + 48);
        t4.Store(acc + 64); t5.Store(acc + 80); t6.Store(acc + 96); t7.Store(acc + 112);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q8Columns32(float* c, byte** rows, int n, int offset, float* acc)
    {
        Vector512<float> t0 = Vector512.Load(acc), t1 = Vector512.Load(acc + 16);
        for (int i = 0; i < n; i++, c += ChunkBlocks)
        {
            sbyte* w = (sbyte*)rows[i] + offset;
            t0 = Mad(Vector512.Create(c[0]), Floats(w), t0);
            t1 = Mad(Vector512.Create(c[0]), Floats(w + 16), t1);
        }
        t0.Store(acc); t1.Store(acc + 16);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q4Columns128(float* c, byte** rows, int n, int offset, float* acc)
    {
        // A permute looks at the low four bits of an index only, so the byte itself chooses its low nibble's value.
        Vector512<float> values = Vector512.Create(-8f, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        Vector512<float> t0 = Vector512.Load(acc), t1 = Vector512.Load(acc + 16), t2 = Vector512.Load(acc + 32), t3 = Vector512.Load(acc + 48);
        Vector512<float> t4 = Vector512.Load(acc + 64), t5 = Vector512.Load(acc + 80), t6 = Vector512.Load(acc + 96), t7 = Vector512.Load(acc + 112);
        for (int i = 0; i < n; i++, c += ChunkBlocks)
        {
            byte* row = rows[i] + offset;
            Vector512<float> s = Vector512.Create(c[0]);
            Vector512<int> w = Bytes(row);
            t0 = Mad(s, Avx512F.PermuteVar16x32(values, w), t0);
            t1 = Mad(s, Avx512F.PermuteVar16x32(values, w >> 4), t1);
            s = Vector512.Create(c[1]);
            w = Bytes(row + 16);
            t2 = Mad(s, Avx512F.PermuteVar16x32(values, w), t2);
            t3 = Mad(s, Avx512F.PermuteVar16x32(values, w >> 4), t3);
            s = Vector512.Create(c[2]);
            w = Bytes(row + 32);
            t4 = Mad(s, Avx512F.PermuteVar16x32(values, w), t4);
            t5 = Mad(s, Avx512F.PermuteVar16x32(values, w >> 4), t5);
            s = Vector512.Create(c[3]);
            w = Bytes(row + 48);
            t6 = Mad(s, Avx512F.PermuteVar16x32(values, w), t6);
            t7 = Mad(s, Avx512F.PermuteVar16x32(values, w >> 4), t7);
        }
        t0.Store(acc); t1.Store(acc + 16); t2.Store(acc + 32); t3.Store(acc + 48);
        t4.Store(acc + 64); t5.Store(acc + 80); t6.Store(acc + 96); t7.Store(acc + 112);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q4Columns32(float* c, byte** rows, int n, int offset, float* acc)
    {
        Vector512<float> values = Vector512.Create(-8f, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        Vector512<float> t0 = Vector512.Load(acc), t1 = Vector512.Load(acc + 16);
        for (int i = 0; i < n; i++, c += ChunkBlocks)
        {
            Vector512<int> w = Bytes(rows[i] + offset);
            t0 = Mad(Vector512.Create(c[0]), Avx512F.PermuteVar16x32(values, w), t0);
            t1 = Mad(Vector512.Create(c[0]), Avx512F.PermuteVar16x32(values, w >> 4), t1);
        }
        t0.Store(acc); t1.Store(acc + 16);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MinimumAxpys<TForm>(float* a, byte** rows, int n, int cols, float* acc, int after) where TForm : struct, IFourBit
    {
        float* scales = stackalloc float[2 * ChunkRows * ChunkBlocks], minima = scales + ChunkRows * ChunkBlocks;
        int blocks = cols / WeightLayout.Block, each = WeightLayout.ParameterBytes(TForm.Format), parameters = cols / 2;
        for (int first = 0; first < n; first += ChunkRows)
        {
            int count = Math.Min(ChunkRows, n - first), ahead = Math.Min(ChunkRows, n + after - first - count);
            for (int from = 0; from < blocks; from += ChunkBlocks)
            {
                int to = Math.Min(from + ChunkBlocks, blocks);
                for (int i = 0; i < ahead; i++) Sse.Prefetch0(rows[first + count + i] + parameters + from * each);
                for (int i = 0; i < count; i++)
                    Avx2Kernels.Parameters<TForm>(rows[first + i] + parameters + from * each, to - from, scales + i * ChunkBlocks, minima + i * ChunkBlocks);
                for (int block = from; block < to; block += block + 4 <= to ? 4 : 1)
                {
                    Ask(rows + first + count, ahead, block * 16, 64);
                    float* s = scales + block - from, m = minima + block - from, tile = acc + block * WeightLayout.Block;
                    if (block + 4 <= to) MinimumColumns128(a + first, s, m, rows + first, count, block * 16, tile);
                    else MinimumColumns32(a + first, s, m, rows + first, count, block * 16, tile);
                }
            }
        }
    }

    /// <summary>A block has sixteen different weights: one fma makes them all, fma(scale, 0..15, minimum), and a permute looks up each nibble's.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MinimumColumns128(float* a, float* scales, float* minima, byte** rows, int n, int offset, float* acc)
    {
        Vector512<float> steps = Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        Vector512<float> t0 = Vector512.Load(acc), t1 = Vector512.Load(acc + 16), t2 = Vector512.Load(acc + 32), t3 = Vector512.Load(acc + 48);
        Vector512<float> t4 = Vector512.Load(acc + 64), t5 = Vector512.Load(acc + 80), t6 = Vector512.Load(acc + 96), t7 = Vector512.Load(acc + 112);
        for (int i = 0; i < n; i++, scales += ChunkBlocks, minima += ChunkBlocks)
        {
            byte* row = rows[i] + offset;
            Vector512<float> c = Vector512.Create(a[i]), values = Mad(Vector512.Create(scales[0]), steps, Vector512.Create(minima[0]));
            Vector512<int> w = Bytes(row);
            t0 = Mad(c, Avx512F.PermuteVar16x32(values, w), t0);
            t1 = Mad(c, Avx512F.PermuteVar16x32(values, w >> 4), t1);
            values = Mad(Vector512.Create(scales[1]), steps, Vector512.Create(minima[1]));
            w = Bytes(row + 16);
            t2 = Mad(c, Avx512F.PermuteVar16x32(values, w), t2);
            t3 = Mad(c, Avx512F.PermuteVar16x32(values, w >> 4), t3);
            values = Mad(Vector512.Create(scales[2]), steps, Vector512.Create(minima[2]));
            w = Bytes(row + 32);
            t4 = Mad(c, Avx512F.PermuteVar16x32(values, w), t4);
            t5 = Mad(c, Avx512F.PermuteVar16x32(values, w >> 4), t5);
            values = Mad(Vector512.Create(scales[3]), steps, Vector512.Create(minima[3]));
            w = Bytes(row + 48);
            t6 = Mad(c, Avx512F.PermuteVar16x32(values, w), t6);
            t7 = Mad(c, Avx512F.PermuteVar16x32(values, w >> 4), t7);
        }
        t0.Store(acc); t1.Store(acc + 16); t2.Store(acc + 32); t3.Store(acc + 48);
        t4.Store(acc + 64); t5.Store(acc + 80); t6.Store(acc + 96); t7.Store(acc + 112);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MinimumColumns32(float* a, float* scales, float* minima, byte** rows, int n, int offset, float* acc)
    {
        Vector512<float> steps = Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        Vector512<float> t0 = Vector512.Load(acc), t1 = Vector512.Load(acc + 16);
        for (int i = 0; i < n; i++, scales += ChunkBlocks, minima += ChunkBlocks)
        {
            Vector512<float> c = Vector512.Create(a[i]), values = Mad(Vector512.Create(scales[0]), steps, Vector512.Create(minima[0]));
            Vector512<int> w = Bytes(rows[i] + offset);
            t0 = Mad(c, Avx512F.PermuteVar16x32(values, w), t0);
            t1 = Mad(c, Avx512F.PermuteVar16x32(values, w >> 4), t1);
        }
        t0.Store(acc); t1.Store(acc + 16);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Floats(sbyte* w) => Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(Vector128.Load(w)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Bytes(byte* w) => Avx512F.ConvertToVector512Int32(Vector128.Load(w));

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FloatAxpys<T>(float* a, byte** rows, int n, int cols, float* acc) where T : struct, IStored
    {
        // In chunks, so that a row is read through while its neighbours in the window are near.
        for (int first = 0; first < n; first += ChunkRows) FloatChunk<T>(a + first, rows + first, Math.Min(ChunkRows, n - first), cols, acc);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FloatChunk<T>(float* a, byte** rows, int n, int cols, float* acc) where T : struct, IStored
    {
        int k = 0;
        for (; k + 64 <= cols; k += 64)
        {
            Vector512<float> t0 = Vector512.Load(acc + k), t1 = Vector512.Load(acc + k + 16), t2 = Vector512.Load(acc + k + 32), t3 = Vector512.Load(acc + k + 48);
            for (int i = 0; i < n; i++)
            {
                Vector512<float> s = Vector512.Create(a[i]);
                t0 = Mad(s, T.Sixteen(rows[i], k), t0);
                t1 = Mad(s, T.Sixteen(rows[i], k + 16), t1);
                t2 = Mad(s, T.Sixteen(rows[i], k + 32), t2);
                t3 = Mad(s, T.Sixteen(rows[i], k + 48), t3);
            }
            t0.Store(acc + k); t1.Store(acc + k + 16); t2.Store(acc + k + 32); t3.Store(acc + k + 48);
        }
        for (; k + 16 <= cols; k += 16)
        {
            Vector512<float> t = Vector512.Load(acc + k);
            for (int i = 0; i < n; i++) t = Mad(Vector512.Create(a[i]), T.Sixteen(rows[i], k), t);
            t.Store(acc + k);
        }
        for (; k < cols; k++)
            for (int i = 0; i < n; i++) acc[k] = MathF.FusedMultiplyAdd(a[i], T.One(rows[i], k), acc[k]);
    }
}
