using System.Globalization;
using System.Text.Json;

namespace FlashOrleans.Models.Pickle;

/// <summary>
/// The predictor of one layer: score = fc2 · relu(fc1 · x), a neuron is predicted active where its score reaches the threshold. fc1 is
/// [<see cref="Rank"/>, <see cref="Inputs"/>], fc2 is [<see cref="Neurons"/>, <see cref="Rank"/>], both row after row, without bias.
/// </summary>
internal sealed class PredictorLayer : IDisposable
{
    private readonly TorchFile _file;
    private readonly TensorInfo _fc1;
    private readonly TensorInfo _fc2;

    private PredictorLayer(int layer, TorchFile file, TensorInfo fc1, TensorInfo fc2)
    {
        Layer = layer;
        _file = file;
        _fc1 = fc1;
        _fc2 = fc2;
    }

    public int Layer { get; }
    public int Rank => (int)_fc1.Shape[0];
    public int Inputs => (int)_fc1.Shape[1];
    public int Neurons => (int)_fc2.Shape[0];
    public string Path => _file.Path;

    public static PredictorLayer Open(string path, int layer)
    {
        TorchFile file = TorchFile.Open(path);
        try
        {
            TensorInfo fc1 = Matrix(file, "fc1.weight"), fc2 = Matrix(file, "fc2.weight");
            if (file.Tensors.Count != 2)
                throw new ModelFormatException(path, $"holds {file.Tensors.Keys.First(static k => k is not ("fc1.weight" or "fc2.weight"))} beside fc1.weight and fc2.weight; this is no predictor of a kind that this version knows");
            if (fc2.Shape[1] != fc1.Shape[0]) throw new ModelFormatException(path, $"fc1.weight {fc1.ShapeText} and fc2.weight {fc2.ShapeText} do not fit: the rows of fc2 must be as long as fc1 has rows");
            return new PredictorLayer(layer, file, fc1, fc2);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    public float[] ReadFc1() => ReadAll(_fc1);
    public float[] ReadFc2() => ReadAll(_fc2);
    public void ReadFc1(int firstRow, int count, Span<float> to) => _file.ReadRows(_fc1, firstRow, count, to);
    public void ReadFc2(int firstRow, int count, Span<float> to) => _file.ReadRows(_fc2, firstRow, count, to);
    public void Dispose() => _file.Dispose();

    private float[] ReadAll(TensorInfo tensor)
    {
        float[] numbers = new float[tensor.Elements];
        _file.ReadRows(tensor, 0, (int)tensor.Shape[0], numbers);
        return numbers;
    }

    private static TensorInfo Matrix(TorchFile file, string name)
    {
        if (!file.Tensors.TryGetValue(name, out TensorInfo? tensor)) throw new ModelFormatException(file.Path, $"has no {name}; a predictor is fc1.weight and fc2.weight");
        bool sound = tensor.Shape.Count == 2 && tensor.Elements is > 0 and <= int.MaxValue / 4;
        return sound ? tensor : throw new ModelFormatException(file.Path, $"{name} is {tensor.ShapeText}; a matrix of at most {int.MaxValue / 4} numbers is expected");
    }
}

/// <summary>
/// A folder of trained predictors as they are published: <c>model_N.pt</c> for every layer, <c>config.json</c> with the threshold (none: 0), and perhaps a
/// folder <c>lookahead</c> of the same kind whose predictors are for one layer further on than their input (from layer 1). Opened whole, so that what
/// is wrong is found at once; numbers are read on demand. Names are made here, never taken from a file.
/// </summary>
internal sealed class PredictorFolder : IDisposable
{
    private const int MaxLayers = 4_096;
    private readonly List<PredictorLayer> _layers = [];
    private string? _config;

    private PredictorFolder(string path) => Path = path;

    public string Path { get; }
    public float SparseThreshold { get; private set; }

    /// <summary>In ascending order of <see cref="PredictorLayer.Layer"/>, without a gap: from 0, or from 1 in a look-ahead folder.</summary>
    public IReadOnlyList<PredictorLayer> Layers => _layers;

    /// <summary>What was read, the look-ahead folder's included.</summary>
    public IEnumerable<string> Files => _layers.Select(static l => l.Path).Concat(_config == null ? [] : [_config]).Concat(Lookahead?.Files ?? []);

    /// <summary>The predictors of layer N from the input of layer N - 1; null when the folder has none.</summary>
    public PredictorFolder? Lookahead { get; private set; }

    public static PredictorFolder Open(string path)
    {
        var folder = new PredictorFolder(path);
        try
        {
            folder.OpenLayers(0);
            string config = System.IO.Path.Combine(path, "config.json");
            if (File.Exists(config))
            {
                folder.SparseThreshold = ReadThreshold(config);
                folder._config = config;
            }
            string ahead = System.IO.Path.Combine(path, "lookahead");
            if (!Directory.Exists(ahead)) return folder;
            folder.Lookahead = new PredictorFolder(ahead) { SparseThreshold = folder.SparseThreshold };
            folder.Lookahead.OpenLayers(1);
            if (folder.Lookahead._layers[^1].Layer != folder._layers[^1].Layer)
                throw new ModelFormatException(ahead, $"ends with layer {folder.Lookahead._layers[^1].Layer}, the predictors beside it with layer {folder._layers[^1].Layer}; they do not belong together");
            return folder;
        }
        catch
        {
            folder.Dispose();
            throw;
        }
    }

    public void Dispose()
    {
        Lookahead?.Dispose();
        foreach (PredictorLayer layer in _layers) layer.Dispose();
    }

    private void OpenLayers(int first)
    {
        if (!Directory.Exists(Path)) throw new ModelFormatException(Path, "is not a folder; predictors are a folder of model_0.pt, model_1.pt, ...");
        for (int layer = first; layer < MaxLayers; layer++)
        {
            string file = LayerPath(layer);
            if (!File.Exists(file)) break;
            PredictorLayer opened = PredictorLayer.Open(file, layer);
            _layers.Add(opened);
            if (opened.Inputs != _layers[0].Inputs || opened.Neurons != _layers[0].Neurons)
                throw new ModelFormatException(file, $"is for {opened.Inputs} inputs and {opened.Neurons} neurons, {System.IO.Path.GetFileName(_layers[0].Path)} for {_layers[0].Inputs} and {_layers[0].Neurons}; they do not belong together");
        }
        if (_layers.Count == 0) throw new ModelFormatException(Path, $"has no model_{first}.pt; predictors are a folder of model_{first}.pt, model_{first + 1}.pt, ...");
        // A file beyond a gap would be ignored silently.
        int next = first + _layers.Count;
        foreach (string other in Directory.EnumerateFiles(Path, "model_*.pt"))
            if (int.TryParse(System.IO.Path.GetFileNameWithoutExtension(other)["model_".Length..], NumberStyles.None, CultureInfo.InvariantCulture, out int n) && n >= next)
                throw new ModelFormatException(Path, $"has {System.IO.Path.GetFileName(other)} but not model_{next}.pt; download it again");
    }

    private string LayerPath(int layer) => System.IO.Path.Combine(Path, string.Create(CultureInfo.InvariantCulture, $"model_{layer}.pt"));

    private static float ReadThreshold(string config)
    {
        using JsonDocument document = ConfigReader.Parse(config);
        if (!document.RootElement.TryGetProperty("sparse_threshold", out JsonElement threshold)) return 0;
        return threshold.ValueKind == JsonValueKind.Number && threshold.TryGetSingle(out float t) && float.IsFinite(t)
            ? t : throw new ModelFormatException(config, "sparse_threshold is not a number");
    }
}
