using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The arithmetic of the engine, one instance per instruction set, all giving the same bits (design rule "one arithmetic"):
/// integers stay integers to the end of a block of 32, then <c>acc = fma((float)sum, scaleW * scaleX, acc)</c>, blocks ascending, one accumulator per
/// (row, token); where a block has a float minimum (q4b, q4k), that is followed by <c>acc = fma((float)xsum, minimumW * scaleX, acc)</c>, xsum the block's integer sum of the quantised
/// activations; q4k's scaleW = d * sc and minimumW = -dmin * mn are exact in float. Float sums use 16 virtual lanes (k mod 16, <c>lane = fma(a, b, lane)</c>) folded l+8, l+4, l+2, l+1; axpy works lane = column, rows ascending.
/// No state, no allocation, any thread. Pointers need no alignment. Inputs called <c>x</c> are quantised rows (<see cref="QuantizeRow"/>) for quantised weights,
/// plain float rows for f32 and bf16.
/// </summary>
internal abstract unsafe partial class Kernels
{
    public abstract string Name { get; }

    /// <summary>Bytes of one quantised activation row: cols int8, then cols/32 float scales, then cols/32 int block sums, rounded up to 64.</summary>
    public static int QuantizedBytes(int cols) => (cols + cols / 32 * 8 + 63) & ~63;

    /// <summary>Per block of 32: scale = amax / 127, q = round-half-even(x / scale) in [-127, 127], 0 where amax is 0; and the block's sum of q.</summary>
    public abstract void QuantizeRow(float* x, int cols, byte* quantized);

    /// <summary>y[t * yStride + 16 p + r] = row (16 p + r) · x_t for panels [from, to) and tokens [0, tokens); rows beyond <paramref name="rows"/> are not written. xStride in bytes, yStride in floats;
    /// or, where <paramref name="add"/>, y += that. While a panel is computed one further on is asked for, behind the last those that begin at <paramref name="next"/>, or what lies behind them: a hint.</summary>
    public abstract void Panels(WeightFormat format, byte* panels, int from, int to, int rows, int cols, byte* x, nint xStride, int tokens, float* y, nint yStride, byte* next = null, bool add = false);

    /// <summary>So far ahead memory is asked for, at least: two panels of a model of billions. What is asked for stays in the second cache until it is used.</summary>
    private const int AheadBytes = 64 << 10;

    /// <summary>Panels from the one that is computed to the one that is asked for meanwhile, whole groups of <paramref name="each"/>, in a run of so many.</summary>
    private protected static int PanelsAhead(int panelBytes, int each, int run) => Math.Min(run, ((AheadBytes + panelBytes - 1) / panelBytes + each - 1) / each * each);

    /// <summary>Bytes from panel p to the one that is <paramref name="distance"/> further on in the run that ends at <paramref name="to"/> and goes on at <paramref name="next"/>.</summary>
    private protected static nint Ahead(byte* panels, int p, int to, int distance, int panelBytes, byte* next) =>
        p + distance < to || next == null ? distance * (nint)panelBytes : (nint)(next - panels) + (distance - to) * (nint)panelBytes;

    /// <summary>result[i] = row_i · x_i for n (row, activation) pairs of bundle rows.</summary>
    public abstract void Dots(WeightFormat format, byte** rows, byte** xs, int n, int cols, float* result);

    /// <summary>
    /// acc[d] = fma(c, w_i[d], acc[d]) for i = 0..n-1 in that order, where c = a_i * scale of w's block for q8 and q4 (w then the integer, q4's minus 8), else c = a_i; the w of q4b and q4k
    /// is the dequantised weight, fl(scale * q + minimum): q * scale is exact, so one fma makes it, off the chain of acc, and 16 of them per block are a table to look nibbles up in.
    /// <paramref name="after"/>: so many rows that follow the n will be wanted next (a hint).
    /// </summary>
    public abstract void Axpys(WeightFormat format, float* a, byte** rows, int n, int cols, float* acc, int after = 0);

    /// <summary>Most rows of one call of <see cref="Columns"/>, and how many tokens its coefficients are grouped by.</summary>
    public const int ColumnRows = 128, TokenGroup = 8;

    /// <summary>
    /// <see cref="Axpys"/> of the same rows (at most <see cref="ColumnRows"/>) for several tokens, columns [from, to) only, from a multiple of 32 and to one or the end:
    /// y_t[d] = fma(c_ti, w_i[d], y_t[d]), i ascending, y_t = y + t * yStride; or, where <paramref name="whole"/>, that sum from +0, and then y_t[d] += sum. Token t's a_i is
    /// a[t / 8 * aStride + 8 * i + t % 8], and whole groups of eight are readable.
    /// </summary>
    public abstract void Columns(WeightFormat format, byte** rows, int n, int cols, int from, int to, float* a, nint aStride, int tokens, float* y, nint yStride, bool whole);

    /// <summary>Weights as floats: row r of a panel.</summary>
    public abstract void PanelRow(WeightFormat format, byte* panel, int row, int cols, float* y);

    /// <summary>scores[i] = (q · key_i) * scale; keys are headDim floats (f16 when <paramref name="half"/>) every <paramref name="stride"/> bytes. Meanwhile as many are asked for at <paramref name="next"/>: a hint, here and where attention reads else.</summary>
    public abstract void Scores(float* q, byte* keys, nint stride, bool half, int count, int headDim, float scale, float* scores, byte* next = null);

    /// <summary>acc[d] = fma(p_i, value_i[d], acc[d]), i ascending.</summary>
    public abstract void WeightedSum(float* p, byte* values, nint stride, bool half, int count, int headDim, float* acc, byte* next = null);

    /// <summary>s_i = exp(s_i - max), max the largest of them; returns their sum (16 virtual lanes over i).</summary>
    public abstract float ExpSum(float* s, int n, out float max);

    /// <summary>y = x / rms(x) * w; 1/rms = 1 / sqrt(mean(x²) + eps).</summary>
    public abstract void RmsNorm(float* x, float* w, int cols, float eps, float* y);

    /// <summary>y = (x - mean) / sqrt(var + eps) * w + b.</summary>
    public abstract void LayerNorm(float* x, float* w, float* b, int cols, float eps, float* y);

    /// <summary>x_i += y_i.</summary>
    public abstract void Add(float* x, float* y, int n);

    /// <summary>x_i *= f.</summary>
    public abstract void Scale(float* x, float f, int n);

    /// <summary>x_i = x_i / (1 + exp(-x_i)).</summary>
    public abstract void Silu(float* x, int n);

    /// <summary>Halves rotated as in Llama, in place, for <paramref name="heads"/> heads: (a, b) -> (a cos - b sin, b cos + a sin), each product rounded, pairs (i, i + headDim/2).</summary>
    public abstract void Rope(float* x, int heads, int headDim, float* cos, float* sin);

    /// <summary>Rounds to f16 (nearest even).</summary>
    public abstract void ToHalf(float* x, int n, ushort* y);
}
