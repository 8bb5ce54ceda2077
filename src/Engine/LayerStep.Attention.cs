using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>The attention half of a step, its scratch memory, and the matrix products both halves use.</summary>
internal sealed unsafe partial class LayerStep
{
    private NativeBuffer? _arena;
    private ModelConfig? _shape;
    private int _capacity;
    // Scratch, rows x width each: input, normalised, quantised, fused q k v, attention output, its quantised form, residual after attention,
    // selector output or predictor's scores, experts' weights, feed-forward sum, embedding of another width, rotary angles, a predictor's middle.
    private float* _x, _n, _qkv, _a, _h, _g, _routed, _y, _e, _partials, _angles, _low;
    private byte* _q, _aq, _lowQ;
    /// <summary>Rows that all partial sums have together.</summary>
    private long _partialRows;

    // The matrix product under way (compute threads read these while the pool runs).
    private byte* _panels;
    private byte* _product;
    private nint _productStride;
    private float* _target;
    private int _productRows, _productCols, _panelCount, _panelChunk;
    private WeightFormat _productFormat;
    private Action<int, int>? _panelJob;

    /// <summary>Takes the scratch memory for waves of <see cref="LeastRows"/> rows of this layer's model now, not with the first wave.</summary>
    public void Prepare(Layer layer) => Layout(layer, LeastRows);

    /// <summary>Its scratch is of this layer's model, or of none yet.</summary>
    public bool Suits(Layer layer) => _shape == null || ReferenceEquals(_shape, layer.Config);

    /// <summary>Lays out the scratch memory for a wave; grows it when shape or rows ask for more.</summary>
    private void Layout(Layer layer, int rows)
    {
        var c = layer.Config;
        if (ReferenceEquals(_shape, c) && rows <= _capacity) return;
        var at = StepLayout.For(layer.Package.Manifest, Math.Max(rows, LeastRows), pool.Threads, PartialBytes);
        _arena?.Dispose();
        _arena = new NativeBuffer(at.Bytes, ledger, "scratch", alignment: 64);
        byte* p = _arena.Pointer;
        _x = (float*)(p + at.X); _n = (float*)(p + at.Normalised); _h = (float*)(p + at.Residual); _y = (float*)(p + at.Sum);
        _qkv = (float*)(p + at.Qkv); _a = (float*)(p + at.Attended); _q = p + at.Quantised; _aq = p + at.AttendedQuantised;
        _g = (float*)(p + at.Selected); _routed = (float*)(p + at.Routed); _partials = (float*)(p + at.Partials);
        _gathered = p + at.Gathered; _gatheredStride = at.GatheredStride;
        _act = (float*)(p + at.Activations); _woven = p + at.Woven; _products = (float*)(p + at.Products); _wovenBytes = at.WovenBytes;
        _low = (float*)(p + at.Low); _lowQ = p + at.LowQuantised;
        _projected = (float*)(p + at.Projected); _latent = (float*)(p + at.Latent); _latentQ = p + at.LatentQuantised; _keyParts = (float*)(p + at.KeyParts);
        _tile = AttentionTile.Of(c);
        _attention = (float*)(p + at.Attention); _softmax = (float*)(p + at.Softmax); _splits = (float*)(p + at.Splits); _splitsRoom = at.SplitsRoom;
        if (_tiles.Length <= at.Capacity) _tiles = new int[at.Capacity + 1];
        _shared = (float*)(p + at.Shared); _sharedQ = p + at.SharedQuantised;
        _e = (float*)(p + at.Embedding); _angles = (float*)(p + at.Angles);
        _partialRows = (long)at.PartialBuffers * at.Capacity;
        _capacity = at.Capacity;
        _shape = c;
    }

    /// <summary>h = x + o(attention(norm(x))), norms where the model has them; keys and values rounded to the KV type and stored before anyone reads them.</summary>
    private void Attention()
    {
        var c = _layer.Config;
        var w = _layer.Weights!;
        float* input = _x;
        if (c.NormPlacement is NormPlacement.Pre or NormPlacement.Sandwich)
        {
            Normalise(_x, w.AttentionNorm, _n, _rows);
            input = _n;
        }
        if (c.Latent is { } latent) Expand(latent, input);
        else Multiply(w.QkvFormat, w.Qkv, w.QkvRows, c.HiddenSize, input, _q, _rows, _qkv, null, c.QkvRows);
        if (w.Values != null) Multiply(w.ValuesFormat, w.Values, c.QkvRows - w.QkvRows, c.HiddenSize, input, _q, _rows, _qkv + w.QkvRows, null, c.QkvRows);
        // The next layer's reads should begin while this one computes, and what it asks for comes through a grain.
        Poll?.Invoke();
        for (int r = 0; r < _rows; r++) StoreKeyValue(r);
        Attend();
        Multiply(w.OutputFormat, w.Output, c.HiddenSize, c.AttendedSize, _a, _aq, _rows, _h, w.OutputBias);
        AddBranch(_h, _x, w.AttentionOutNorm, c.NormPlacement == NormPlacement.Post ? w.AttentionNorm : default, _h);
    }

    /// <summary>to = after(stream + scale · norm(branch)); either norm may be absent, and <paramref name="to"/> may be any of the two.</summary>
    private void AddBranch(float* branch, float* stream, Norm norm, Norm after, float* to)
    {
        var c = _layer.Config;
        int n = _rows * c.HiddenSize;
        if (norm.Weight != null) Normalise(branch, norm, branch, _rows);
        if (c.ResidualScale != 1) kernels.Scale(branch, c.ResidualScale, n);
        if (to == branch) kernels.Add(branch, stream, n);
        else kernels.Add(stream, branch, n);
        if (after.Weight != null) Normalise(to, after, to, _rows);
    }

