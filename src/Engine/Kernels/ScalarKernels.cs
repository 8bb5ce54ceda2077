using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The definition of every kernel, in plain loops: what the bits are. The SIMD variants must agree with this file in every bit, and the tests compare them on every
/// length and alignment. It is also what runs on a machine without AVX2. No state, no allocation, any thread.
/// <code>
/// quantised product : sum of one block of 32 in integers, then acc = fma((float)sum, scaleW * scaleX, acc), blocks ascending, acc from +0
///                     with a minimum (q4b, q4k), after each block's: acc = fma((float)(sum of the block's activations), minimumW * scaleX, acc)
/// float product     : 16 virtual lanes, lane[k % 16] = fma(a[k], b[k], lane[k % 16]), folded l+8, l+4, l+2, l+1
/// axpy              : acc[d] = fma(c, w[d], acc[d]), rows ascending; q8, q4: c = a * scale, w the integer; with a minimum: c = a, w = scale * q + minimum
/// </code>
/// </summary>
internal sealed unsafe partial class ScalarKernels : Kernels
{
    public override string Name => "scalar";

    public override void QuantizeRow(float* x, int cols, byte* quantized)
    {
        sbyte* q = (sbyte*)quantized;
        float* scales = (float*)(quantized + cols);
        int* sums = (int*)(scales + cols / WeightLayout.Block);
        for (int block = 0; block < cols / WeightLayout.Block; block++, x += WeightLayout.Block, q += WeightLayout.Block)
        {
            // The largest magnitude as an integer: a NaN wins over everything and so is not lost.
            int largest = 0;
            for (int i = 0; i < WeightLayout.Block; i++) largest = Math.Max(largest, BitConverter.SingleToInt32Bits(x[i]) & 0x7FFFFFFF);
            float scale = BitConverter.Int32BitsToSingle(largest) / 127f;
            int sum = 0;
            bool usable = scale > 0f && scale < float.PositiveInfinity;
            for (int i = 0; i < WeightLayout.Block; i++)
            {
                int value = usable ? Math.Clamp((int)MathF.Round(x[i] / scale), -127, 127) : 0;
                q[i] = (sbyte)value;
                sum += value;
            }
            scales[block] = scale;
            sums[block] = sum;
        }
    }

    public override void Panels(WeightFormat format, byte* panels, int from, int to, int rows, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, byte* next = null, bool add = false)
    {
        int panelBytes = WeightLayout.PanelBytes(format, cols);
        for (int p = from; p < to; p++)
        {
            byte* panel = panels + (long)p * panelBytes;
            int first = p * WeightLayout.PanelRows;
            for (int r = 0; r < Math.Min(WeightLayout.PanelRows, rows - first); r++)
                for (int t = 0; t < tokens; t++)
                {
                    float sum = PanelDot(format, panel, r, cols, x + t * xStride);
                    float* at = y + t * yStride + first + r;
                    *at = add ? *at + sum : sum;
                }
        }
    }

    public override void PanelRow(WeightFormat format, byte* panel, int row, int cols, float* y) => UnpackPanelRow(format, panel, row, cols, y);

    /// <summary>Serves every variant: one embedding row per token is too little work to vectorise.</summary>
    internal static void UnpackPanelRow(WeightFormat format, byte* panel, int row, int cols, float* y)
    {
        if (!WeightLayout.IsQuantized(format))
        {
            byte* stored = panel + row * WeightLayout.RowBytes(format, cols);
            for (int k = 0; k < cols; k++) y[k] = format == WeightFormat.F32 ? ((float*)stored)[k] : FloatMath.FromBFloat16(((ushort*)stored)[k]);
            return;
        }
        byte* parameters = panel + WeightLayout.PanelRows * WeightLayout.IntegerBytes(format, cols);
        bool hasMinimum = WeightLayout.HasMinimum(format);
        for (int block = 0; block < cols / WeightLayout.Block; block++)
        {
            float scale = Scale(format, parameters, block, WeightLayout.PanelRows, row), minimum = hasMinimum ? Minimum(format, parameters, block, WeightLayout.PanelRows, row) : 0f;
            for (int k = block * WeightLayout.Block; k < (block + 1) * WeightLayout.Block; k++)
            {
                float product = PanelInteger(format, panel, row, k) * scale;
                y[k] = hasMinimum ? product + minimum : product;
            }
        }
    }

