using FlashOrleans.Models.Pickle;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Pickle;

public sealed class PredictorFolderTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Published_predictors_give_the_scores_that_their_makers_computed()
    {
        using PredictorFolder predictors = PredictorFolder.Open(TestData.Shared("models", "emberling-predictor"));
        Assert.Equal([0, 1, 2, 3, 4, 5], predictors.Layers.Select(static l => l.Layer));
        Assert.Equal([1, 2, 3, 4, 5], predictors.Lookahead!.Layers.Select(static l => l.Layer));
        Assert.All(predictors.Layers, static l => Assert.Equal((128, 256, 1024), (l.Rank, l.Inputs, l.Neurons)));
        Assert.All(predictors.Lookahead.Layers, static l => Assert.Equal((256, 256, 1024), (l.Rank, l.Inputs, l.Neurons)));
        Assert.Equal(0, predictors.SparseThreshold);

        using var golden = SafetensorsFile.Open(Path.Combine(predictors.Path, "golden_layer2.safetensors"));
        float[] x = new float[64 * 256], expected = new float[64 * 1024];
        golden.ReadRows(golden.Tensors["x"], 0, 64, x);
        golden.ReadRows(golden.Tensors["score"], 0, 64, expected);
        double worst = 0;
        for (int token = 0; token < 64; token++)
        {
            double[] scores = Scores(predictors.Layers[2], x.AsSpan(token * 256, 256));
            for (int n = 0; n < 1024; n++) worst = Math.Max(worst, Math.Abs(scores[n] - expected[token * 1024 + n]) / Math.Max(1, Math.Abs(scores[n])));
        }
        // The golden was summed in float32, this in float64.
        Assert.InRange(worst, 0, 3e-5);
    }

    [Fact]
    public void Matrices_threshold_and_lookahead_of_a_folder_are_read()
    {
        for (int layer = 0; layer < 3; layer++) Write($"model_{layer}.pt", 2, 3, 4, layer);
        for (int layer = 1; layer < 3; layer++) Write($"lookahead/model_{layer}.pt", 5, 3, 4, layer);
        _folder.Write("config.json", """{"sparse_threshold": 0.5}"""u8.ToArray());
        using PredictorFolder predictors = PredictorFolder.Open(_folder.Path);
        Assert.Equal((3, 2, 0.5f, 0.5f), (predictors.Layers.Count, predictors.Lookahead!.Layers.Count, predictors.SparseThreshold, predictors.Lookahead.SparseThreshold));
        PredictorLayer second = predictors.Layers[1], ahead = predictors.Lookahead.Layers[0];
        Assert.Equal((2, 3, 4, 5, 1), (second.Rank, second.Inputs, second.Neurons, ahead.Rank, ahead.Layer));
        Assert.Equal([1, 2, 3, 4, 5, 6], second.ReadFc1());
        Assert.Equal([-1, -2, -3, -4, -5, -6, -7, -8], second.ReadFc2());
    }

    [Fact]
    public void Without_a_configuration_the_threshold_is_zero_and_without_a_lookahead_there_is_none()
    {
        Write("model_0.pt", 2, 3, 4, 0);
        using PredictorFolder predictors = PredictorFolder.Open(_folder.Path);
        Assert.Equal(0, predictors.SparseThreshold);
        Assert.Null(predictors.Lookahead);
    }

    [Fact]
    public void A_folder_whose_predictors_do_not_belong_together_is_refused()
    {
        Refused("has no model_0.pt");
        Write("model_0.pt", 2, 3, 4, 0);
        Write("model_2.pt", 2, 3, 4, 0);
        Refused("has model_2.pt but not model_1.pt");
        Write("model_1.pt", 2, 3, 5, 0);
        Refused("is for 3 inputs and 5 neurons, model_0.pt for 3 and 4");
        Write("model_1.pt", 2, 3, 4, 0);
        Write("lookahead/model_1.pt", 2, 3, 4, 0);
        Refused("ends with layer 1, the predictors beside it with layer 2");
        Write("lookahead/model_2.pt", 2, 3, 4, 0);
        _folder.Write("config.json", """{"sparse_threshold": "high"}"""u8.ToArray());
        Refused("sparse_threshold is not a number");
    }

    [Fact]
    public void A_file_that_is_no_predictor_is_refused()
    {
        Pickled fc1 = Pickled.Contiguous("fc1.weight", "HalfStorage", "0", 2, 2), fc2 = Pickled.Contiguous("fc2.weight", "HalfStorage", "0", 2, 2);
        void Model(params Pickled[] tensors) => _folder.Write("model_0.pt", TorchArchive.Build(TorchArchive.Dict(tensors), [("0", TorchArchive.Halves(4, static i => i))]));
        Model(fc1);
        Refused("has no fc2.weight");
        Model(fc1, fc2, fc1 with { Name = "fc1.bias" });
        Refused("holds fc1.bias beside");
        Model(fc1, fc2 with { Shape = [4, 1], Strides = [1, 1] });
        Refused("do not fit");
        Model(fc1 with { Shape = [4], Strides = [1] }, fc2);
        Refused("fc1.weight is [4]");
    }

    private void Write(string name, int rank, int inputs, int neurons, int add) => _folder.Write(name, TorchArchive.Predictor(rank, inputs, neurons, i => i + add, i => -i - add));

    private void Refused(string says) =>
        Assert.Contains(says, Assert.Throws<ModelFormatException>(() => PredictorFolder.Open(_folder.Path).Dispose()).Message, StringComparison.Ordinal);

    private static double[] Scores(PredictorLayer layer, ReadOnlySpan<float> x)
    {
        float[] fc1 = layer.ReadFc1(), fc2 = layer.ReadFc2();
        double[] hidden = new double[layer.Rank], scores = new double[layer.Neurons];
        for (int r = 0; r < hidden.Length; r++)
        {
            for (int i = 0; i < layer.Inputs; i++) hidden[r] += (double)fc1[r * layer.Inputs + i] * x[i];
            hidden[r] = Math.Max(0, hidden[r]);
        }
        for (int n = 0; n < scores.Length; n++)
            for (int r = 0; r < hidden.Length; r++) scores[n] += (double)fc2[n * hidden.Length + r] * hidden[r];
        return scores;
    }
}
