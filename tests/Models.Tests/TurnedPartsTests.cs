using FlashOrleans.Flash;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

/// <summary>Experts that are columns in the checkpoint are read in one go, some at a time, and are the same numbers then.</summary>
public sealed class TurnedPartsTests
{
    private static readonly string[] s_kinds = ["ffn.up", "ffn.down", "ffn.gate"];

    [Theory]
    [InlineData("mixtral", 1)]
    [InlineData("mixtral", 3)]
    [InlineData("granite-moe", 2)]
    [InlineData("gpt-oss", 1)]
    public void Experts_read_in_parts_are_the_experts_read_in_small_pieces(string golden, int experts)
    {
        using Checkpoint checkpoint = Checkpoint.Open(TestData.Golden(golden));
        ExpertConfig e = checkpoint.Config.Experts!;
        string[] names = [.. s_kinds.Select(static k => "layers.1." + k)];
        // Of gpt-oss gate and up are turned, and lie in one tensor.
        int width = golden == "gpt-oss" ? 2 * e.Size : e.Size, bytes = checkpoint.Nearest(names[1], 0, 1)[0].Format == WeightFormat.F32 ? 4 : 2;
        IReadOnlyList<TurnedPart> parts = checkpoint.Turned(e.Count * e.Size, names, most: (long)experts * width * checkpoint.Config.HiddenSize * bytes);
        Assert.Equal((e.Count + experts - 1) / experts, parts.Count);
        Dictionary<string, float[]> plain = names.ToDictionary(n => n, checkpoint.Read);
        using var held = new TurnedParts(checkpoint, parts, CancellationToken.None);
        int next = 0;
        for (int p = 0; p < parts.Count; p++)
        {
            held.Await(p);
            Assert.Equal(next, parts[p].First);
            foreach (string name in names)
            {
                int cols = checkpoint.Shape(name).Cols;
                float[] read = new float[parts[p].Count * cols];
                checkpoint.ReadRows(name, parts[p].First, parts[p].Count, read);
                Assert.True(plain[name].AsSpan(next * cols, read.Length).SequenceEqual(read), $"{name}, part {p}");
            }
            next += parts[p].Count;
        }
        Assert.Equal(e.Count * e.Size, next);
    }

    [Fact]
    public void A_dense_feed_forward_is_one_part()
    {
        using Checkpoint checkpoint = Checkpoint.Open(TestData.Golden("llama"));
        TurnedPart part = Assert.Single(checkpoint.Turned(checkpoint.Config.FfnSize, s_kinds.Select(static k => "layers.0." + k), most: 1));
        Assert.Equal((0, checkpoint.Config.FfnSize), (part.First, part.Count));
        Assert.Equal(checkpoint.Config.HiddenSize, Assert.Single(part.Rows).Count);
    }
}