    public override void Dots(WeightFormat format, byte** rows, byte** xs, int n, int cols, float* result)
    {
        for (int i = 0; i < n; i++) result[i] = RowDot(format, rows[i], xs[i], cols);
    }

    public override void Axpys(WeightFormat format, float* a, byte** rows, int n, int cols, float* acc, int after = 0)
    {
        for (int i = 0; i < n; i++)
            if (WeightLayout.IsQuantized(format)) QuantizedAxpy(format, a[i], rows[i], cols, acc);
            else
                for (int k = 0; k < cols; k++)
                    acc[k] = MathF.FusedMultiplyAdd(a[i], format == WeightFormat.F32 ? ((float*)rows[i])[k] : FloatMath.FromBFloat16(((ushort*)rows[i])[k]), acc[k]);
    }

    public override void Columns(WeightFormat format, byte** rows, int n, int cols, int from, int to, float* a, nint aStride, int tokens, float* y, nint yStride, bool whole)
    {
        for (int t = 0; t < tokens; t++)
            for (int k = from; k < to; k++)
            {
                float sum = whole ? 0f : y[t * yStride + k];
                for (int i = 0; i < n; i++)
                {
                    (float factor, float w) = Term(format, a[t / TokenGroup * aStride + TokenGroup * i + t % TokenGroup], rows[i], k, cols);
                    sum = MathF.FusedMultiplyAdd(factor, w, sum);
                }
                y[t * yStride + k] = whole ? y[t * yStride + k] + sum : sum;
            }
    }

    /// <summary>The factors of one step of an axpy: c and w of column k.</summary>
    private static (float C, float W) Term(WeightFormat format, float a, byte* row, int k, int cols)
    {
        if (format == WeightFormat.F32) return (a, ((float*)row)[k]);
        if (format == WeightFormat.BF16) return (a, FloatMath.FromBFloat16(((ushort*)row)[k]));
        byte* parameters = row + WeightLayout.IntegerBytes(format, cols);
        float scale = Scale(format, parameters, k / WeightLayout.Block);
        return WeightLayout.HasMinimum(format) ? (a, scale * RowInteger(format, row, k) + Minimum(format, parameters, k / WeightLayout.Block)) : (a * scale, RowInteger(format, row, k));
    }

    private static void QuantizedAxpy(WeightFormat format, float a, byte* row, int cols, float* acc)
    {
        byte* parameters = row + WeightLayout.IntegerBytes(format, cols);
        for (int block = 0; block < cols / WeightLayout.Block; block++)
        {
            float scale = Scale(format, parameters, block);
            if (WeightLayout.HasMinimum(format))
            {
                // The product is exact (at most 11 + 6 + 4 bits): fma(scale, q, minimum) is the same bits.
                float minimum = Minimum(format, parameters, block);
                for (int k = block * WeightLayout.Block; k < (block + 1) * WeightLayout.Block; k++) acc[k] = MathF.FusedMultiplyAdd(a, scale * RowInteger(format, row, k) + minimum, acc[k]);
            }
            else
            {
                float c = a * scale;
                for (int k = block * WeightLayout.Block; k < (block + 1) * WeightLayout.Block; k++) acc[k] = MathF.FusedMultiplyAdd(c, RowInteger(format, row, k), acc[k]);
            }
        }
    }

    private static float PanelDot(WeightFormat format, byte* panel, int row, int cols, byte* x)
    {
        if (!WeightLayout.IsQuantized(format)) return RowDot(format, panel + row * WeightLayout.RowBytes(format, cols), x, cols);
        byte* parameters = panel + WeightLayout.PanelRows * WeightLayout.IntegerBytes(format, cols);
        float acc = 0f;
        for (int block = 0; block < cols / WeightLayout.Block; block++)
        {
            int sum = 0;
            for (int k = block * WeightLayout.Block; k < (block + 1) * WeightLayout.Block; k++) sum += PanelInteger(format, panel, row, k) * ((sbyte*)x)[k];
            acc = AddBlock(format, sum, parameters, block, WeightLayout.PanelRows, row, x, cols, acc);
        }
        return acc;
    }

