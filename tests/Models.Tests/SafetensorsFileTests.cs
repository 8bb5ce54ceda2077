using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using CsCheck;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests;

public sealed class SafetensorsFileTests : IDisposable
{
    private readonly string _path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName() + ".safetensors");

    public void Dispose() => File.Delete(_path);

    [Fact]
    public void Rows_and_blocks_of_every_weight_type_become_floats()
    {
        float[] numbers = [0, -0f, 1.5f, -2, 0.25f, 1024, -3.5f, 7, 6.1035156E-05f, -65504, 0.5f, 9];
        foreach (string type in new[] { "F32", "F16", "BF16" })
        {
            // Each is exact in all three types but -65504, which bfloat16 rounds to -65536.
            float[] expected = [.. numbers.Select(x => type == "BF16" && x == -65504 ? -65536 : x)];
            Write(Header(type, 4, 3, type == "F32" ? 48 : 24), Encode(type, expected));
            using var file = SafetensorsFile.Open(_path);
            TensorInfo w = file.Tensors["w"];

            float[] rows = new float[6];
            file.ReadRows(w, 1, 2, rows);
            Assert.Equal(expected[3..9], rows);

            float[] block = new float[6];
            file.ReadBlock(w, 1, 3, 1, 2, block);
            Assert.Equal([expected[4], expected[5], expected[7], expected[8], expected[10], expected[11]], block);

            Assert.Throws<ArgumentOutOfRangeException>(() => file.ReadRows(w, 3, 2, new float[6]));
            Assert.Throws<ArgumentOutOfRangeException>(() => file.ReadBlock(w, 0, 1, 2, 2, new float[2]));
        }
    }

    [Fact]
    public void Rows_longer_than_the_scratch_buffer_are_read_whole()
    {
        const int N = 300_000;
        ushort[] halves = [.. Enumerable.Range(0, N).Select(i => BitConverter.HalfToUInt16Bits((Half)(i % 2000 - 1000)))];
        Write(Header("F16", 1, N, N * 2), MemoryMarshal.AsBytes(halves.AsSpan()).ToArray());
        using var file = SafetensorsFile.Open(_path);
        float[] row = new float[N];
        file.ReadRows(file.Tensors["w"], 0, 1, row);
        for (int i = 0; i < N; i++) Assert.Equal(i % 2000 - 1000, row[i]);
    }

    [Fact]
    public void Metadata_empty_tensors_and_trailing_blanks_are_allowed()
    {
        Write("""{"__metadata__":{"format":"pt"},"none":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]},"one":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}    """, new byte[8]);
        using var file = SafetensorsFile.Open(_path);
        Assert.Equal(["none", "one"], file.Tensors.Keys.Order());
        Assert.Equal(1, file.Tensors["one"].Elements);
        Assert.Throws<ModelFormatException>(() => file.ReadRows(file.Tensors["one"], 0, 1, new float[1]));
    }

    [Theory]
    [InlineData("""{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"shape":[1]}}""", "two shape")]
    [InlineData("""{"w":{"dtype":"F32","shape":[1]}}""", "lacks data_offsets")]
    [InlineData("""{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} x""", "not valid JSON")]
    [InlineData("""{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}""", "not valid JSON")]
    [InlineData("""{"w":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}""", "whole numbers")]
    [InlineData("""{"w":{"dtype":"F32","shape":[9223372036854775807,9223372036854775807,9223372036854775807,0],"data_offsets":[0,4]}}""", "larger than any file")]
    [InlineData("""{"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}""", "more than 8")]
    [InlineData("""{"a\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", "not valid JSON")]
    [InlineData("""{"__metadata__":{},"__metadata__":{}}""", "two __metadata__")]
    [InlineData("""{"__metadata__":{"a":1}}""", "object of strings")]
    [InlineData(""" {"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", "not a JSON object")]
    [InlineData("""{"a\nb":{"dtype":"Q1","shape":[1],"data_offsets":[0,4]}}""", "a?b has the unknown dtype Q1")]
    [InlineData("""{}""", "belong to nothing")]
    public void A_wrong_header_is_refused_with_its_reason(string header, string reason)
    {
        Write(header, new byte[4]);
        var e = Assert.Throws<ModelFormatException>(() => SafetensorsFile.Open(_path));
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
    }

    /// <summary>Whatever happens to the bytes of a good file, it opens and reads or is refused: nothing else.</summary>
    [Fact]
    public void Damaged_files_are_read_or_refused_and_nothing_else()
    {
        byte[] good = File.ReadAllBytes(Path.Combine(TestData.Repo("tests", "data", "bad", "ok-checkpoint"), "model.safetensors"));
        int header = 8 + (int)BinaryPrimitives.ReadInt64LittleEndian(good);
        Gen.Select(Gen.Int[0, header - 1], Gen.Byte, Gen.Int[0, header - 1], Gen.Byte, Gen.Int[0, good.Length]).Sample((at, value, at2, value2, cut) =>
        {
            byte[] bytes = (byte[])good.Clone();
            bytes[at] = value;
            bytes[at2] ^= value2;
            if (cut % 4 == 0) bytes = bytes[..cut];
            string path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());
            File.WriteAllBytes(path, bytes);
            try
            {
                using var file = SafetensorsFile.Open(path);
                foreach (TensorInfo t in file.Tensors.Values)
                    if (SafetensorsFile.IsFloat(t.Type)) file.ReadRows(t, 0, 1, new float[t.Shape.Count == 0 ? 1 : t.Shape[^1]]);
            }
            catch (ModelFormatException)
            {
                // refused: fine
            }
            finally
            {
                File.Delete(path);
            }
        }, iter: 1000, threads: 1);
    }

    private static string Header(string type, int rows, int cols, int bytes) =>
        $$$"""{"w":{"dtype":"{{{type}}}","shape":[{{{rows}}},{{{cols}}}],"data_offsets":[0,{{{bytes}}}]}}""";

    private void Write(string header, byte[] data)
    {
        byte[] json = Encoding.UTF8.GetBytes(header);
        byte[] length = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, json.Length);
        File.WriteAllBytes(_path, [.. length, .. json, .. data]);
    }

    private static byte[] Encode(string type, float[] numbers) => type switch
    {
        "F32" => MemoryMarshal.AsBytes(numbers.AsSpan()).ToArray(),
        "F16" => MemoryMarshal.AsBytes(numbers.Select(x => BitConverter.HalfToUInt16Bits((Half)x)).ToArray().AsSpan()).ToArray(),
        _ => MemoryMarshal.AsBytes(numbers.Select(x => (ushort)(BitConverter.SingleToUInt32Bits(x) >> 16)).ToArray().AsSpan()).ToArray(),
    };
}
