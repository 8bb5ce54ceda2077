using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The feed-forward of experts, expert by expert: all tokens of one go through its rows together, in the kernels of a dense feed-forward. An expert's tokens lie below each other while it is open: their inputs, their sums.
/// They lie in a ring of rows, since experts are opened and folded in ascending order; in between they are computed in the order in which they arrive. The sum of an expert is one chain from +0, whatever the number of tokens,
/// threads or turns, and experts are added in ascending order, so the bits are always the same.
/// </summary>
internal sealed unsafe partial class LayerStep
{
    /// <summary>One thread's share of the activations or of the sums: of the ready expert, neurons or columns [From, To).</summary>
    private readonly record struct ExpertItem(int Ready, int From, int To);

    /// <summary>By index of needed unit: where its tokens begin in the list of them (one more than there are units), and where its rows lie in the ring.</summary>
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
    private Action<int, int>? _gatherJob, _expertActJob, _expertSumJob, _expertFoldJob;

    /// <summary>Which rows use which needed expert: after the router's choice.</summary>
    private void ListTokens(ExpertConfig experts)
    {
        if (_tokensFrom.Length <= _neededCount)
        {
            _tokensFrom = new int[_needed.Length + 1];
            _ringRow = new int[_needed.Length];
            _actRow = new int[_needed.Length];
        }
        if (_tokenRows.Length < _rows * experts.Active) _tokenRows = new int[_capacity * experts.Active];
        int n = 0;
        for (int k = 0; k < _neededCount; k++)
        {
            _tokensFrom[k] = n;
            for (int r = 0; r < _rows; r++)
                if (!_slots[_slotOfRow[r]].Dead && UsesUnit(r, _needed[k])) _tokenRows[n++] = r;
        }
        _tokensFrom[_neededCount] = n;
        _ringSize = (int)_partialRows;
        _ringHead = 0;
        int most = 4 * _neededCount + 64;
        _activationItems.EnsureCapacity(most);
        _sumItems.EnsureCapacity(most);
    }

    private int TokensOf(int index) => _tokensFrom[index + 1] - _tokensFrom[index];

    /// <summary>Rows that an expert takes in the ring: as many as its tokens, whole groups where columns are summed for several at once.</summary>
    private int RowsOf(int index) => RoundTokens(TokensOf(index));

    private static int RoundTokens(int tokens) => tokens < TiledRows ? Math.Max(1, tokens) : (tokens + Kernels.TokenGroup - 1) / Kernels.TokenGroup * Kernels.TokenGroup;

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

