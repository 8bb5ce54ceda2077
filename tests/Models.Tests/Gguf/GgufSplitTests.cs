using FlashOrleans.Models.Gguf;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Gguf;

public sealed class GgufSplitTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Parts_are_opened_as_one_through_any_of_them(int part)
    {
        WriteAll();
        using GgufFile file = GgufFile.Open(Path.Combine(_folder.Path, Name(part)));
        Assert.Equal(["a", "b", "c"], file.Tensors.Keys.Order());
        Assert.Equal("llama", file.Metadata.Architecture);
        Assert.Equal(3, file.Paths.Count);
        Assert.EndsWith(Name(1), file.Path, StringComparison.Ordinal);
        foreach ((string name, float value) in new[] { ("a", 1f), ("b", 2f), ("c", 3f) })
        {
            float[] row = new float[2];
            file.ReadRows(file.Tensors[name], 0, 1, row);
            Assert.Equal([value, -value], row);
        }
    }

    [Fact]
    public void A_missing_part_is_named()
    {
        WriteAll();
        File.Delete(Path.Combine(_folder.Path, Name(2)));
        Refused(1, $"the part {Name(2)} is missing");
    }

    [Fact]
    public void Parts_that_say_something_else_than_their_names_are_refused()
    {
        WriteAll();
        Write(2, number: 2);
        Refused(1, "is part 3 of 3 by its metadata");
        Write(2, count: 4);
        Refused(1, "is part 2 of 4 by its metadata");
        Refused(2, "one of 4 parts by its metadata");
    }

    [Fact]
    public void Parts_of_another_model_are_noticed()
    {
        WriteAll();
        Write(3, tensor: "b");
        Refused(1, "tensor b is also in " + Name(2));
        Write(3, tensor: null);
        Refused(1, "says that the model has 3 tensors (metadata split.tensors.count), its 3 parts have 2");
        Write(3, magic: "PWRI");
        Refused(1, "another magic");
    }

    [Fact]
    public void A_part_under_another_name_says_how_it_must_be_named()
    {
        WriteAll();
        File.Move(Path.Combine(_folder.Path, Name(1)), Path.Combine(_folder.Path, "model.gguf"));
        var e = Assert.Throws<ModelFormatException>(() => GgufFile.Open(Path.Combine(_folder.Path, "model.gguf")));
        Assert.Contains("name it like model-00001-of-00003.gguf", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_single_part_of_one_is_a_plain_file()
    {
        string path = _folder.Write("m-00001-of-00001.gguf", new GgufBuilder().Key("split.count", (ushort)1).Key("split.no", (ushort)0).Tensor("a", [1], [1f]).Build());
        using GgufFile file = GgufFile.Open(path);
        Assert.Single(file.Tensors);
    }

    [Fact]
    public void A_name_that_claims_parts_which_the_file_knows_nothing_of_is_refused()
    {
        string path = _folder.Write("m-00001-of-00002.gguf", new GgufBuilder().Tensor("a", [1], [1f]).Build());
        Assert.Contains("one of 1 parts by its metadata", Assert.Throws<ModelFormatException>(() => GgufFile.Open(path)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-2)]
    [InlineData(2000)]
    public void An_impossible_number_of_parts_is_refused(int count)
    {
        string path = _folder.Write("m-00001-of-00002.gguf", new GgufBuilder().Key("split.count", count).Tensor("a", [1], [1f]).Build());
        Assert.Contains("split.count", Assert.Throws<ModelFormatException>(() => GgufFile.Open(path)).Message, StringComparison.Ordinal);
    }

    private void Refused(int part, string says)
    {
        var e = Assert.Throws<ModelFormatException>(() => GgufFile.Open(Path.Combine(_folder.Path, Name(part))));
        Assert.Contains(says, e.Message, StringComparison.Ordinal);
    }

    private void WriteAll()
    {
        for (int part = 1; part <= 3; part++) Write(part);
    }

    private void Write(int part, int? number = null, int count = 3, string? tensor = "", string magic = "GGUF")
    {
        var builder = new GgufBuilder { Magic = magic };
        if (part == 1) builder.Key("general.architecture", "llama");
        builder.Key("split.no", (ushort)(number ?? part - 1)).Key("split.count", (ushort)count).Key("split.tensors.count", 3);
        if (tensor != null) builder.Tensor(tensor.Length > 0 ? tensor : "abc"[(part - 1)..part], [2], [part, -part]);
        _folder.Write(Name(part), builder.Build());
    }

    private static string Name(int part) => $"model-{part:D5}-of-00003.gguf";
}
