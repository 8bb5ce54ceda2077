using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Products and sums of neurons that lie row by row and are all used: a ReLU model's that is asked not to be sparse. For several tokens rows are woven into a panel first. A panel's lanes are rows, so the
/// bits are those of the sparse feed-forward.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Inputs of several tokens as a format's kernels take them, so many bytes apart.</summary>
    private readonly struct Inputs(byte* at, nint stride)
    {
        public readonly byte* At = at;
        public readonly nint Stride = stride;

        public Inputs From(int token) => new(At + token * Stride, Stride);
    }

    private static nint StrideOf(WeightFormat format, int width) => WeightLayout.IsQuantized(format) ? Kernels.QuantizedBytes(width) : width * 4;

    /// <summary>a[t * n + i] = gate row i · x_t and u[t * n + i] = up row i · x_t of n neurons; without a gate the up rows' go into a.</summary>
    private void Products(byte** at, int n, Inputs gate, Inputs up, int tokens, float* a, float* u, int worker)
    {
        bool gated = _layer.Config.Gated;
        var layout = _layer.Bundle;
        int width = _layer.Config.HiddenSize;
        byte** rows = stackalloc byte*[Numerics.NeuronBlock];
        byte* panel = _woven + worker * _wovenBytes;
        for (int i = 0; i < n && gated; i++) rows[i] = at[i] + _layer.Offsets.Gate;
        if (gated) kernels.Products(layout.Gate, rows, n, width, gate.At, gate.Stride, tokens, a, n, panel);
        kernels.Products(layout.Up, at, n, width, up.At, up.Stride, tokens, gated ? u : a, n, panel);
    }

    private static void AddBias(float* products, int n, int tokens, float* bias, int neuron)
    {
        if (bias == null) return;
        for (int t = 0; t < tokens; t++, products += n)
            for (int i = 0; i < n; i++) products[i] += bias[neuron + i];
    }

    /// <summary>y_t += a_ti · down row i of at most 128 neurons, one after another, for few tokens that lie row by row. Token t's a_i is a[t * aStride + i].</summary>
    private void AddRows(byte** at, int n, float* a, int aStride, int tokens, float* y)
    {
        int width = _layer.Config.HiddenSize;
        byte** rows = stackalloc byte*[Numerics.NeuronBlock];
        for (int i = 0; i < n; i++) rows[i] = at[i] + _layer.Offsets.Down;
        for (int t = 0; t < tokens; t++) kernels.Axpys(_layer.Bundle.Down, a + t * aStride, rows, n, width, y + (long)t * width);
    }

    /// <summary>Columns [from, to) for many tokens and at most 128 neurons, as <see cref="Kernels.Columns"/> takes and does it.</summary>
    private void AddColumns(byte** at, int n, int from, int to, float* a, nint aStride, int tokens, float* y, bool whole)
    {
        int width = _layer.Config.HiddenSize;
        byte** rows = stackalloc byte*[Kernels.ColumnRows];
        for (int i = 0; i < n; i++) rows[i] = at[i] + _layer.Offsets.Down;
        kernels.Columns(_layer.Bundle.Down, rows, n, width, from, to, a, aStride, tokens, y, width, whole);
    }
}
