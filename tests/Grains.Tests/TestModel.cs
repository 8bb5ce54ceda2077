using FlashOrleans.Engine;
using FlashOrleans.Engine.Tests;
using FlashOrleans.Flash;

namespace FlashOrleans.Grains.Tests;

/// <summary>A small random model in a models folder of its own, and what the engine alone makes of a prompt: the oracle.</summary>
internal sealed class TestModel : IDisposable
{
    public const string Name = "tiny";
    private readonly TinyPackage _package;

    public TestModel(int layers = 4, WeightFormat format = WeightFormat.Q8, int positions = 1024, bool tied = true, int hidden = 64, int seed = 1, RopeConfig? rope = null)
    {
        _package = TinyPackage.Create(TinyPackage.Llama(layers: layers, hidden: hidden, tied: tied) with { MaxPositions = positions, Rope = rope }, format, seed);
    }

    public string Folder => _package.Folder;
    public FlashPackage Package => _package.Package;
    public ModelConfig Config => Package.Config;

    /// <summary>A prompt that depends on its number alone.</summary>
    public int[] Prompt(int number, int length = 5)
    {
        var random = new Random(1000 + number);
        return [.. Enumerable.Range(0, length).Select(_ => random.Next(3, Config.VocabSize))];
    }

    /// <summary>The engine without grains, on one thread. Stop tokens are ignored.</summary>
    public StepResult[] Alone(int[] prompt, int count, SamplingFacts? sampling = null, int topLogits = 0)
    {
        using var engine = new LocalEngine(Package, new EngineOptions { Threads = 1 }, new LayerOptions());
        using EngineSession session = engine.OpenSession();
        return [.. session.Generate(prompt, count, (sampling ?? SamplingFacts.Greedy).ToEngine(), stop: null, topLogits)];
    }

    public int[] TokensAlone(int[] prompt, int count, SamplingFacts? sampling = null) => [.. Alone(prompt, count, sampling).Select(r => r.Token)];

    public void Dispose() => _package.Dispose();
}

/// <summary>One choice of sampling for both sides of a comparison.</summary>
internal sealed record SamplingFacts(float Temperature, ulong Seed)
{
    public static SamplingFacts Greedy { get; } = new(0, 1);

    public Sampling ToEngine() => new() { Temperature = Temperature, TopP = 1, Seed = Seed };

    public Abstractions.SamplingOptions ToTurn() => new() { Temperature = Temperature, Seed = Seed };
}
