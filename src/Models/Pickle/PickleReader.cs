using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace FlashOrleans.Models.Pickle;

/// <summary>A tensor as a pickle describes it: its numbers are <c>Storage</c>'s from <c>First</c> on (elements, not bytes), row after row.</summary>
internal sealed record PickledTensor(string Type, string Storage, long StorageElements, long First, IReadOnlyList<long> Shape);

/// <summary>
/// Reads one pickle of a torch archive as data: a dict, or OrderedDict, from names to tensors, and nothing else. It knows the few opcodes that
/// torch.save writes for that and five names; it builds descriptions, it calls nothing and could not. Any other opcode or name ends the reading
/// with an error that names it and the way out. The number of steps is limited, each makes at most one small object, so that neither time nor
/// memory depends on what a pickle claims. One thread, while a file is opened.
/// </summary>
internal sealed class PickleReader
{
    public const int MaxBytes = 8 << 20;
    private const int MaxSteps = 1 << 19;
    private const int MaxDims = 8;
    private const string WayOut = "only dicts of plain tensors are read, and no code is ever run: load the file where you trust it and save it with safetensors.torch.save_file";

    private readonly string _path;
    private readonly byte[] _pickle;
    private readonly List<object?> _stack = [];
    private readonly List<int> _marks = [];
    private readonly Dictionary<uint, object?> _memo = [];
    private int _at;
    private int _opcodeAt;

    private PickleReader(string path, byte[] pickle)
    {
        _path = path;
        _pickle = pickle;
    }

    private enum Name { RebuildTensor, OrderedDict, FloatStorage, HalfStorage, BFloat16Storage }

    private sealed record Storage(string Type, string Key, long Elements);

    /// <summary>A dict, made by <c>}</c> or by calling OrderedDict; in the order of insertion.</summary>
    private sealed class Dict
    {
        private Dictionary<string, object?>? _entries;
        public IEnumerable<KeyValuePair<string, object?>> Entries => _entries ?? [];
        public void Set(string key, object? value) => (_entries ??= new(StringComparer.Ordinal))[key] = value;
    }

    /// <summary><paramref name="path"/> is for messages; <paramref name="pickle"/> is the whole of <c>data.pkl</c>.</summary>
    public static IReadOnlyDictionary<string, PickledTensor> Read(string path, byte[] pickle)
    {
        if (pickle.Length > MaxBytes) throw new ModelFormatException(path, $"data.pkl has {pickle.Length} bytes, at most {MaxBytes} are read; {WayOut}");
        var tensors = new Dictionary<string, PickledTensor>(StringComparer.Ordinal);
        var reader = new PickleReader(path, pickle);
        if (reader.Run() is not Dict top) throw reader.Refuse("data.pkl holds something else than a dict");
        foreach ((string name, object? value) in top.Entries)
            tensors.Add(name, value as PickledTensor ?? throw reader.Refuse($"entry {name} of data.pkl is not a tensor"));
        return tensors;
    }

