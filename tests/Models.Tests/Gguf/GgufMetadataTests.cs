using FlashOrleans.Models.Gguf;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Gguf;

public sealed class GgufMetadataTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Whole_numbers_of_every_width_answer_to_every_accessor_that_can_hold_them()
    {
        using GgufFile file = Open(new GgufBuilder().Key("u8", (byte)200).Key("i8", (sbyte)-3).Key("u16", (ushort)60000).Key("i16", (short)-300).Key("u32", 4_000_000_000u).Key("i32", -5)
            .Key("u64", ulong.MaxValue).Key("i64", long.MinValue));
        GgufMetadata m = file.Metadata;
        Assert.Equal((200, -3, 60000, -300), (m.Int32("u8"), m.Int32("i8"), m.Int32("u16"), m.Int32("i16")));
        Assert.Equal((4_000_000_000u, 4_000_000_000L, 4_000_000_000UL), (m.UInt32("u32"), m.Int64("u32"), m.UInt64("u32")));
        Assert.Equal((ulong.MaxValue, long.MinValue, -5, 200f), (m.UInt64("u64"), m.Int64("i64"), m.Int32("i32"), m.Float32("u8")));
        Assert.Contains("4000000000, beyond the range", Refusal(() => m.Int32("u32")), StringComparison.Ordinal);
        Assert.Contains("-5, beyond the range", Refusal(() => m.UInt32("i32")), StringComparison.Ordinal);
        Refusal(() => m.Int64("u64"));
        Refusal(() => m.UInt64("i64"));
    }

    [Fact]
    public void Texts_floats_flags_and_arrays_are_read_as_they_were_written()
    {
        using GgufFile file = Open(new GgufBuilder().Key("s", "déjà vu ▁").Key("e", "").Key("f32", 0.1f).Key("f64", 0.5).Key("b", true)
            .Key("strings", new[] { "", "a", "ï" }).Key("floats", new[] { 1.5f, -0f }).Key("doubles", new[] { 0.25 }).Key("ints", new[] { 3, -4 }).Key("bytes", new byte[] { 1, 255 })
            .Key("flags", new[] { true, false }).Key("none", Array.Empty<int>()).Key("nested", new[] { new[] { 1, 2 }, [3] }));
        GgufMetadata m = file.Metadata;
        Assert.Equal(("déjà vu ▁", "", 0.1f, 0.5f, true), (m.String("s"), m.String("e"), m.Float32("f32"), m.Float32("f64"), m.Bool("b")));
        Assert.Equal(["", "a", "ï"], m.Strings("strings")!);
        Assert.Equal([1.5f, -0f], m.Float32s("floats")!);
        Assert.Equal([0.25f], m.Float32s("doubles")!);
        Assert.Equal([3, -4], m.Int32s("ints")!);
        Assert.Equal([1, 255], m.Int32s("bytes")!);
        Assert.Equal([true, false], m.Bools("flags")!);
        Assert.Empty(m.Int32s("none")!);
        Assert.Contains("array of Array", Refusal(() => m.Int32s("nested")), StringComparison.Ordinal);
    }

    [Fact]
    public void A_key_that_is_not_there_is_null_or_named()
    {
        using GgufFile file = Open(new GgufBuilder().Key("a", 1));
        GgufMetadata m = file.Metadata;
        Assert.Null(m.String("x"));
        Assert.Null(m.Int32("x"));
        Assert.Null(m.Float32("x"));
        Assert.Null(m.Bool("x"));
        Assert.Null(m.Strings("x"));
        Assert.Null(m.Int32PerLayer("x", 2));
        Assert.Null(m.Tokens);
        Assert.Contains("x is missing", Refusal(() => m.RequireInt32("x")), StringComparison.Ordinal);
        Assert.Contains("general.architecture is missing", Refusal(() => m.Architecture), StringComparison.Ordinal);
    }

    [Fact]
    public void A_value_of_another_kind_is_refused_with_its_key_place_and_type()
    {
        using GgufFile file = Open(new GgufBuilder().Key("s", "text").Key("n", 7).Key("array", new[] { 1, 2 }));
        GgufMetadata m = file.Metadata;
        string message = Refusal(() => m.Int32("s"));
        Assert.Contains("metadata s at byte 45 is of type String, not a whole number", message, StringComparison.Ordinal);
        Assert.Contains("array of Int32, not a string", Refusal(() => m.String("array")), StringComparison.Ordinal);
        Refusal(() => m.Bool("n"));
        Refusal(() => m.Float32("s"));
        Refusal(() => m.Strings("array"));
        Refusal(() => m.Strings("s"));
        Refusal(() => m.Float32s("array"));
        Refusal(() => m.Int32s("n"));
    }

    [Fact]
    public void One_number_may_stand_for_all_layers_but_an_array_has_one_for_each()
    {
        using GgufFile file = Open(new GgufBuilder().Key("one", 8u).Key("each", new[] { 8, 4, 2 }));
        Assert.Equal([8, 8, 8], file.Metadata.Int32PerLayer("one", 3)!);
        Assert.Equal([8, 4, 2], file.Metadata.Int32PerLayer("each", 3)!);
        Assert.Contains("3 numbers for 2 layers", Refusal(() => file.Metadata.Int32PerLayer("each", 2)), StringComparison.Ordinal);
    }

    [Fact]
    public void Text_that_is_not_UTF8_and_flags_that_are_not_0_or_1_are_refused_with_their_place()
    {
        byte[] bytes = new GgufBuilder().Key("tokens", new[] { "ab", "cd" }).Key("text", "ef").Key("flag", true).Build();
        int cd = bytes.AsSpan().IndexOf("cd"u8), ef = bytes.AsSpan().IndexOf("ef"u8), flag = bytes.AsSpan().IndexOf("flag"u8) + 8;
        bytes[cd] = bytes[ef] = 0xff;
        bytes[flag] = 2;
        using GgufFile file = GgufFile.Open(_folder.Write("m.gguf", bytes));
        Assert.Contains($"tokens[1] at byte {cd} is not UTF-8", Refusal(() => file.Metadata.Strings("tokens")), StringComparison.Ordinal);
        Assert.Contains($"text at byte {ef} is not UTF-8", Refusal(() => file.Metadata.String("text")), StringComparison.Ordinal);
        Assert.Contains($"flag at byte {flag} is 2", Refusal(() => file.Metadata.Bool("flag")), StringComparison.Ordinal);
    }

    private GgufFile Open(GgufBuilder builder) => GgufFile.Open(_folder.Write("m.gguf", builder.Build()));
    private static string Refusal(Func<object?> read) => Assert.Throws<ModelFormatException>(() => read()).Message;
}
