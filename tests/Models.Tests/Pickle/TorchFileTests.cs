using System.Runtime.InteropServices;
using CsCheck;
using FlashOrleans.Models.Pickle;
using FlashOrleans.Tests;
using static FlashOrleans.Models.Tests.Pickle.TorchArchive;

namespace FlashOrleans.Models.Tests.Pickle;

/// <summary>A torch archive is data: a dict of plain tensors is read, everything else is refused by name, and nothing is ever run.</summary>
public sealed class TorchFileTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Tensors_of_every_weight_type_are_read_row_by_row()
    {
        float[] numbers = [.. Enumerable.Range(0, 12).Select(static i => i * 0.5f - 2)];
        byte[] brains = MemoryMarshal.AsBytes(numbers.Select(static x => (ushort)(BitConverter.SingleToUInt32Bits(x) >> 16)).ToArray().AsSpan()).ToArray();
        using TorchFile file = Open(Build(
            Dict(Pickled.Contiguous("f", "FloatStorage", "0", 3, 4), Pickled.Contiguous("h", "HalfStorage", "1", 3, 4), Pickled.Contiguous("b", "BFloat16Storage", "2", 3, 4)),
            [("0", MemoryMarshal.AsBytes(numbers.AsSpan()).ToArray()), ("1", Halves(12, i => numbers[i])), ("2", brains)]));
        Assert.Equal(["f", "h", "b"], file.Tensors.Keys);
        Assert.Equal(["F32", "F16", "BF16"], file.Tensors.Values.Select(static t => t.Type));
        foreach (TensorInfo tensor in file.Tensors.Values)
        {
            Assert.Equal([3, 4], tensor.Shape);
            float[] rows = new float[8];
            file.ReadRows(tensor, 1, 2, rows);
            Assert.Equal(numbers[4..], rows);
            Assert.Throws<ArgumentOutOfRangeException>(() => file.ReadRows(tensor, 2, 2, new float[8]));
            Assert.Throws<ArgumentOutOfRangeException>(() => file.ReadRows(tensor, 0, 1, new float[8]));
        }
    }

    [Fact]
    public void Tensors_may_share_a_storage_and_begin_inside_it()
    {
        using TorchFile file = Open(Build(
            Dict(new Pickled("a", "HalfStorage", "0", 10, 0, [4], [1]), new Pickled("b", "HalfStorage", "0", 10, 4, [2, 1, 3], [3, 99, 1]), new Pickled("c", "HalfStorage", "0", 10, 9, [], [])),
            [("0", Halves(10, static i => i))]));
        float[] b = new float[6], c = new float[1];
        file.ReadRows(file.Tensors["b"], 0, 2, b);
        file.ReadRows(file.Tensors["c"], 0, 1, c);
        Assert.Equal([4, 5, 6, 7, 8, 9], b);
        Assert.Equal([9], c);
    }

    [Fact]
    public void A_state_dict_with_its_versions_is_read()
    {
        using TorchFile file = Open(Build(StateDict(Pickled.Contiguous("w", "HalfStorage", "0", 2)), [("0", Halves(2, static i => i + 1))]));
        float[] w = new float[2];
        file.ReadRows(file.Tensors["w"], 0, 1, w);
        Assert.Equal([1, 2], w);
    }

    public static readonly TheoryData<string, string> Refused = new()
    {
        { "cos\nsystem\n(X\u0002\0\0\0lstR.", "names os.system" },
        { "c__builtin__\neval\n.", "names __builtin__.eval" },
        { "ctorch\nDoubleStorage\n.", "names torch.DoubleStorage" },
        { "ctorch._utils\n_rebuild_parameter\n.", "names torch._utils._rebuild_parameter" },
        { "X\u0002\0\0\0osX\u0006\0\0\0system\u0093.", "names os.system" },
        { "(S'id'\nios\nsystem\n.", "opcode 0x53 'S'" },
        { "(ios\nsystem\n.", "(INST" },
        { "ccollections\nOrderedDict\n)\u0081.", "(NEWOBJ" },
        { "\u0082\u0001.", "(EXT" },
        { "P1\n.", "(PERSID)" },
        { "].", "a list" },
        { "ccollections\nOrderedDict\n(K\u0001tR.", "calls OrderedDict with other arguments" },
        { "ctorch\nHalfStorage\n)R.", "calls HalfStorage" },
        { "X\u0001\0\0\0a)R.", "calls something that is no name" },
        { "K\u0001.", "something else than a dict" },
        { "}X\u0001\0\0\0aK\u0001s.", "entry a of data.pkl is not a tensor" },
        { "}K\u0001K\u0001s.", "keys are not text" },
        { "K\u0001}b.", "sets attributes of something else" },
        { "X\u0001\0\0\0aQ.", "something else than a storage" },
        { "(X\u0007\0\0\0storageccollections\nOrderedDict\nX\u0001\0\0\00X\u0003\0\0\0cpuK\u0001tQ.", "takes OrderedDict for a storage" },
        { "\u0080\u0001}.", "protocol 1" },
    };

    [Theory, MemberData(nameof(Refused))]
    public void What_is_no_plain_tensor_is_refused_by_name_with_the_way_out(string pickle, string says)
    {
        string message = Refusal(Build(P(pickle), []));
        Assert.Contains(says, message, StringComparison.Ordinal);
        Assert.Contains("safetensors", message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("", "ends in the middle")]
    [InlineData("}", "ends in the middle")]
    [InlineData("X\u00ff\u00ff\u00ff\u007fab", "text of 2147483647 bytes")]
    [InlineData("X\u00ff\u00ff\u00ff\u00ffab", "text of 4294967295 bytes")]
    [InlineData("s.", "empty stack")]
    [InlineData("K\u0001(K\u0002\u0086.", "empty stack")]
    [InlineData("t.", "not begun")]
    [InlineData("h\u0007.", "memo 7")]
    [InlineData("}}.", "more or less than one value")]
    [InlineData("(.", "more or less than one value")]
    [InlineData("\u008a\u0009123456789.", "more than 64 bits")]
    public void A_damaged_pickle_is_refused_with_its_place(string pickle, string says)
    {
        string message = Refusal(Build(P(pickle), []));
        Assert.Contains(says, message, StringComparison.Ordinal);
        Assert.Contains("data.pkl is damaged at byte", message, StringComparison.Ordinal);
    }

    [Fact]
    public void Shapes_are_checked_against_their_storages_and_those_against_the_file()
    {
        (string, byte[])[] data = [("0", Halves(4, static i => i))];
        static byte[] One(long elements, long first, long[] shape, long[] strides) => Dict(new Pickled("w", "HalfStorage", "0", elements, first, shape, strides));
        Assert.Contains("transposed", Refusal(Build(One(4, 0, [2, 2], [1, 2]), data)), StringComparison.Ordinal);
        Assert.Contains("more numbers than its storage", Refusal(Build(One(4, 0, [5], [1]), data)), StringComparison.Ordinal);
        Assert.Contains("more numbers than its storage", Refusal(Build(One(4, 0, [1L << 62, 1L << 62], [1L << 62, 1]), data)), StringComparison.Ordinal);
        Assert.Contains("outside of its storage", Refusal(Build(One(4, 1, [4], [1]), data)), StringComparison.Ordinal);
        Assert.Contains("outside of its storage", Refusal(Build(One(4, -1, [2], [1]), data)), StringComparison.Ordinal);
        Assert.Contains("8 bytes for 4611686018427387904 numbers", Refusal(Build(One(1L << 62, 1L << 61, [4], [1]), data)), StringComparison.Ordinal);
        Assert.Contains("8 bytes for 5 numbers", Refusal(Build(One(5, 0, [5], [1]), data)), StringComparison.Ordinal);
        Assert.Contains("no entry model/data/0", Refusal(Build(One(4, 0, [4], [1]), [])), StringComparison.Ordinal);
        Assert.Contains("no entry model/data/../../../etc/passwd", Refusal(Build(Dict(Pickled.Contiguous("w", "HalfStorage", "../../../etc/passwd", 4)), data)), StringComparison.Ordinal);
    }

    [Fact]
    public void Other_containers_are_refused_with_the_way_out()
    {
        byte[] dict = P("\u0080\u0002}.");
        Assert.Contains("is a bare pickle", Refusal(dict), StringComparison.Ordinal);
        Assert.Contains("not a zip archive", Refusal([]), StringComparison.Ordinal);
        Assert.Contains("not a zip archive", Refusal("hello, this is no archive"u8.ToArray()), StringComparison.Ordinal);
        Assert.Contains("without data.pkl", Refusal(Zip([("readme", [1])])), StringComparison.Ordinal);
        Assert.Contains("TorchScript", Refusal(Zip([("m/data.pkl", dict), ("m/constants.pkl", dict)])), StringComparison.Ordinal);
        Assert.Contains("not little-endian", Refusal(Build(dict, [], "big")), StringComparison.Ordinal);
        Assert.Contains("is compressed", Refusal(Zip([("m/data.pkl", dict)], method: 8)), StringComparison.Ordinal);
        Assert.Contains("is encrypted", Refusal(Zip([("m/data.pkl", dict)], flags: 1)), StringComparison.Ordinal);
        Assert.Contains("given twice", Refusal(Zip([("m/data.pkl", dict), ("m/data.pkl", dict)])), StringComparison.Ordinal);
        Assert.Contains("is a bare pickle", Assert.Throws<ModelFormatException>(() => TorchFile.Open(TestData.Repo("tests", "data", "bad", "pickle-only", "pytorch_model.bin"))).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData('(', "steps")]
    [InlineData('}', "steps")]
    [InlineData(')', "steps")]
    public void A_pickle_that_goes_on_and_on_is_stopped(char opcode, string says)
    {
        byte[] archive = Build(P("\u0080\u0002" + new string(opcode, 4 << 20)), []);
        string path = _folder.Write("m.pt", archive);
        long before = GC.GetAllocatedBytesForCurrentThread();
        var e = Assert.Throws<ModelFormatException>(() => TorchFile.Open(path));
        Assert.Contains(says, e.Message, StringComparison.Ordinal);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 64 << 20);
    }

    [Fact]
    public void A_pickle_of_many_megabytes_is_refused_unread() =>
        Assert.Contains("at most 8388608", Refusal(Build(new byte[(8 << 20) + 1], [])), StringComparison.Ordinal);

    /// <summary>CsCheck_Iter in the environment sets the number of cases.</summary>
    [Fact]
    public void Damaged_archives_are_read_or_refused_and_nothing_else()
    {
        byte[] good = Predictor(4, 8, 16, static i => i, static i => -i);
        ulong[] numbers = [0, 1, 2, 255, 65535, int.MaxValue, uint.MaxValue, 1ul << 32, long.MaxValue, ulong.MaxValue];
        // Opcodes and bytes that mean something in a pickle are tried more often than others.
        byte[] meaning = [.. ".(}]){NQRbcstuqrhjKMJXGIilo\u0080\u0081\u0082\u0085\u0086\u0087\u0088\u0089\u008a\u008c\u0093\u0094\u0095".Select(static c => (byte)c)];
        string path = Path.Combine(_folder.Path, "damaged.pt");
        Gen.Select(Gen.Int[0, 7], Gen.Int[0, int.MaxValue - 1], Gen.Int[0, 9], Gen.Byte).Array[1, 4].Sample(changes =>
        {
            var bytes = new List<byte>(good);
            foreach ((int kind, int where, int number, byte value) in changes)
            {
                if (bytes.Count < 16) continue;
                int at = where % (bytes.Count - 8);
                switch (kind)
                {
                    case 0: bytes[at] = value; break;
                    case 1: bytes[at] ^= (byte)(1 << (value & 7)); break;
                    case 2: bytes.RemoveAt(at); break;
                    case 3: bytes.Insert(at, value); break;
                    case 4: bytes.RemoveRange(at, bytes.Count - at); break;
                    case 5: bytes[at] = meaning[value % meaning.Length]; break;
                    default:
                        for (int i = 0; i < (kind == 6 ? 8 : 4); i++) bytes[at + i] = (byte)(numbers[number] >> (8 * i));
                        break;
                }
            }
            File.WriteAllBytes(path, [.. bytes]);
            long before = GC.GetAllocatedBytesForCurrentThread();
            try
            {
                using TorchFile file = TorchFile.Open(path);
                foreach (TensorInfo tensor in file.Tensors.Values)
                    if (tensor.Elements > 0) file.ReadRows(tensor, 0, 1, new float[tensor.Shape.Count == 0 ? 1 : tensor.Shape[^1]]);
            }
            catch (ModelFormatException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
            Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
        }, iter: Math.Max(Check.Iter, 1000), threads: 1);
    }

    private TorchFile Open(byte[] bytes) => TorchFile.Open(_folder.Write("m.pt", bytes));
    private string Refusal(byte[] bytes) => Assert.Throws<ModelFormatException>(() => Open(bytes)).Message;
}