    private object? Run()
    {
        for (int step = 0; step < MaxSteps; step++)
        {
            _opcodeAt = _at;
            byte opcode = Take(1)[0];
            switch ((char)opcode)
            {
                case '\x80':
                    if (Take(1)[0] is < 2 or > 5) throw Refuse($"data.pkl is of pickle protocol {_pickle[_at - 1]}");
                    break;
                case '\x95': Take(8); break; // FRAME: a hint about lengths
                case '.': return _stack.Count == 1 && _marks.Count == 0 ? _stack[0] : throw Damaged("ends with more or less than one value");
                case '(': _marks.Add(_stack.Count); break;
                case 'N': _stack.Add(null); break;
                case '\x88': _stack.Add(true); break;
                case '\x89': _stack.Add(false); break;
                case 'K': _stack.Add((long)Take(1)[0]); break;
                case 'M': _stack.Add((long)BinaryPrimitives.ReadUInt16LittleEndian(Take(2))); break;
                case 'J': _stack.Add((long)BinaryPrimitives.ReadInt32LittleEndian(Take(4))); break;
                case '\x8a': _stack.Add(Long(Take(Take(1)[0]))); break;
                case 'X': _stack.Add(Text(Take(Length(BinaryPrimitives.ReadUInt32LittleEndian(Take(4)))))); break;
                case '\x8c': _stack.Add(Text(Take(Take(1)[0]))); break;
                case '}': _stack.Add(new Dict()); break;
                case ')': _stack.Add(Array.Empty<object?>()); break;
                case '\x85': _stack.Add(PopLast(1)); break;
                case '\x86': _stack.Add(PopLast(2)); break;
                case '\x87': _stack.Add(PopLast(3)); break;
                case 't': _stack.Add(PopMarked()); break;
                case 'q': _memo[Take(1)[0]] = Top(); break;
                case 'r': _memo[BinaryPrimitives.ReadUInt32LittleEndian(Take(4))] = Top(); break;
                case '\x94': _memo[(uint)_memo.Count] = Top(); break;
                case 'h': _stack.Add(Recall(Take(1)[0])); break;
                case 'j': _stack.Add(Recall(BinaryPrimitives.ReadUInt32LittleEndian(Take(4)))); break;
                case 'c': _stack.Add(Known(Line(), Line())); break;
                case '\x93':
                    object?[] names = PopLast(2);
                    _stack.Add(names is [string module, string name] ? Known(module, name) : throw Damaged("names a global with something else than text"));
                    break;
                case 'Q': _stack.Add(OpenStorage(PopLast(1)[0])); break;
                case 'R': Call(); break;
                case 's': SetItems(PopLast(2)); break;
                case 'u': SetItems(PopMarked()); break;
                case 'b': Build(); break;
                default: throw Refuse($"data.pkl uses opcode 0x{opcode:x2}{OpcodeName(opcode)}");
            }
        }
        throw Refuse($"data.pkl takes more than {MaxSteps} steps");
    }

    private void Call()
    {
        object?[] call = PopLast(2);
        _stack.Add(call switch
        {
            [Name.OrderedDict, object?[] { Length: 0 }] => new Dict(),
            [Name.RebuildTensor, object?[] { Length: >= 4 and <= 7 } arguments] => Rebuild(arguments),
            [Name called, _] => throw Refuse($"data.pkl calls {called} with other arguments than a tensor has"),
            _ => throw Refuse("data.pkl calls something that is no name"),
        });
    }

    /// <summary>The arguments: storage, first element, shape, strides, then whether a gradient is wanted and what hooks there are: both without meaning here.</summary>
    private PickledTensor Rebuild(object?[] arguments)
    {
        if (arguments is not [Storage storage, long first, object?[] sizes, object?[] steps, ..] || sizes.Length != steps.Length || sizes.Length > MaxDims)
            throw Refuse("data.pkl describes a tensor in another way than torch does");
        if (arguments.Length > 5 && arguments[5] is not (null or Dict)) throw Refuse("data.pkl gives a tensor hooks");
        long[] shape = new long[sizes.Length];
        Int128 elements = 1;
        for (int i = shape.Length - 1; i >= 0; i--)
        {
            if (sizes[i] is not long n || n < 0 || steps[i] is not long stride) throw Damaged("gives a tensor a shape that is not of whole numbers");
            // Nothing is stepped over along a dimension of one.
            if (n > 1 && stride != elements) throw Refuse("data.pkl holds a tensor that is transposed or a slice: call .contiguous() before saving");
            shape[i] = n;
            elements *= n;
            if (elements > storage.Elements) throw Damaged($"gives a tensor more numbers than its storage {storage.Key} has ({storage.Elements})");
        }
        if (first < 0 || first > storage.Elements - (long)elements) throw Damaged($"puts a tensor outside of its storage {storage.Key}");
        return new PickledTensor(storage.Type, storage.Key, storage.Elements, first, shape);
    }

    /// <summary>The persistent id of a storage: ("storage", its class, its key, its device, its number of elements).</summary>
    private Storage OpenStorage(object? id)
    {
        if (id is not object?[] { Length: 5 } parts || parts is not ["storage", Name type, string key, string, long elements] || elements < 0)
            throw Refuse("data.pkl refers to something else than a storage");
        return new Storage(type switch
        {
            Name.FloatStorage => "F32",
            Name.HalfStorage => "F16",
            Name.BFloat16Storage => "BF16",
            _ => throw Refuse($"data.pkl takes {type} for a storage"),
        }, key, elements);
    }

