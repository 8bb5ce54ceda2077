using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>acc += a * row: a tile of columns stays in registers while the rows of a chunk pass by.</summary>
internal sealed unsafe partial class Avx2Kernels
{
    // Rows whose coefficients (a * scale) are prepared at once, and the columns they are prepared for: 16 * 32 floats of stack.
    internal const int ChunkRows = 16, ChunkBlocks = 32;

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
                // Rows lie anywhere in a window: the same columns of the next rows are asked for while these are added.
                for (int i = 0; i < ahead; i++) Ask(rows[first + count + i], from * bytes, to * bytes, scales + from * 2);
                for (int i = 0; i < count; i++) Coefficients(a[first + i], (ushort*)(rows[first + i] + scales) + from, to - from, c + i * ChunkBlocks);
                for (int block = from; block < to; block += block + 2 <= to ? 2 : 1)
                {
                    float* tile = acc + block * WeightLayout.Block;
                    // A last single block is a tile whose second half repeats the first and is dropped.
                    int second = block + 2 <= to ? 1 : 0;
                    if (format == WeightFormat.Q8) Q8Columns(c + block - from, rows + first, count, block * 32, second, tile);
                    else Q4Columns(c + block - from, rows + first, count, block * 16, second, tile);
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Ask(byte* row, int from, int to, int scales)
    {
        for (; from < to; from += 64) Sse.Prefetch0(row + from);
        Sse.Prefetch0(row + scales);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Coefficients(float a, ushort* scales, int blocks, float* c)
    {
        int block = 0;
        for (; block + 8 <= blocks; block += 8) (StoredF16.Eight((byte*)scales, block) * Vector256.Create(a)).Store(c + block);
        for (; block < blocks; block++) c[block] = a * FloatMath.FromHalf(scales[block]);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q8Columns(float* c, byte** rows, int n, int offset, int second, float* acc)
    {
        float* next = acc + second * 32;
        Vector256<float> t0 = Vector256.Load(acc), t1 = Vector256.Load(acc + 8), t2 = Vector256.Load(acc + 16), t3 = Vector256.Load(acc + 24);
        Vector256<float> t4 = Vector256.Load(next), t5 = Vector256.Load(next + 8), t6 = Vector256.Load(next + 16), t7 = Vector256.Load(next + 24);
        for (int i = 0; i < n; i++, c += ChunkBlocks)
        {
            sbyte* w = (sbyte*)rows[i] + offset;
            Vector256<float> s = Vector256.Create(c[0]);
            t0 = Mad(s, Floats(w), t0);
            t1 = Mad(s, Floats(w + 8), t1);
            t2 = Mad(s, Floats(w + 16), t2);
            t3 = Mad(s, Floats(w + 24), t3);
            w += second * 32;
            s = Vector256.Create(c[second]);
            t4 = Mad(s, Floats(w), t4);
            t5 = Mad(s, Floats(w + 8), t5);
            t6 = Mad(s, Floats(w + 16), t6);
            t7 = Mad(s, Floats(w + 24), t7);
        }
        t4.Store(next); t5.Store(next + 8); t6.Store(next + 16); t7.Store(next + 24);
        t0.Store(acc); t1.Store(acc + 8); t2.Store(acc + 16); t3.Store(acc + 24);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Q4Columns(float* c, byte** rows, int n, int offset, int second, float* acc)
    {
        float* next = acc + second * 32;
        Vector256<float> t0 = Vector256.Load(acc), t1 = Vector256.Load(acc + 8), t2 = Vector256.Load(acc + 16), t3 = Vector256.Load(acc + 24);
        Vector256<float> t4 = Vector256.Load(next), t5 = Vector256.Load(next + 8), t6 = Vector256.Load(next + 16), t7 = Vector256.Load(next + 24);
        Vector256<int> nibble = Vector256.Create(15);
        for (int i = 0; i < n; i++, c += ChunkBlocks)
        {
            byte* row = rows[i] + offset;
            Vector256<float> s = Vector256.Create(c[0]);
            Vector256<int> w = Avx2.ConvertToVector256Int32(row), v = Avx2.ConvertToVector256Int32(row + 8);
            t0 = Mad(s, MinusEight(w & nibble), t0);
            t1 = Mad(s, MinusEight(v & nibble), t1);
            t2 = Mad(s, MinusEight(w >>> 4), t2);
            t3 = Mad(s, MinusEight(v >>> 4), t3);
            row += second * 16;
            s = Vector256.Create(c[second]);
            w = Avx2.ConvertToVector256Int32(row);
            v = Avx2.ConvertToVector256Int32(row + 8);
            t4 = Mad(s, MinusEight(w & nibble), t4);
            t5 = Mad(s, MinusEight(v & nibble), t5);
            t6 = Mad(s, MinusEight(w >>> 4), t6);
            t7 = Mad(s, MinusEight(v >>> 4), t7);
        }
        t4.Store(next); t5.Store(next + 8); t6.Store(next + 16); t7.Store(next + 24);
        t0.Store(acc); t1.Store(acc + 8); t2.Store(acc + 16); t3.Store(acc + 24);
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
                for (int i = 0; i < ahead; i++) Ask(rows[first + count + i], from * 16, to * 16, parameters + from * each);
                for (int i = 0; i < count; i++)
                    Parameters<TForm>(rows[first + i] + parameters + from * each, to - from, scales + i * ChunkBlocks, minima + i * ChunkBlocks);
                for (int block = from; block < to; block += block + 2 <= to ? 2 : 1)
                    MinimumColumns(a + first, scales + block - from, minima + block - from, rows + first, count, block * 16, block + 2 <= to ? 1 : 0, acc + block * WeightLayout.Block);
            }
        }
    }

    /// <summary>Scales and minima of at most 32 consecutive blocks of a row, which begin with a super-block.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Parameters<TForm>(byte* parameters, int blocks, float* scales, float* minima) where TForm : struct, IFourBit
    {
        int each = WeightLayout.ParameterBytes(TForm.Format), last = (blocks - 1) / 8;
        Vector256<float> heads = TForm.Heads(parameters, parameters + Math.Min(1, last) * 8 * each, parameters + Math.Min(2, last) * 8 * each, parameters + Math.Min(3, last) * 8 * each);
        int block = 0;
        for (; block + 8 <= blocks; block += 8)
        {
            TForm.BlockScales(parameters + block * each, heads, block / 8).Store(scales + block);
            TForm.BlockMinima(parameters + block * each, heads, block / 8).Store(minima + block);
        }
        for (; block < blocks; block++)
        {
            scales[block] = ScalarKernels.Scale(TForm.Format, parameters, block);
            minima[block] = ScalarKernels.Minimum(TForm.Format, parameters, block);
        }
    }

    /// <summary>w = fma(scale, q, minimum) is the dequantised weight itself and waits for no other row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MinimumColumns(float* a, float* scales, float* minima, byte** rows, int n, int offset, int second, float* acc)
    {
        float* next = acc + second * 32;
        Vector256<float> t0 = Vector256.Load(acc), t1 = Vector256.Load(acc + 8), t2 = Vector256.Load(acc + 16), t3 = Vector256.Load(acc + 24);
        Vector256<float> t4 = Vector256.Load(next), t5 = Vector256.Load(next + 8), t6 = Vector256.Load(next + 16), t7 = Vector256.Load(next + 24);
        Vector256<int> nibble = Vector256.Create(15);
        for (int i = 0; i < n; i++, scales += ChunkBlocks, minima += ChunkBlocks)
        {
            byte* row = rows[i] + offset;
            Vector256<float> c = Vector256.Create(a[i]), s = Vector256.Create(scales[0]), m = Vector256.Create(minima[0]);
            Vector256<int> w = Avx2.ConvertToVector256Int32(row), v = Avx2.ConvertToVector256Int32(row + 8);
            t0 = Mad(c, Mad(s, Avx.ConvertToVector256Single(w & nibble), m), t0);
            t1 = Mad(c, Mad(s, Avx.ConvertToVector256Single(v & nibble), m), t1);
            t2 = Mad(c, Mad(s, Avx.ConvertToVector256Single(w >>> 4), m), t2);
            t3 = Mad(c, Mad(s, Avx.ConvertToVector256Single(v >>> 4), m), t3);
            row += second * 16;
            s = Vector256.Create(scales[second]);
            m = Vector256.Create(minima[second]);
            w = Avx2.ConvertToVector256Int32(row);
            v = Avx2.ConvertToVector256Int32(row + 8);
            t4 = Mad(c, Mad(s, Avx.ConvertToVector256Single(w & nibble), m), t4);
            t5 = Mad(c, Mad(s, Avx.ConvertToVector256Single(v & nibble), m), t5);
            t6 = Mad(c, Mad(s, Avx.ConvertToVector256Single(w >>> 4), m), t6);
            t7 = Mad(c, Mad(s, Avx.ConvertToVector256Single(v >>> 4), m), t7);
        }
        t4.Store(next); t5.Store(next + 8); t6.Store(next + 16); t7.Store(next + 24);
        t0.Store(acc); t1.Store(acc + 8); t2.Store(acc + 16); t3.Store(acc + 24);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Floats(sbyte* w) => Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(w));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> MinusEight(Vector256<int> nibbles) => Avx.ConvertToVector256Single(nibbles - Vector256.Create(8));

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
        for (; k + 32 <= cols; k += 32)
        {
            Vector256<float> t0 = Vector256.Load(acc + k), t1 = Vector256.Load(acc + k + 8), t2 = Vector256.Load(acc + k + 16), t3 = Vector256.Load(acc + k + 24);
            for (int i = 0; i < n; i++)
            {
                Vector256<float> s = Vector256.Create(a[i]);
                t0 = Mad(s, T.Eight(rows[i], k), t0);
                t1 = Mad(s, T.Eight(rows[i], k + 8), t1);
                t2 = Mad(s, T.Eight(rows[i], k + 16), t2);
                t3 = Mad(s, T.Eight(rows[i], k + 24), t3);
            }
            t0.Store(acc + k); t1.Store(acc + k + 8); t2.Store(acc + k + 16); t3.Store(acc + k + 24);
        }
        for (; k + 8 <= cols; k += 8)
        {
            Vector256<float> t = Vector256.Load(acc + k);
            for (int i = 0; i < n; i++) t = Mad(Vector256.Create(a[i]), T.Eight(rows[i], k), t);
            t.Store(acc + k);
        }
        for (; k < cols; k++)
            for (int i = 0; i < n; i++) acc[k] = MathF.FusedMultiplyAdd(a[i], T.One(rows[i], k), acc[k]);
    }
}
