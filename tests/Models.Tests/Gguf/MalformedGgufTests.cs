using System.Buffers.Binary;
using CsCheck;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Gguf;

/// <summary>Damaged and hostile files are refused in one clear line, without large allocations, or read; nothing else happens.</summary>
public sealed class MalformedGgufTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public static readonly TheoryData<string> Own = [.. Entries(TestData.Repo("tests", "data", "gguf", "bad")).Select(static e => e.Path)];

    public void Dispose() => _folder.Dispose();

    [Theory, MemberData(nameof(Own))]
    public void Each_case_is_refused_clearly_and_controls_load(string path) => CheckCase(TestData.Repo("tests", "data", "gguf", "bad"), path);

    [Fact]
    public void All_cases_beside_the_repository_are_refused_clearly_and_controls_load()
    {
        string folder = TestData.Shared("golden", "bad");
        (string Path, string Expect)[] entries = [.. Entries(folder)];
        foreach ((string path, _) in entries) CheckCase(folder, path);
        Assert.True(entries.Length >= 38, $"only {entries.Length} cases");
    }

    [Theory]
    [InlineData("gguf-truncated-kv", "reaches beyond the end of the file")]
    [InlineData("gguf-truncated-data", "it is incomplete, download it again")]
    [InlineData("gguf-big-endian", "big-endian")]
    [InlineData("gguf-version-99", "version 99 at byte 4")]
    [InlineData("gguf-kv-duplicate", "llama.block_count is given twice")]
    [InlineData("gguf-array-nested-deep", "nested deeper")]
    [InlineData("gguf-array-length-huge", "2305843009213693952 elements")]
    [InlineData("gguf-tensor-type-removed", "Q4_2")]
    [InlineData("gguf-tensor-type-unknown", "unknown type 200")]
    [InlineData("gguf-row-not-multiple-of-block", "not a multiple of its block of 256")]
    [InlineData("gguf-offset-misaligned", "no multiple of the alignment 32")]
    [InlineData("gguf-alignment-odd", "33, not a power of two")]
    public void The_reason_is_given(string name, string says)
    {
        var e = Assert.Throws<ModelFormatException>(() => GgufFile.Open(TestData.Repo("tests", "data", "gguf", "bad", name + ".gguf")));
        Assert.Contains(says, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Tensors_that_overlap_are_refused()
    {
        byte[] bytes = new GgufBuilder().Tensor("first", [16], new float[16]).Tensor("second", [16], new float[16]).Build();
        int offset = bytes.AsSpan().IndexOf("second"u8) + 6 + 4 + 8 + 4;
        Assert.Equal(64, bytes[offset]);
        bytes[offset] = 32;
        var e = Assert.Throws<ModelFormatException>(() => GgufFile.Open(_folder.Write("m.gguf", bytes)));
        Assert.Contains("tensors first and second overlap", e.Message, StringComparison.Ordinal);
    }

    /// <summary>In a large file an array may claim many strings and be within the file: it is still no model's.</summary>
    [Fact]
    public void Endless_metadata_in_a_large_file_are_refused_without_being_kept()
    {
        byte[] start = new GgufBuilder().Key("tokenizer.ggml.tokens", new[] { "" }).Build();
        int count = 24 + 8 + "tokenizer.ggml.tokens".Length + 4 + 4;
        Assert.Equal(1, BinaryPrimitives.ReadInt64LittleEndian(start.AsSpan(count)));
        BinaryPrimitives.WriteInt64LittleEndian(start.AsSpan(count), 9L << 20);
        string path = _folder.Write("huge.gguf", start);
        using (FileStream file = File.OpenWrite(path)) file.SetLength(128L << 20);
        long before = GC.GetAllocatedBytesForCurrentThread();
        var e = Assert.Throws<ModelFormatException>(() => GgufFile.Open(path));
        Assert.Contains("64 MiB of metadata", e.Message, StringComparison.Ordinal);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
    }

    [Fact]
    public void Too_many_strings_are_refused_when_they_are_asked_for()
    {
        byte[] start = new GgufBuilder().Key("merges", new[] { "" }).Build();
        int count = 24 + 8 + 6 + 4 + 4, strings = 3 << 20;
        byte[] bytes = new byte[count + 8 + strings * 8L];
        start.AsSpan(0, count).CopyTo(bytes);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(count), strings);
        using GgufFile file = GgufFile.Open(_folder.Write("m.gguf", bytes));
        Assert.Contains("3145728 strings", Assert.Throws<ModelFormatException>(() => file.Metadata.Strings("merges")).Message, StringComparison.Ordinal);
    }

    /// <summary>CsCheck_Iter in the environment sets the number of cases.</summary>
    [Fact]
    public void Damaged_fronts_are_read_or_refused_and_nothing_else()
    {
        byte[][] good = [.. new[] { "bad/gguf-ok.gguf", "llama-Q4_0.gguf" }.Select(static n => File.ReadAllBytes(TestData.Repo("tests", "data", "gguf", n)))];
        // The data begin where the first tensor is; what is before is the front.
        int[] fronts = [.. good.Select(bytes => Front(_folder.Write("good.gguf", bytes)))];
        ulong[] numbers = [0, 1, 2, 3, 31, 32, 255, 256, 1 << 16, int.MaxValue, 1ul << 31, uint.MaxValue, 1ul << 32, 1ul << 40, 1ul << 61, long.MaxValue, 1ul << 63, ulong.MaxValue];
        string path = Path.Combine(_folder.Path, "damaged.gguf");
        Gen.Select(Gen.Int[0, 1], Gen.Select(Gen.Int[0, 6], Gen.Int[0, int.MaxValue - 1], Gen.Int[0, numbers.Length - 1], Gen.Byte).Array[1, 4]).Sample((which, changes) =>
        {
            var bytes = new List<byte>(good[which]);
            foreach ((int kind, int where, int number, byte value) in changes)
            {
                int at = where % fronts[which];
                if (at >= bytes.Count - 8) continue;
                switch (kind)
                {
                    case 0: bytes[at] = value; break;
                    case 1: bytes[at] ^= (byte)(1 << (value & 7)); break;
                    case 2: bytes.RemoveAt(at); break;
                    case 3: bytes.Insert(at, value); break;
                    case 4: bytes.RemoveRange(where % bytes.Count, bytes.Count - where % bytes.Count); break;
                    default:
                        for (int i = 0; i < (kind == 5 ? 8 : 4); i++) bytes[at + i] = (byte)(numbers[number] >> (8 * i));
                        break;
                }
            }
            File.WriteAllBytes(path, [.. bytes]);
            long before = GC.GetAllocatedBytesForCurrentThread();
            try
            {
                ReadAll(path);
            }
            catch (ModelFormatException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
            Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 4 << 20);
        }, iter: Math.Max(Check.Iter, 1000), threads: 1);
    }

    private static int Front(string path)
    {
        using GgufFile file = GgufFile.Open(path);
        return (int)file.Tensors.Values.Min(static t => t.Offset);
    }

    /// <summary>Everything that can be asked of a file: every value as what it says it is, the first and last row of every tensor.</summary>
    private static void ReadAll(string path)
    {
        using GgufFile file = GgufFile.Open(path);
        GgufMetadata metadata = file.Metadata;
        foreach (string key in metadata.Keys)
        {
            GgufValue value = metadata.Find(key)!.Value;
            _ = (value.Type == GgufValueType.Array ? value.Element : value.Type) switch
            {
                GgufValueType.Array => (object?)null,
                GgufValueType.String => value.Type == GgufValueType.Array ? metadata.Strings(key) : metadata.String(key),
                GgufValueType.Float32 or GgufValueType.Float64 => value.Type == GgufValueType.Array ? metadata.Float32s(key) : metadata.Float32(key),
                GgufValueType.Bool => value.Type == GgufValueType.Array ? metadata.Bools(key) : metadata.Bool(key),
                _ => value.Type == GgufValueType.Array ? metadata.Int32s(key) : metadata.Int32(key),
            };
        }
        foreach (GgufTensor tensor in file.Tensors.Values)
        {
            float[] row = new float[tensor.Columns];
            file.ReadRows(tensor, 0, 1, row);
            file.ReadRows(tensor, tensor.Rows - 1, 1, row);
        }
    }

    /// <summary>What an import of the cases' architecture asks for; a file may open and still lack it.</summary>
    private static void Use(string path)
    {
        using GgufFile file = GgufFile.Open(path);
        GgufMetadata m = file.Metadata;
        if (m.Architecture != "llama") throw new ModelFormatException(path, $"architecture {m.Architecture} is not the one of this test");
        int d = m.RequireInt32("llama.embedding_length"), ff = m.RequireInt32("llama.feed_forward_length"), heads = m.RequireInt32("llama.attention.head_count");
        int kv = m.RequireInt32("llama.attention.head_count_kv");
        for (int layer = 0; layer < m.RequireInt32("llama.block_count"); layer++)
        {
            file.Require($"blk.{layer}.attn_q.weight", d, d);
            file.Require($"blk.{layer}.attn_k.weight", d, d / heads * kv);
            file.Require($"blk.{layer}.ffn_up.weight", d, ff);
            file.Require($"blk.{layer}.ffn_down.weight", ff, d);
        }
        ReadAll(path);
    }

    private static void CheckCase(string folder, string name)
    {
        string path = Path.Combine(folder, name), expect = Entries(folder).Single(e => e.Path == name).Expect;
        if (expect == "ok")
        {
            Use(path);
            return;
        }
        long before = GC.GetAllocatedBytesForCurrentThread();
        var e = Assert.Throws<ModelFormatException>(() => Use(path));
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.DoesNotContain('\n', e.Message);
        Assert.Contains(name, e.Message, StringComparison.Ordinal);
        Assert.True(e.Message.Length < path.Length + 300, e.Message);
        Assert.True(allocated < 1 << 20, $"{name}: {allocated} bytes were allocated before it was refused");
    }

    private static IEnumerable<(string Path, string Expect)> Entries(string folder) =>
        TestData.Json(Path.Combine(folder, "index.json")).EnumerateArray()
            .Where(static e => e.GetProperty("kind").GetString() == "gguf")
            .Select(static e => (e.GetProperty("path").GetString()!, e.GetProperty("expect").GetString()!));
}
