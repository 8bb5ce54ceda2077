using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// The resident part of one slice: norms, attention, biases and, for `exact`, the selector (gate rows, or up rows without a gate). Loaded once on the
/// loader thread, read-only afterwards, freed by the conductor when the layer is detached.
/// </summary>
internal sealed unsafe class LayerWeights : IDisposable
{
    private readonly List<NativeBuffer> _buffers = [];

    private LayerWeights(WeightFormat format) => Format = format;

    public WeightFormat Format { get; }
    public float* AttentionNorm { get; private set; }
    public float* AttentionNormBias { get; private set; }
    public float* FfnNorm { get; private set; }
    public float* FfnNormBias { get; private set; }
    public byte* Qkv { get; private set; }
    public float* QkvBias { get; private set; }
    public byte* Output { get; private set; }
    public float* OutputBias { get; private set; }
    /// <summary>Null in dense mode.</summary>
    public byte* Selector { get; private set; }
    public float* UpBias { get; private set; }
    public float* GateBias { get; private set; }
    public float* DownBias { get; private set; }
    public long Bytes => _buffers.Sum(b => b.Length);

    public static LayerWeights Load(PackageFile slice, bool selector, MemoryLedger ledger, string label)
    {
        var weights = new LayerWeights(slice.Section("attn.qkv").Format);
        try
        {
            byte* Bytes(string name)
            {
                if (!slice.Has(name)) return null;
                var buffer = slice.Load(name, ledger, label);
                weights._buffers.Add(buffer);
                return buffer.Pointer;
            }
            float* Floats(string name) => (float*)Bytes(name);
            weights.AttentionNorm = Floats("attn_norm.weight");
            weights.AttentionNormBias = Floats("attn_norm.bias");
            weights.FfnNorm = Floats("ffn_norm.weight");
            weights.FfnNormBias = Floats("ffn_norm.bias");
            weights.Qkv = Bytes("attn.qkv");
            weights.QkvBias = Floats("attn.qkv.bias");
            weights.Output = Bytes("attn.o");
            weights.OutputBias = Floats("attn.o.bias");
            weights.UpBias = Floats("ffn.up.bias");
            weights.GateBias = Floats("ffn.gate.bias");
            weights.DownBias = Floats("ffn.down.bias");
            if (selector) weights.Selector = Bytes("ffn.selector");
            return weights;
        }
        catch
        {
            weights.Dispose();
            throw;
        }
    }

    public void Dispose()
    {
        foreach (var buffer in _buffers) buffer.Dispose();
        _buffers.Clear();
    }
}

/// <summary>
/// What the ends of the model need from edge.bin, shared by the first and the last layer of one host: the output head and the final norm (last layer),
/// the learned positions (first layer), and the embedding matrix, which stays on flash and is read row by row unless it is the tied head
/// and the head is resident here. Loader thread builds, conductor reads and frees; counted by users.
/// </summary>
internal sealed unsafe class EdgeWeights : IDisposable
{
    private readonly PackageFile _file;
    private readonly MemoryLedger _ledger;
    private readonly string _label;
    private readonly List<NativeBuffer> _buffers = [];

    public EdgeWeights(FlashPackage package, MemoryLedger ledger, string label)
    {
        _file = package.OpenEdge();
        _ledger = ledger;
        _label = label;
        Tied = package.Config.TiedHead;
        EmbeddingFormat = _file.Section("embed").Format;
        HeadFormat = Tied ? EmbeddingFormat : _file.Section("head").Format;
    }

    public int Users { get; set; }
    public bool Tied { get; }
    public WeightFormat EmbeddingFormat { get; }
    public WeightFormat HeadFormat { get; }
    public byte* Head { get; private set; }
    public float* FinalNorm { get; private set; }
    public float* FinalNormBias { get; private set; }
    public float* Positions { get; private set; }
    /// <summary>Rows of the position table.</summary>
    public int PositionRows { get; private set; }
    public long Bytes => _buffers.Sum(b => b.Length);
    /// <summary>The embedding panels when they are resident anyway, else null.</summary>
    public byte* ResidentEmbedding => Tied ? Head : null;

    /// <summary>Embedding rows as units: panels of 16 rows, or single rows for float formats.</summary>
    public UnitRegion EmbeddingUnits() => _file.SectionUnits("embed");

    public void LoadFirst()
    {
        if (Positions != null || !_file.Has("positions")) return;
        PositionRows = _file.Section("positions").Rows;
        Positions = (float*)Load("positions");
    }

    public void LoadLast()
    {
        if (Head != null) return;
        FinalNorm = (float*)Load("final_norm.weight");
        if (_file.Has("final_norm.bias")) FinalNormBias = (float*)Load("final_norm.bias");
        Head = Load(Tied ? "embed" : "head");
    }

    public void Dispose()
    {
        foreach (var buffer in _buffers) buffer.Dispose();
        _buffers.Clear();
        _file.Dispose();
    }

    private byte* Load(string section)
    {
        var buffer = _file.Load(section, _ledger, _label);
        _buffers.Add(buffer);
        return buffer.Pointer;
    }
}
