using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The expert that every token uses. It is resident, so it is computed while the first reads of the chosen ones are under way, and is what their sum begins with: its place in that sum does not
/// depend on what arrives when.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Up rows' products (and behind them gate rows'), and the quantised form of what goes into down.</summary>
    private float* _shared;
    private byte* _sharedQ;
    private bool _sharedDue;

    private void AddSharedExpert()
    {
        if (!_sharedDue) return;
        _sharedDue = false;
        var c = _layer.Config;
        var w = _layer.Weights!.Shared;
        int n = _layer.Experts!.SharedSize, d = c.HiddenSize;
        float* up = _shared, a = up;
        Multiply(w.UpFormat, w.Up, n, d, _input, _q, _rows, up, null);
        if (c.Gated)
        {
            a = up + (long)_rows * n;
            Multiply(w.GateFormat, w.Gate, n, d, _input, _q, _rows, a, null);
        }
        Activations.Apply(kernels, c, a, _rows * n);
        if (c.Gated) Activations.Combine(c, a, up, _rows * n);
        Multiply(w.DownFormat, w.Down, d, n, a, _sharedQ, _rows, _y, null);
        for (int r = 0; r < _rows; r++)
        {
            float* y = _y + (long)r * d;
            if (w.Mix != null) kernels.Scale(y, Activations.Sigmoid(Product(_input + (long)r * d, w.Mix, d)), d);
            // The sum may not begin with -0: adding a block of zeros, which other rows need, would change it.
            for (int j = 0; j < d; j++) y[j] += 0f;
        }
    }

    private float Product(float* x, float* row, int cols)
    {
        byte* weights = (byte*)row, input = (byte*)x;
        float product;
        kernels.Dots(WeightFormat.F32, &weights, &input, 1, cols, &product);
        return product;
    }
}
