using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Experts whose neurons are read one by one (<see cref="ExpertConfig.ByNeuron"/>): the router chooses experts, the resident gate rows of those say which of their neurons are not zero, and from there on the layer is
/// like any ReLU layer of so many neurons. A neuron's pre-activation is its gate times the weight that its token gives the expert, of experts that the token does not use 0; an expert's gates are multiplied for the
/// tokens that use it and for no others.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>Experts that any of the tokens uses, ascending.</summary>
    private int[] _chosen = new int[64];
    private int _chosenCount;
    private Layer _gated = null!;
    private byte* _gateInput;
    private nint _gateStride;
    private Action<int, int>? _gateJob;

    /// <summary>The pre-activations of a layer for rows of its input as its selector takes them, into g; <see cref="_routed"/> has the weights of the experts.</summary>
    private void GatesOfChosen(Layer layer, byte* input, nint stride, int rows)
    {
        var e = layer.Experts!;
        if (_chosen.Length < e.Count) _chosen = new int[e.Count];
        _chosenCount = 0;
        for (int x = 0; x < e.Count; x++)
            if (AnyUses(e, x, rows)) _chosen[_chosenCount++] = x;
        ListTokens(e, _chosen, _chosenCount, rows);
        for (int r = 0; r < rows; r++) new Span<float>(_g + (long)r * layer.Neurons, layer.Neurons).Clear();
        _gated = layer; _gateInput = input; _gateStride = stride;
        bool parallel = (long)_tokensFrom[_chosenCount] * e.Size * layer.Config.HiddenSize > ParallelWork;
        pool.Run(_gateJob ??= GateItem, _chosenCount * BundleLayout.SlabsOf(e.Size), parallel);
    }

    private bool AnyUses(ExpertConfig e, int expert, int rows)
    {
        for (int r = 0; r < rows; r++)
            if (_routed[(long)r * e.Count + expert] != 0) return true;
        return false;
    }

    /// <summary>Up to 128 neurons of an expert, for all of its tokens.</summary>
    private void GateItem(int item, int worker)
    {
        var e = _gated.Experts!;
        var w = _gated.Weights!;
        int hidden = _gated.Config.HiddenSize, neurons = _gated.Neurons;
        int k = GateNeurons(item, out int neuron, out int n), first = neuron / WeightLayout.PanelRows, end = (neuron + n) / WeightLayout.PanelRows;
        byte* next = null;
        if (item + pool.Threads < _chosenCount * BundleLayout.SlabsOf(e.Size))
        {
            _ = GateNeurons(item + pool.Threads, out int after, out _);
            next = w.Selector + (nint)(after / WeightLayout.PanelRows) * WeightLayout.PanelBytes(w.SelectorFormat, hidden);
        }
        float* products = _products + worker * 2 * StepLayout.ProductFloats(_capacity);
        byte* inputs = _gathered + worker * SlabTokens * _gatheredStride;
        for (int from = _tokensFrom[k], to = _tokensFrom[k + 1]; from < to; from += SlabTokens)
        {
            int tokens = Math.Min(SlabTokens, to - from);
            byte* x = _gateInput + _tokenRows[from] * _gateStride;
            if (tokens > 1)
            {
                // The kernels take tokens that lie below each other.
                for (int t = 0; t < tokens; t++) Buffer.MemoryCopy(_gateInput + _tokenRows[from + t] * _gateStride, inputs + t * _gateStride, _gateStride, _gateStride);
                x = inputs;
            }
            kernels.Panels(w.SelectorFormat, w.Selector, first, end, neurons, hidden, x, _gateStride, tokens, products - neuron, n, next);
            AddBias(products, n, tokens, w.GateBias, neuron);
            for (int t = 0; t < tokens; t++)
            {
                int row = _tokenRows[from + t];
                float* gates = products + t * n;
                kernels.Scale(gates, _routed[(long)row * e.Count + _chosen[k]], n);
                new Span<float>(gates, n).CopyTo(new Span<float>(_g + (long)row * neurons + neuron, n));
            }
        }
    }

    /// <summary>The chosen expert of an item, by its index, and the neurons.</summary>
    private int GateNeurons(int item, out int neuron, out int n)
    {
        var e = _gated.Experts!;
        int slabs = BundleLayout.SlabsOf(e.Size), k = item / slabs, from = item % slabs * BundleLayout.SlabNeurons;
        neuron = _chosen[k] * e.Size + from;
        n = Math.Min(BundleLayout.SlabNeurons, e.Size - from);
        return k;
    }
}
