using System.Runtime.InteropServices;
using System.Text.Json;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>
/// A family that has no golden: a tiny random checkpoint in a folder of its own, and what a test needs to write the family's paper down once more, in double, past everything that the engine and its
/// reference know.
/// </summary>
public abstract class PaperModel : IDisposable
{
    protected static readonly int[] Ids = [3, 99, 17, 64, 5, 120, 8, 41, 77, 2, 30, 11, 90];
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-paper-").FullName;
    private readonly Dictionary<string, (int[] Shape, float[] Data)> _tensors = new(StringComparer.Ordinal);
    private readonly Random _random = new(7);

    public void Dispose()
    {
        Directory.Delete(_folder, recursive: true);
        GC.SuppressFinalize(this);
    }

    protected string PathOf(string name) => Path.Combine(_folder, name);

    /// <summary>A matrix of numbers up to <paramref name="scale"/>, a vector of numbers near 1.</summary>
    protected void Add(string name, float scale, params int[] shape) =>
        _tensors[name] = (shape, [.. Enumerable.Range(0, shape.Aggregate(1, (a, b) => a * b)).Select(_ => shape.Length == 1 ? 1 + 0.2f * (_random.NextSingle() - 0.5f) : scale * 2 * (_random.NextSingle() - 0.5f))]);

    /// <summary>A vector of numbers around 0.</summary>
    protected void AddBias(string name, float scale, int length) => _tensors[name] = ([length], [.. Enumerable.Range(0, length).Select(_ => scale * 2 * (_random.NextSingle() - 0.5f))]);

    /// <summary>The checkpoint's folder.</summary>
    protected string Write(string name, Dictionary<string, object> config)
    {
        string checkpoint = PathOf(name);
        Directory.CreateDirectory(checkpoint);
        File.WriteAllText(Path.Combine(checkpoint, "config.json"), JsonSerializer.Serialize(config));
        long at = 0;
        var header = new Dictionary<string, object>();
        foreach ((string tensor, (int[] shape, float[] data)) in _tensors)
            header[tensor] = new Dictionary<string, object> { ["dtype"] = "F32", ["shape"] = shape, ["data_offsets"] = new[] { at, at += data.Length * 4L } };
        byte[] json = JsonSerializer.SerializeToUtf8Bytes(header);
        using FileStream file = File.Create(Path.Combine(checkpoint, "model.safetensors"));
        file.Write(BitConverter.GetBytes((long)json.Length));
        file.Write(json);
        foreach ((_, float[] data) in _tensors.Values) file.Write(MemoryMarshal.AsBytes<float>(data));
        return checkpoint;
    }

    /// <summary>The logits behind the last token, by the engine.</summary>
    protected static (int Id, float Logit)[] Run(FlashPackage package, string kernels, double window, int chunk, int threads)
    {
        using var engine = new LocalEngine(package, new() { Kernels = kernels, Threads = threads }, new() { Window = window });
        using var session = engine.OpenSession();
        session.Timeline.Append(Ids);
        return session.Run(Sampling.Greedy, SlotFlags.Sample, package.Config.VocabSize, chunk).Top!;
    }

    /// <summary>Engine and reference model say what the paper says.</summary>
    protected static void AssertLogits(double[][] expected, FlashPackage package)
    {
        List<float[]> reference = ReferenceModel.FromPackage(package).Run(Ids).Logits;
        for (int i = 0; i < Ids.Length; i++)
            for (int t = 0; t < package.Config.VocabSize; t++) Assert.Equal(expected[i][t], reference[i][t], 2e-4);
        foreach ((int id, float logit) in Run(package, "auto", 0.3, 4, threads: 2)) Assert.Equal(expected[^1][id], logit, 2e-4);
    }

    /// <summary>The same bits with room for all experts, for two and for one, whatever computes them.</summary>
    protected static void AssertBits(FlashPackage package)
    {
        (int, float)[] plain = Run(package, "scalar", 1, 64, threads: 1);
        int experts = package.Config.Experts!.Count;
        foreach (string kernels in Kernels.Available)
            foreach (int held in new[] { experts, 2, 1 })
                foreach (int threads in new[] { 1, 3 })
                    Assert.Equal(plain, Run(package, kernels, (double)held / experts, threads == 1 ? 1 : 5, threads));
    }

    protected double[] Vector(string name) => [.. _tensors[name].Data.Select(static f => (double)f)];

    protected double[] Row(string matrix, int row)
    {
        int cols = _tensors[matrix].Shape[1];
        return [.. _tensors[matrix].Data.AsSpan(row * cols, cols).ToArray().Select(static f => (double)f)];
    }

    protected double[] Times(string matrix, double[] x)
    {
        (int[] shape, float[] data) = _tensors[matrix];
        return [.. Enumerable.Range(0, shape[0]).Select(r => Enumerable.Range(0, shape[1]).Sum(c => (double)data[r * shape[1] + c] * x[c]))];
    }

    protected double[] Norm(double[] x, string weight)
    {
        double size = Math.Sqrt(x.Sum(static a => a * a) / x.Length + 1e-6);
        return [.. x.Select((a, j) => a / size * _tensors[weight].Data[j])];
    }

    protected static double[] Sum(double[] a, double[] b) => [.. a.Zip(b, static (x, y) => x + y)];

    protected static double[] Softmax(IEnumerable<double> scores)
    {
        double[] all = [.. scores.Select(Math.Exp)];
        double sum = all.Sum();
        return [.. all.Select(a => a / sum)];
    }
}