    private static float RowDot(WeightFormat format, byte* row, byte* x, int cols)
    {
        if (!WeightLayout.IsQuantized(format)) return FloatDot(format, row, (float*)x, cols);
        byte* parameters = row + WeightLayout.IntegerBytes(format, cols);
        float acc = 0f;
        for (int block = 0; block < cols / WeightLayout.Block; block++)
        {
            int sum = 0;
            for (int k = block * WeightLayout.Block; k < (block + 1) * WeightLayout.Block; k++) sum += RowInteger(format, row, k) * ((sbyte*)x)[k];
            acc = AddBlock(format, sum, parameters, block, 1, 0, x, cols, acc);
        }
        return acc;
    }

    /// <summary>One block of a quantised product: its integer sum, then, where weights have a minimum, the activations' integer sum.</summary>
    private static float AddBlock(WeightFormat format, int sum, byte* parameters, int block, int rows, int row, byte* x, int cols, float acc)
    {
        float scaleX = ((float*)(x + cols))[block];
        acc = MathF.FusedMultiplyAdd(sum, Scale(format, parameters, block, rows, row) * scaleX, acc);
        if (!WeightLayout.HasMinimum(format)) return acc;
        int sumX = ((int*)(x + cols))[cols / WeightLayout.Block + block];
        return MathF.FusedMultiplyAdd(sumX, Minimum(format, parameters, block, rows, row) * scaleX, acc);
    }

    private static float FloatDot(WeightFormat format, byte* row, float* x, int cols)
    {
        float* lanes = stackalloc float[16];
        new Span<float>(lanes, 16).Clear();
        for (int k = 0; k < cols; k++)
        {
            float w = format == WeightFormat.F32 ? ((float*)row)[k] : FloatMath.FromBFloat16(((ushort*)row)[k]);
            lanes[k % 16] = MathF.FusedMultiplyAdd(w, x[k], lanes[k % 16]);
        }
        return Fold(lanes);
    }

    /// <summary>The one tree of every float reduction. Overwrites the lanes.</summary>
    private static float Fold(float* lanes)
    {
        for (int width = 8; width > 0; width /= 2)
            for (int l = 0; l < width; l++) lanes[l] += lanes[l + width];
        return lanes[0];
    }

    /// <summary>q8: the int8; q4: the nibble minus 8; with a minimum: the nibble.</summary>
    private static int RowInteger(WeightFormat format, byte* row, int k)
    {
        if (format == WeightFormat.Q8) return ((sbyte*)row)[k];
        byte pair = row[k / 32 * 16 + k % 16];
        return (k % 32 < 16 ? pair & 15 : pair >> 4) - Offset(format);
    }

    private static int PanelInteger(WeightFormat format, byte* panel, int row, int k)
    {
        int block = k / 32, step = k % 32 / 4, column = k % 4;
        if (format == WeightFormat.Q8) return ((sbyte*)panel)[block * 512 + step * 64 + row * 4 + column];
        byte pair = panel[block * 256 + step % 4 * 64 + row * 4 + column];
        return (step < 4 ? pair & 15 : pair >> 4) - Offset(format);
    }

    private static int Offset(WeightFormat format) => format == WeightFormat.Q4 ? 8 : 0;

    /// <summary>The scale of a block; <paramref name="rows"/> rows are interleaved (16 in a panel).</summary>
    internal static float Scale(WeightFormat format, byte* parameters, int block, int rows = 1, int row = 0)
    {
        if (format != WeightFormat.Q4K) return FloatMath.FromHalf(((ushort*)parameters)[(block * rows + row) * (format == WeightFormat.Q4B ? 2 : 1)]);
        uint* words = (uint*)parameters + block / 8 * 4 * rows + row;
        return FloatMath.FromHalf((ushort)words[0]) * SixBits.Scale(words[rows], words[3 * rows], block % 8);
    }

    /// <summary>The minimum of a block of q4b or q4k.</summary>
    internal static float Minimum(WeightFormat format, byte* parameters, int block, int rows = 1, int row = 0)
    {
        if (format == WeightFormat.Q4B) return FloatMath.FromHalf(((ushort*)parameters)[(block * rows + row) * 2 + 1]);
        uint* words = (uint*)parameters + block / 8 * 4 * rows + row;
        // q4k subtracts dmin * mn: the sign goes to dmin first, so that every variant makes the same zeros.
        return FloatMath.FromHalf((ushort)(words[0] >> 16 ^ 0x8000)) * SixBits.Minimum(words[2 * rows], words[3 * rows], block % 8);
    }
}