    private Name Known(string module, string name) => (module, name) switch
    {
        ("torch._utils", "_rebuild_tensor_v2") => Name.RebuildTensor,
        ("collections", "OrderedDict") => Name.OrderedDict,
        ("torch", "FloatStorage") => Name.FloatStorage,
        ("torch", "HalfStorage") => Name.HalfStorage,
        ("torch", "BFloat16Storage") => Name.BFloat16Storage,
        _ => throw Refuse($"data.pkl names {module}.{name}"),
    };

    private void SetItems(object?[] items)
    {
        if (Top() is not Dict dict || items.Length % 2 != 0) throw Damaged("sets items of something that is no dict");
        for (int i = 0; i < items.Length; i += 2)
            dict.Set(items[i] as string ?? throw Refuse("data.pkl holds a dict whose keys are not text"), items[i + 1]);
    }

    /// <summary>Attributes of an OrderedDict: torch keeps version numbers there, which nothing here needs.</summary>
    private void Build()
    {
        object?[] pair = PopLast(2);
        _stack.Add(pair is [Dict target, Dict] ? target : throw Refuse("data.pkl sets attributes of something else than a dict"));
    }

    private object? Top() => _stack.Count > Floor ? _stack[^1] : throw Damaged("takes from an empty stack");

    /// <summary>What lies before the last mark is out of reach.</summary>
    private int Floor => _marks.Count > 0 ? _marks[^1] : 0;

    private object?[] PopLast(int count)
    {
        if (_stack.Count - Floor < count) throw Damaged("takes from an empty stack");
        return Pop(_stack.Count - count);
    }

    private object?[] PopMarked()
    {
        if (_marks.Count == 0) throw Damaged("ends a group that was not begun");
        int from = _marks[^1];
        _marks.RemoveAt(_marks.Count - 1);
        return Pop(from);
    }

    private object?[] Pop(int from)
    {
        object?[] values = new object?[_stack.Count - from];
        _stack.CopyTo(from, values, 0, values.Length);
        _stack.RemoveRange(from, values.Length);
        return values;
    }

    private object? Recall(uint index) => _memo.TryGetValue(index, out object? value) ? value : throw Damaged($"recalls memo {index}, which was never set");

    private int Length(uint length) => length <= _pickle.Length - _at ? (int)length : throw Damaged($"has text of {length} bytes");

    private ReadOnlySpan<byte> Take(int count)
    {
        if (count > _pickle.Length - _at) throw Damaged("ends in the middle");
        _at += count;
        return _pickle.AsSpan(_at - count, count);
    }

    private string Line()
    {
        int length = _pickle.AsSpan(_at).IndexOf((byte)'\n');
        if (length is < 0 or > 256) throw Damaged("names a global of more than 256 bytes");
        string line = Text(Take(length));
        _at++;
        return line;
    }

    private long Long(ReadOnlySpan<byte> little)
    {
        if (little.Length > 8) throw Damaged("has a number of more than 64 bits");
        long n = little.Length > 0 && (sbyte)little[^1] < 0 ? -1 : 0;
        for (int i = little.Length - 1; i >= 0; i--) n = n << 8 | little[i];
        return n;
    }

    private static string Text(ReadOnlySpan<byte> utf8) => Encoding.UTF8.GetString(utf8);

    private static string OpcodeName(byte opcode) => (char)opcode switch
    {
        'i' => " (INST, which makes an object)",
        'o' => " (OBJ, which makes an object)",
        '\x81' => " (NEWOBJ, which makes an object)",
        '\x92' => " (NEWOBJ_EX, which makes an object)",
        '\x82' or '\x83' or '\x84' => " (EXT, which names a registered object)",
        'P' => " (PERSID)",
        ']' or 'l' => " (a list)",
        'a' or 'e' => " (items of a list)",
        'G' or 'F' => " (a float)",
        _ => opcode is > 32 and < 127 ? $" '{(char)opcode}'" : "",
    };

    private ModelFormatException Refuse(string what) => new(_path, string.Create(CultureInfo.InvariantCulture, $"{what} (byte {_opcodeAt} of it); {WayOut}"));
    private ModelFormatException Damaged(string what) => new(_path, string.Create(CultureInfo.InvariantCulture, $"data.pkl is damaged at byte {_opcodeAt}: it {what}; download it again"));
}
