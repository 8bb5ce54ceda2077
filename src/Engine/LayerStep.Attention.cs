using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>The attention half of a step, its scratch memory, and the matrix products both halves use.</summary>
internal sealed unsafe partial class LayerStep
{
    private NativeBuffer? _arena;
    private ModelConfig? _shape;
    private int _capacity;
    // Scratch, rows x width each: input, normalised, quantised, fused q k v, attention output, its quantised form, residual after attention,
    // selector output, feed-forward sum; then per worker the attention scores.
    private float* _x, _n, _qkv, _a, _h, _g, _y, _scores, _partials;
    private byte* _q, _aq;
    private int _partialBuffers;
    private int _scoresStride;

    // The matrix product under way (compute threads read these while the pool runs).
    private byte* _panels;
    private byte* _product;
    private nint _productStride;
    private float* _target;
    private int _productRows, _productCols, _panelCount, _panelChunk;
    private WeightFormat _productFormat;
    private Action<int, int>? _panelJob, _attentionJob;

    /// <summary>Lays out the scratch memory for a wave; grows it when shape or rows ask for more.</summary>
    private void Layout(ModelConfig c, int rows)
    {
        if (ReferenceEquals(_shape, c) && rows <= _capacity) return;
        int capacity = Math.Max(8, (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)rows));
        int wide = c.Heads * c.HeadDim;
        int blocks = (c.FfnSize + Numerics.NeuronBlock - 1) / Numerics.NeuronBlock;
        _partialBuffers = (int)Math.Clamp(PartialBytes / ((long)capacity * c.HiddenSize * 4), 2, Math.Max(2, blocks));
        _scoresStride = c.MaxPositions;
        long offset = 0;
        long Take(long bytes)
        {
            long at = offset;
            offset += (bytes + 63) & ~63L;
            return at;
        }
        long d = (long)capacity * c.HiddenSize * 4;
        long x = Take(d), n = Take(d), h = Take(d), y = Take(d);
        long qkv = Take((long)capacity * c.QkvRows * 4), a = Take((long)capacity * wide * 4);
        long q = Take((long)capacity * Kernels.QuantizedBytes(c.HiddenSize)), aq = Take((long)capacity * Kernels.QuantizedBytes(wide));
        long g = Take((long)capacity * c.FfnSize * 4), partials = Take(d * _partialBuffers);
        long scores = Take((long)pool.Threads * _scoresStride * 4);
        _arena?.Dispose();
        _arena = new NativeBuffer(offset, ledger, "scratch", alignment: 64);
        byte* p = _arena.Pointer;
        _x = (float*)(p + x); _n = (float*)(p + n); _h = (float*)(p + h); _y = (float*)(p + y);
        _qkv = (float*)(p + qkv); _a = (float*)(p + a); _q = p + q; _aq = p + aq;
        _g = (float*)(p + g); _partials = (float*)(p + partials); _scores = (float*)(p + scores);
        _capacity = capacity;
        _shape = c;
    }

    /// <summary>h = x + o(attention(norm(x))), keys and values rounded to the KV type and stored before anyone reads them.</summary>
    private void Attention()
    {
        var c = _layer.Config;
        var w = _layer.Weights!;
        Normalise(_x, w.AttentionNorm, w.AttentionNormBias, _n, _rows);
        Multiply(w.Format, w.Qkv, c.QkvRows, c.HiddenSize, _n, _q, _rows, _qkv, w.QkvBias);
        for (int r = 0; r < _rows; r++) StoreKeyValue(r);
        long work = 0;
        for (int r = 0; r < _rows; r++) work += PositionOf(r) + 1;
        pool.Run(_attentionJob ??= AttentionItem, _rows * c.Heads, work * c.Heads * c.HeadDim * 2 > ParallelWork);
        Multiply(w.Format, w.Output, c.HiddenSize, c.Heads * c.HeadDim, _a, _aq, _rows, _h, w.OutputBias);
        kernels.Add(_h, _x, _rows * c.HiddenSize);
    }

    private void StoreKeyValue(int row)
    {
        var c = _layer.Config;
        var kv = _layer.Kv!;
        var sequence = _slots[_slotOfRow[row]].Sequence;
        int position = PositionOf(row);
        float* q = _qkv + (long)row * c.QkvRows;
        float* k = q + c.Heads * c.HeadDim;
        float* v = k + c.KvHeads * c.HeadDim;
        if (_layer.Rope is { } rope)
        {
            kernels.Rope(q, c.Heads + c.KvHeads, c.HeadDim, rope.Cos(position), rope.Sin(position));
        }
        for (int head = 0; head < c.KvHeads; head++)
        {
            byte* key = kv.Key(sequence, head, position);
            byte* value = kv.Value(sequence, head, position);
            if (kv.Half)
            {
                kernels.ToHalf(k + head * c.HeadDim, c.HeadDim, (ushort*)key);
                kernels.ToHalf(v + head * c.HeadDim, c.HeadDim, (ushort*)value);
            }
            else
            {
                Buffer.MemoryCopy(k + head * c.HeadDim, key, c.HeadDim * 4, c.HeadDim * 4);
                Buffer.MemoryCopy(v + head * c.HeadDim, value, c.HeadDim * 4, c.HeadDim * 4);
            }
        }
    }

    /// <summary>One query head of one row: scores over all positions, softmax, weighted sum; positions ascending in fixed blocks of 64.</summary>
    private void AttentionItem(int item, int worker)
    {
        var c = _layer.Config;
        var kv = _layer.Kv!;
        int row = item / c.Heads, head = item % c.Heads;
        int kvHead = head / (c.Heads / c.KvHeads);
        var sequence = _slots[_slotOfRow[row]].Sequence;
        int length = PositionOf(row) + 1;
        float* q = _qkv + (long)row * c.QkvRows + head * c.HeadDim;
        float* scores = _scores + (long)worker * _scoresStride;
        float* output = _a + ((long)row * c.Heads + head) * c.HeadDim;
        nint stride = c.HeadDim * kv.ElementBytes;
        float scale = 1 / MathF.Sqrt(c.HeadDim);
        for (int p = 0; p < length; p += KvCache.BlockPositions)
            kernels.Scores(q, kv.Key(sequence, kvHead, p), stride, kv.Half, Math.Min(KvCache.BlockPositions, length - p), c.HeadDim, scale, scores + p);
        float sum = kernels.ExpSum(scores, length);
        new Span<float>(output, c.HeadDim).Clear();
        for (int p = 0; p < length; p += KvCache.BlockPositions)
            kernels.WeightedSum(scores + p, kv.Value(sequence, kvHead, p), stride, kv.Half, Math.Min(KvCache.BlockPositions, length - p), c.HeadDim, output);
        kernels.Scale(output, 1 / sum, c.HeadDim);
    }

    private void Normalise(float* x, float* weight, float* bias, float* y, int rows)
    {
        var c = _layer.Config;
        for (int r = 0; r < rows; r++)
        {
            long at = (long)r * c.HiddenSize;
            if (c.Norm == NormKind.Rms) kernels.RmsNorm(x + at, weight, c.HiddenSize, c.NormEps, y + at);
            else kernels.LayerNorm(x + at, weight, bias, c.HiddenSize, c.NormEps, y + at);
        }
    }

    /// <summary>Brings float rows into the form that a format's kernels take: quantised for q8 and q4, themselves otherwise.</summary>
    private byte* Operand(WeightFormat format, float* rows, byte* quantized, int count, int cols, out nint stride)
    {
        if (!WeightLayout.IsQuantized(format))
        {
            stride = (nint)cols * 4;
            return (byte*)rows;
        }
        stride = Kernels.QuantizedBytes(cols);
        for (int r = 0; r < count; r++) kernels.QuantizeRow(rows + (long)r * cols, cols, quantized + r * stride);
        return quantized;
    }

    private void Multiply(WeightFormat format, byte* panels, int rows, int cols, float* x, byte* quantized, int tokens, float* y, float* bias)
    {
        byte* operand = Operand(format, x, quantized, tokens, cols, out nint stride);
        MultiplyOperand(format, panels, rows, cols, operand, stride, tokens, y, bias);
    }

    /// <summary>y[t, r] = row r · x_t (+ bias), threads splitting the panels.</summary>
    private void MultiplyOperand(WeightFormat format, byte* panels, int rows, int cols, byte* x, nint stride, int tokens, float* y, float* bias)
    {
        _productFormat = format; _panels = panels; _productRows = rows; _productCols = cols;
        _product = x; _productStride = stride; _productTokens = tokens; _target = y;
        _panelCount = WeightLayout.Panels(rows);
        bool parallel = (long)rows * cols * tokens > ParallelWork;
        _panelChunk = parallel ? Math.Max(1, _panelCount / (pool.Threads * 4)) : _panelCount;
        pool.Run(_panelJob ??= PanelItem, (_panelCount + _panelChunk - 1) / _panelChunk, parallel);
        if (bias == null) return;
        for (int t = 0; t < tokens; t++) kernels.Add(y + (long)t * rows, bias, rows);
    }

    private int _productTokens;

    private void PanelItem(int item, int worker)
    {
        int from = item * _panelChunk, to = Math.Min(from + _panelChunk, _panelCount);
        kernels.Panels(_productFormat, _panels, from, to, _productRows, _productCols, _product, _productStride, _productTokens, _target, _productRows);
    }
}