    private void StoreKeyValue(int row)
    {
        var c = _layer.Config;
        var w = _layer.Weights!;
        var kv = _layer.Kv!;
        ref readonly var slot = ref _slots[_slotOfRow[row]];
        var sequence = slot.Sequence;
        int position = PositionOf(row);
        float* q = _qkv + (long)row * c.QkvRows;
        float* k = q + c.Heads * c.HeadDim;
        float* v = k + c.KvHeads * c.HeadDim;
        if (w.QkvBias != null) kernels.Add(q, w.QkvBias, c.QkvRows);
        if (c.QkNorm != QkNorm.None)
        {
            int run = c.QkNorm == QkNorm.Head ? 1 : c.Heads, keyRun = c.QkNorm == QkNorm.Head ? 1 : c.KvHeads;
            for (int h = 0; h < c.Heads; h += run) Normalise(q + h * c.HeadDim, w.QueryNorm, q + h * c.HeadDim, 1, run * c.HeadDim);
            for (int h = 0; h < c.KvHeads; h += keyRun) Normalise(k + h * c.HeadDim, w.KeyNorm, k + h * c.HeadDim, 1, keyRun * c.HeadDim);
        }
        if (_layer.Rope is { } rope)
        {
            if (_layer.RopeByLength)
            {
                float* angles = _angles + (long)row * c.HeadDim;
                rope.Angles(position, slot.Slot.Length, angles);
                kernels.Rope(q, c.Heads + c.KvHeads, c.HeadDim, angles, angles + c.HeadDim / 2);
            }
            else
            {
                kernels.Rope(q, c.Heads + c.KvHeads, c.HeadDim, rope.Cos(position), rope.Sin(position));
            }
        }
        int vd = c.ValueHeadDim;
        for (int head = 0; head < c.KvHeads; head++)
        {
            byte* key = kv.Key(sequence, head, position);
            byte* value = kv.Value(sequence, head, position);
            if (kv.Type == KvType.Q8)
            {
                *kv.KeyScale(sequence, head, position) = Kernels.ToInt8(k + head * c.HeadDim, c.HeadDim, (sbyte*)key);
                *kv.ValueScale(sequence, head, position) = Kernels.ToInt8(v + head * vd, vd, (sbyte*)value);
            }
            else if (kv.Type == KvType.F16)
            {
                kernels.ToHalf(k + head * c.HeadDim, c.HeadDim, (ushort*)key);
                kernels.ToHalf(v + head * vd, vd, (ushort*)value);
            }
            else
            {
                Buffer.MemoryCopy(k + head * c.HeadDim, key, c.HeadDim * 4, c.HeadDim * 4);
                Buffer.MemoryCopy(v + head * vd, value, vd * 4, vd * 4);
            }
        }
    }

    private void Normalise(float* x, Norm norm, float* y, int rows) => Normalise(x, norm, y, rows, _layer.Config.HiddenSize);

    private void Normalise(float* x, Norm norm, float* y, int rows, int width)
    {
        var c = _layer.Config;
        for (int r = 0; r < rows; r++)
        {
            long at = (long)r * width;
            if (c.Norm == NormKind.Rms) kernels.RmsNorm(x + at, norm.Weight, width, c.NormEps, y + at);
            else kernels.LayerNorm(x + at, norm.Weight, norm.Bias, width, c.NormEps, y + at);
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

    private void Multiply(WeightFormat format, byte* panels, int rows, int cols, float* x, byte* quantized, int tokens, float* y, float* bias, int stride = 0)
    {
        byte* operand = Operand(format, x, quantized, tokens, cols, out nint operandStride);
        MultiplyOperand(format, panels, rows, cols, operand, operandStride, tokens, y, bias, stride);
    }

    /// <summary>y[t, r] = row r · x_t (+ bias), threads splitting the panels; rows of y lie <paramref name="yStride"/> numbers apart, 0: directly behind each other.</summary>
    private void MultiplyOperand(WeightFormat format, byte* panels, int rows, int cols, byte* x, nint stride, int tokens, float* y, float* bias, int yStride = 0)
    {
        _productFormat = format; _panels = panels; _productRows = rows; _productCols = cols;
        _product = x; _productStride = stride; _productTokens = tokens; _target = y; _targetStride = yStride == 0 ? rows : yStride;
        _panelCount = WeightLayout.Panels(rows);
        bool parallel = (long)rows * cols * tokens > ParallelWork;
        _panelChunk = parallel ? Math.Max(1, _panelCount / (pool.Threads * 4)) : _panelCount;
        pool.Run(_panelJob ??= PanelItem, (_panelCount + _panelChunk - 1) / _panelChunk, parallel);
        if (bias == null) return;
        for (int t = 0; t < tokens; t++) kernels.Add(y + (long)t * _targetStride, bias, rows);
    }

    private int _productTokens, _targetStride;

    private void PanelItem(int item, int worker)
    {
        int from = item * _panelChunk, to = Math.Min(from + _panelChunk, _panelCount);
        kernels.Panels(_productFormat, _panels, from, to, _productRows, _productCols, _product, _productStride, _productTokens, _target, _targetStride);
    }
}
