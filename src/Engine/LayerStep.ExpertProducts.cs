using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The feed-forward of experts, expert by expert: all tokens of one go through its rows together, in the kernels of a dense feed-forward. An expert's tokens lie below each other while it is open: their inputs, their sums.
/// They lie in a ring of rows, since experts are opened and folded in ascending order; in between they are computed in the order in which they arrive. The sum of an expert is one chain from +0, whatever the number of tokens,
/// threads or turns, and experts are added in ascending order, so the bits are always the same.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>One thread's share of the activations or of the sums: of the ready expert, neurons of one slab, or panels of the sums, [From, To).</summary>
    private readonly record struct ExpertItem(int Ready, int From, int To);

    /// <summary>By index of needed (or chosen) expert: where its tokens begin in the list of them (one more than there are), and where its rows lie in the ring.</summary>
    private int[] _tokensFrom = new int[65];
    private int[] _ringRow = new int[64];
    private int[] _tokenRows = new int[64];
    private int _ringHead, _ringSize;
    private byte* _gathered;
    private long _gatheredStride;
    /// <summary>By ready expert: where its activations lie, in rows of the stripe.</summary>
    private int[] _actRow = new int[64];
    private readonly List<ExpertItem> _activationItems = [], _sumItems = [];
    private int _stripeFrom, _stripe;
    private Action<int, int>? _gatherJob, _expertActJob, _expertOperandJob, _expertSumJob, _expertFoldJob;

    /// <summary>Which of the rows use which of these experts.</summary>
    private void ListTokens(ExpertConfig experts, int[] chosen, int count, int rows)
    {
        if (_tokensFrom.Length <= experts.Count) _tokensFrom = new int[experts.Count + 1];
        if (_tokenRows.Length < rows * experts.Active) _tokenRows = new int[_capacity * experts.Active];
        int n = 0;
        for (int k = 0; k < count; k++)
        {
            _tokensFrom[k] = n;
            for (int r = 0; r < rows; r++)
                if (_routed[(long)r * experts.Count + chosen[k]] != 0) _tokenRows[n++] = r;
        }
        _tokensFrom[count] = n;
    }

    /// <summary>No expert is open yet.</summary>
    private void OpenRing(ExpertConfig experts)
    {
        if (_ringRow.Length < experts.Count)
        {
            _ringRow = new int[experts.Count];
            _actRow = new int[experts.Count];
        }
        _ringSize = (int)_partialRows;
        _ringHead = 0;
        _slabwise = IsSlabwise(experts);
        // As many items as there may be: what varies from step to step must not allocate in one of them.
        int most = _neededCount * (Math.Max(BundleLayout.SlabsOf(experts.Size), PanelsOfDown / StripPanels) + 2) + ItemsPerThread * pool.Threads * (BundleLayout.SlabNeurons / WeightLayout.Block);
        _activationItems.EnsureCapacity(most);
        _sumItems.EnsureCapacity(most);
    }

    private int TokensOf(int index) => _tokensFrom[index + 1] - _tokensFrom[index];

    /// <summary>Rows that an expert takes in the ring: one for each token, or for each token and slab.</summary>
    private int RowsOf(int index) => Math.Max(1, TokensOf(index)) * (_slabwise ? BundleLayout.SlabsOf(_layer.Experts!.Size) : 1);

    /// <summary>Gives the next expert its rows in the ring; false while there is no room.</summary>
    private bool OpenExpert(int index)
    {
        int rows = RowsOf(index);
        if (_nextFold == index) _ringHead = 0;
        else
        {
            int tail = _ringRow[_nextFold];
            if (_ringHead > tail && _ringHead + rows > _ringSize) _ringHead = 0;
            if (_ringHead <= tail && _ringHead + rows > tail) return false;
        }
        _ringRow[index] = _ringHead;
        _ringHead += rows;
        return true;
    }

    private float* SumsOf(int index) => _partials + (long)_ringRow[index] * _layer.Config.HiddenSize;

    /// <summary>Sums the ready experts, each for all of its tokens. One that turns out to be wrong is ready no more.</summary>
    private void RunExperts(Span<Segment> segments, long units, long work)
    {
        if (_slabwise)
        {
            RunSlabwise(segments, work > ParallelWork / 8);
            return;
        }
        CheckReady(segments, units);
        WithdrawWrong(segments);
        if (_ready.Count > 0) RunInStripes(work);
    }

    /// <summary>Many tokens: activations of as many slabs as there is room for, then what they add to the sums.</summary>
    private void RunInStripes(long work)
    {
        var e = _layer.Experts!;
        bool parallel = work > ParallelWork / 8;
        int rows = 0;
        foreach (int i in _ready)
        {
            _actRow[i] = rows;
            rows += RowsOf(i);
            if (!_neededFailed[i]) _computedNeurons += (long)TokensOf(i) * e.Size;
        }
        if (_rows > 1) pool.Run(_gatherJob ??= GatherItem, _ready.Count, parallel);
        // As many slabs at a time as there is room for activations: all of them for few tokens.
        int slabs = BundleLayout.SlabsOf(e.Size);
        _stripe = (int)Math.Min(slabs, _partialRows / rows);
        for (_stripeFrom = 0; _stripeFrom < slabs; _stripeFrom += _stripe)
        {
            int end = Math.Min((_stripeFrom + _stripe) * BundleLayout.SlabNeurons, e.Size), strips = DivideStrips(_ready.Count);
            int each = _ready.Count * Math.Min(_stripe, slabs - _stripeFrom) >= ItemsPerThread * pool.Threads ? BundleLayout.SlabNeurons : WeightLayout.Block;
            _activationItems.Clear();
            _sumItems.Clear();
            foreach (int i in _ready)
            {
                if (_neededFailed[i] || TokensOf(i) == 0) continue;
                for (int n = _stripeFrom * BundleLayout.SlabNeurons; n < end; n += each) _activationItems.Add(new ExpertItem(i, n, Math.Min(n + each, end)));
                for (int s = 0; s < strips; s++) _sumItems.Add(new ExpertItem(i, s * _stripPanels, Math.Min((s + 1) * _stripPanels, PanelsOfDown)));
            }
            pool.Run(_expertActJob ??= ExpertActItem, _activationItems.Count, parallel);
            pool.Run(_expertOperandJob ??= ExpertOperandItem, _ready.Count, parallel && _rows > 1);
            pool.Run(_expertSumJob ??= ExpertSumItem, _sumItems.Count, parallel);
        }
    }

    private void GatherItem(int item, int worker) => GatherTokens(_ready[item]);

    /// <summary>Of several tokens the inputs are put below each other.</summary>
    private void GatherTokens(int index)
    {
        int tokens = TokensOf(index), hidden = _layer.Config.HiddenSize, quantised = Kernels.QuantizedBytes(hidden);
        if (tokens < 2 || _neededFailed[index]) return;
        for (int t = 0; t < tokens; t++)
        {
            int row = _tokenRows[_tokensFrom[index] + t];
            byte* to = _gathered + (_ringRow[index] + t) * _gatheredStride;
            Buffer.MemoryCopy(_q + (long)row * quantised, to, quantised, quantised);
            if (_gatheredStride > quantised) Buffer.MemoryCopy(_input + (long)row * hidden, to + quantised, hidden * 4L, hidden * 4L);
        }
    }

    /// <summary>The inputs of an expert's tokens.</summary>
    private Inputs InputsOf(WeightFormat format, int index)
    {
        if (TokensOf(index) < 2) return new Inputs(InputRow(format, _tokenRows[_tokensFrom[index]]), (nint)_gatheredStride);
        int quantised = Kernels.QuantizedBytes(_layer.Config.HiddenSize);
        return new Inputs(_gathered + _ringRow[index] * _gatheredStride + (WeightLayout.IsQuantized(format) ? 0 : quantised), (nint)_gatheredStride);
    }

    /// <summary>Where the activations lie of a slab of the stripe, by its number in the expert.</summary>
    private float* ActivationsOf(int index, int slab) => _act + ((long)_actRow[index] * _stripe + (long)(slab - _stripeFrom) * RowsOf(index)) * BundleLayout.SlabNeurons;

    private byte* SlabOf(int index, int slab) => _layer.Bundles!.UnitBase(_neededSlot[index], _needed[index]) + _layer.Bundle.SlabOffset(slab * BundleLayout.SlabNeurons);

    /// <summary>Activations of some neurons of an expert's slab for all of its tokens, times the tokens' weights.</summary>
    private void ExpertActItem(int item, int worker)
    {
        (int index, int first, int end) = _activationItems[item];
        var e = _layer.Experts!;
        var layout = _layer.Bundle;
        int tokens = TokensOf(index), unit = _needed[index], slab = first / BundleLayout.SlabNeurons, begin = slab * BundleLayout.SlabNeurons, from = first - begin;
        float* act = ActivationsOf(index, slab);
        byte* next = null;
        if (item + pool.Threads < _activationItems.Count)
        {
            (int other, int neuron, _) = _activationItems[item + pool.Threads];
            next = PanelsOf(SlabOf(other, neuron / BundleLayout.SlabNeurons), neuron % BundleLayout.SlabNeurons);
        }
        Activate(SlabOf(index, slab), unit * e.Size + begin, from, end - begin, InputsOf(layout.Gate, index), InputsOf(layout.Up, index), tokens, act, next, worker);
        WeighTokens(index, act + from, end - first);
    }

    /// <summary>Activations of n of an expert's neurons, times the weights that its tokens give it.</summary>
    private void WeighTokens(int index, float* act, int n)
    {
        for (int t = 0; t < TokensOf(index); t++, act += BundleLayout.SlabNeurons)
        {
            if (_layer.Options.CountZeros) Interlocked.Add(ref _layer.Count.Zeros, new Span<float>(act, n).Count(0f));
            kernels.Scale(act, _routed[(long)_tokenRows[_tokensFrom[index] + t] * _layer.Experts!.Count + _needed[index]], n);
        }
    }

    /// <summary>The stripe of a ready expert.</summary>
    private void ExpertOperandItem(int item, int worker)
    {
        int index = _ready[item], size = _layer.Experts!.Size, tokens = TokensOf(index), end = Math.Min(_stripeFrom + _stripe, BundleLayout.SlabsOf(size));
        if (_neededFailed[index] || tokens == 0) return;
        for (int slab = _stripeFrom; slab < end; slab++) MakeOperand(ActivationsOf(index, slab), Math.Min(BundleLayout.SlabNeurons, size - slab * BundleLayout.SlabNeurons), tokens);
    }

    /// <summary>A strip of an expert's sums: its slabs of the stripe, for all of its tokens.</summary>
    private void ExpertSumItem(int item, int worker)
    {
        (int index, int from, int to) = _sumItems[item];
        int tokens = TokensOf(index), width = _layer.Config.HiddenSize, end = Math.Min(_stripeFrom + _stripe, BundleLayout.SlabsOf(_layer.Experts!.Size));
        int first = from * WeightLayout.PanelRows, columns = Math.Min(to * WeightLayout.PanelRows, width) - first;
        float* sums = SumsOf(index);
        for (int t = 0; t < tokens && _stripeFrom == 0; t++) new Span<float>(sums + (long)t * width + first, columns).Clear();
        byte** slabs = stackalloc byte*[end - _stripeFrom];
        float** operands = stackalloc float*[end - _stripeFrom];
        for (int i = 0; i < end - _stripeFrom; i++)
        {
            slabs[i] = SlabOf(index, _stripeFrom + i);
            operands[i] = ActivationsOf(index, _stripeFrom + i);
        }
        AddSlabs(slabs, operands, end - _stripeFrom, from, to, tokens, sums, worker);
    }

    /// <summary>Adds the sums of finished experts in ascending order, threads splitting columns.</summary>
    private void FoldExperts()
    {
        if (_nextFold == _firstLive) return;
        int width = _layer.Config.HiddenSize, strips = (width + StripColumns - 1) / StripColumns;
        long work = 0;
        for (int k = _nextFold; k < _firstLive; k++) work += (long)TokensOf(k) * width;
        _foldWhole = work <= ParallelWork / 8;
        pool.Run(_expertFoldJob ??= ExpertFoldItem, _foldWhole ? 1 : strips, !_foldWhole);
        _nextFold = _firstLive;
    }

    private void ExpertFoldItem(int item, int worker)
    {
        int width = _layer.Config.HiddenSize, from = item * StripColumns, n = Math.Min(StripColumns, width - from);
        // A little is one item.
        if (_foldWhole) (from, n) = (0, width);
        for (int k = _nextFold; k < _firstLive; k++)
        {
            if (_neededFailed[k]) continue;
            float* sums = SumsOf(k) + from;
            for (int t = _tokensFrom[k]; t < _tokensFrom[k + 1]; t++, sums += width) kernels.Add(_y + (long)_tokenRows[t] * width + from, sums, n);
        }
    }

    private bool _foldWhole;
}