    /// <summary>Sums the ready experts, each for all of its tokens.</summary>
    private void RunExperts(long work)
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
        // As many neurons at a time as there is room for activations: all of them for few tokens.
        int whole = (e.Size + Kernels.ColumnRows - 1) / Kernels.ColumnRows * Kernels.ColumnRows;
        _stripe = (int)Math.Min(whole, _partialRows * Numerics.NeuronBlock / rows / Kernels.ColumnRows * Kernels.ColumnRows);
        for (_stripeFrom = 0; _stripeFrom < e.Size; _stripeFrom += _stripe)
        {
            int end = Math.Min(_stripeFrom + _stripe, e.Size), hidden = _layer.Config.HiddenSize;
            _activationItems.Clear();
            _sumItems.Clear();
            foreach (int i in _ready)
            {
                int tokens = TokensOf(i);
                if (_neededFailed[i] || tokens == 0) continue;
                int each = tokens < TiledRows ? Numerics.NeuronBlock : WeightLayout.PanelRows;
                for (int n = _stripeFrom; n < end; n += each) _activationItems.Add(new ExpertItem(i, n, Math.Min(n + each, end)));
                int columns = tokens >= TiledRows || _layer.Bundle.Panels ? StripColumns : hidden;
                for (int c = 0; c < hidden; c += columns) _sumItems.Add(new ExpertItem(i, c, Math.Min(c + columns, hidden)));
            }
            pool.Run(_expertActJob ??= ExpertActItem, _activationItems.Count, parallel);
            pool.Run(_expertSumJob ??= ExpertSumItem, _sumItems.Count, parallel);
        }
    }

    /// <summary>Of several tokens the inputs are put below each other.</summary>
    private void GatherItem(int item, int worker)
    {
        int index = _ready[item], tokens = TokensOf(index), hidden = _layer.Config.HiddenSize, quantised = Kernels.QuantizedBytes(hidden);
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

    /// <summary>Activations of some neurons of an expert for all of its tokens, times the tokens' weights.</summary>
    private void ExpertActItem(int item, int worker)
    {
        (int index, int from, int to) = _activationItems[item];
        var c = _layer.Config;
        var w = _layer.Weights!;
        var e = _layer.Experts!;
        var layout = _layer.Bundle;
        int tokens = TokensOf(index), n = to - from, unit = _needed[index], neuron = unit * e.Size + from;
        byte** at = stackalloc byte*[Numerics.NeuronBlock];
        Locate(index, from, n, at);
        float* a = _products + worker * 2 * StepLayout.ProductFloats(_capacity), u = a + StepLayout.ProductFloats(_capacity);
        Products(at, n, InputsOf(layout.Gate, index), InputsOf(layout.Up, index), tokens, a, u, worker);
        AddBias(a, n, tokens, c.Gated ? w.GateBias : w.UpBias, neuron);
        Activations.Apply(kernels, c, a, n * tokens);
        if (_layer.Options.CountZeros) Interlocked.Add(ref _layer.Count.Zeros, new Span<float>(a, n * tokens).Count(0f));
        if (c.Gated)
        {
            AddBias(u, n, tokens, w.UpBias, neuron);
            Activations.Combine(c, a, u, n * tokens);
        }
        float* act = _act + (long)_actRow[index] * _stripe;
        int first = from - _stripeFrom;
        for (int t = 0; t < tokens; t++, a += n)
        {
            float weight = _g[(long)_tokenRows[_tokensFrom[index] + t] * e.Count + unit];
            if (tokens < TiledRows)
            {
                float* plain = act + (long)t * _stripe + first;
                for (int i = 0; i < n; i++) plain[i] = a[i] * weight;
                continue;
            }
            float* row = act + t / Kernels.TokenGroup * (long)Kernels.TokenGroup * _stripe + t % Kernels.TokenGroup + (long)first * Kernels.TokenGroup;
            for (int i = 0; i < n; i++) row[Kernels.TokenGroup * i] = a[i] * weight;
        }
    }

    /// <summary>Where n neurons of a needed expert lie, one by one or sixteen by sixteen.</summary>
    private void Locate(int index, int from, int n, byte** at)
    {
        RowOffsets offsets = _layer.Offsets;
        byte* unit = _layer.Bundles!.UnitBase(_neededSlot[index], _needed[index]);
        for (int i = from; i < from + n; i += offsets.Each) *at++ = unit + offsets.Of(i);
    }

    /// <summary>Down rows of an expert's neurons of the stripe, into some columns of its tokens' sums.</summary>
    private void ExpertSumItem(int item, int worker)
    {
        (int index, int from, int to) = _sumItems[item];
        int tokens = TokensOf(index), width = _layer.Config.HiddenSize, end = Math.Min(_stripeFrom + _stripe, _layer.Experts!.Size);
        float* sums = SumsOf(index);
        float* act = _act + (long)_actRow[index] * _stripe;
        byte** lists = stackalloc byte*[2 * Numerics.NeuronBlock];
        for (int t = 0; t < tokens && _stripeFrom == 0; t++) new Span<float>(sums + (long)t * width + from, to - from).Clear();
        Locate(index, _stripeFrom, Math.Min(Numerics.NeuronBlock, end - _stripeFrom), lists);
        for (int first = _stripeFrom, turn = 0; first < end; first += Numerics.NeuronBlock, turn ^= 1)
        {
            byte** at = lists + turn * Numerics.NeuronBlock, next = lists + (turn ^ 1) * Numerics.NeuronBlock;
            int n = Math.Min(Numerics.NeuronBlock, end - first), before = first - _stripeFrom, more = Math.Min(Numerics.NeuronBlock, end - first - n);
            if (more > 0) Locate(index, first + n, more, next);
            if (tokens >= TiledRows) AddColumns(at, n, from, to, act + (long)before * Kernels.TokenGroup, (nint)_stripe * Kernels.TokenGroup, tokens, sums, whole: false);
            else if (_layer.Bundle.Panels) AddTiles(at, n, from, to, act + before, _stripe, tokens, sums, whole: false, more >= n ? next : null);
            else AddRows(at, n, act + before, _stripe, tokens, sums);
        }
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
