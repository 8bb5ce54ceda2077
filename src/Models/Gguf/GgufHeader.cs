using System.Buffers.Binary;
using System.Numerics;

namespace FlashOrleans.Models.Gguf;

/// <summary>The kinds of metadata values, with the numbers that the file uses.</summary>
internal enum GgufValueType : uint
{
    UInt8 = 0, Int8 = 1, UInt16 = 2, Int16 = 3, UInt32 = 4, Int32 = 5, Float32 = 6, Bool = 7, String = 8, Array = 9, UInt64 = 10, Int64 = 11, Float64 = 12,
}

/// <summary>
/// Where a metadata value is: of an array also its element type and count. <c>Offset</c> is the first byte of the value itself, after the length
/// of a string and after the type and count of an array. Values stay in the file until they are asked for.
/// </summary>
internal readonly record struct GgufValue(GgufValueType Type, GgufValueType Element, long Count, long Offset, long Bytes);

/// <summary>
/// The front of one GGUF file: magic, version, metadata, tensor table. <see cref="Read"/> walks it once, checks everything that can be checked
/// without knowing the model, and keeps positions, not values: memory depends on the number of keys and tensors, not on what they claim.
/// </summary>
internal sealed class GgufHeader
{
    /// <summary>The largest known metadata (262 144 tokens and their merges) take about 15 MiB.</summary>
    private const long MaxMetadataBytes = 64 << 20;
    private const int MaxKeys = 16_384;
    private const int MaxTensors = 65_536;
    private const int MaxKeyBytes = 1_024;
    private const int MaxNameBytes = 256;
    private const int MaxDims = 4;
    private const int MaxNesting = 4;

    private readonly GgufHeaderReader _reader;
    private readonly Dictionary<string, GgufValue> _values = new(StringComparer.Ordinal);
    private readonly List<GgufTensor> _tensors = [];

    private GgufHeader(BinaryFile file) => _reader = new GgufHeaderReader(file);

    public bool IsPowerInfer { get; private set; }
    public uint Version { get; private set; }
    public IReadOnlyDictionary<string, GgufValue> Values => _values;

    /// <summary>In the order of the file; offsets count from the start of the file.</summary>
    public IReadOnlyList<GgufTensor> Tensors => _tensors;

    private BinaryFile File => _reader.File;

    /// <summary>True for a file that begins like a GGUF file, whatever its name.</summary>
    public static bool HasMagic(ReadOnlySpan<byte> start) => start.StartsWith("GGUF"u8) || start.StartsWith("PWRI"u8);

    public static GgufHeader Read(BinaryFile file, int part)
    {
        var header = new GgufHeader(file);
        (ulong tensors, ulong keys) = header.ReadStart();
        for (ulong i = 0; i < keys; i++) header.ReadKey();
        long alignment = header.Alignment();
        for (ulong i = 0; i < tensors; i++) header.ReadTensor(part);
        header.PlaceTensors(alignment);
        return header;
    }

    private (ulong Tensors, ulong Keys) ReadStart()
    {
        if (File.Length < 24) throw File.Error($"{File.Length} bytes are too few for a GGUF file; download it again");
        ReadOnlySpan<byte> magic = _reader.Take(4, "the magic");
        if (!HasMagic(magic)) throw File.Error($"is not a GGUF file: it begins with {Convert.ToHexStringLower(magic)} where \"GGUF\" or \"PWRI\" should be");
        IsPowerInfer = magic[0] == 'P';
        Version = _reader.U32("the version");
        if (BinaryPrimitives.ReverseEndianness(Version) is > 0 and < 100)
            throw File.Error("is a big-endian GGUF file (version at byte 4); only little-endian files are read: download or convert that one");
        if (Version is not (2 or 3)) throw File.Error($"has GGUF version {Version} at byte 4; versions 2 and 3 are read: convert the model again with a current converter");
        ulong tensors = _reader.U64("the number of tensors"), keys = _reader.U64("the number of metadata keys");
        if (tensors > MaxTensors) throw File.Error($"claims {tensors} tensors at byte 8, at most {MaxTensors} are read; the file is damaged");
        if (keys > MaxKeys) throw File.Error($"claims {keys} metadata keys at byte 16, at most {MaxKeys} are read; the file is damaged");
        return (tensors, keys);
    }

    private void ReadKey()
    {
        long at = _reader.Position;
        string key = _reader.Name(MaxKeyBytes, "a metadata key");
        string what = $"metadata {key}";
        GgufValueType type = ReadType(what);
        GgufValue value;
        if (type == GgufValueType.String)
        {
            ulong length = _reader.U64(what);
            value = new GgufValue(type, type, 1, _reader.Position, (long)Math.Min(length, long.MaxValue));
            _reader.Skip(length, what);
        }
        else if (type == GgufValueType.Array) value = ReadArray(what, 1);
        else
        {
            value = new GgufValue(type, type, 1, _reader.Position, ScalarBytes(type));
            _reader.Skip((ulong)value.Bytes, what);
        }
        if (!_values.TryAdd(key, value)) throw File.Error($"{what} is given twice, the second time at byte {at}; the file is damaged");
        if (_reader.Position > MaxMetadataBytes) throw File.Error($"{what} at byte {at} makes the metadata longer than {MaxMetadataBytes >> 20} MiB, which is no model's");
    }

    private GgufValueType ReadType(string what)
    {
        long at = _reader.Position;
        uint type = _reader.U32(what);
        return type <= (uint)GgufValueType.Float64 ? (GgufValueType)type : throw File.Error($"{what} has the unknown value type {type} at byte {at}; the file is damaged");
    }

    private GgufValue ReadArray(string what, int depth)
    {
        long at = _reader.Position;
        if (depth > MaxNesting) throw File.Error($"{what} has arrays nested deeper than {MaxNesting} at byte {at}; the file is damaged");
        GgufValueType element = ReadType(what);
        ulong count = _reader.U64(what);
        // What an element takes at least: the array must fit the rest of the file before it is walked.
        int least = element switch { GgufValueType.String => 8, GgufValueType.Array => 12, _ => ScalarBytes(element) };
        if (count > (ulong)_reader.Left / (ulong)least)
            throw File.Error($"{what} is an array of {count} elements at byte {at}, more than the rest of the file ({_reader.Left} bytes) can hold; download it again");
        long start = _reader.Position;
        if (element is not (GgufValueType.String or GgufValueType.Array)) _reader.Skip(count * (ulong)least, what);
        else
        {
            for (ulong i = 0; i < count; i++)
            {
                if (element == GgufValueType.String) _reader.Skip(_reader.U64(what), what);
                else ReadArray(what, depth + 1);
                // A file of any size is refused before more than this has been walked.
                if (_reader.Position > MaxMetadataBytes) throw File.Error($"{what} at byte {at} reaches beyond {MaxMetadataBytes >> 20} MiB of metadata, which is no model's");
            }
        }
        return new GgufValue(GgufValueType.Array, element, (long)count, start, _reader.Position - start);
    }

    public static int ScalarBytes(GgufValueType type) => type switch
    {
        GgufValueType.UInt8 or GgufValueType.Int8 or GgufValueType.Bool => 1,
        GgufValueType.UInt16 or GgufValueType.Int16 => 2,
        GgufValueType.UInt32 or GgufValueType.Int32 or GgufValueType.Float32 => 4,
        _ => 8,
    };

    private long Alignment()
    {
        const string key = "general.alignment";
        if (!_values.TryGetValue(key, out GgufValue value)) return 32;
        if (value.Type != GgufValueType.UInt32) throw File.Error($"metadata {key} at byte {value.Offset} is of type {value.Type}, not UInt32; the file is damaged");
        Span<byte> bytes = stackalloc byte[4];
        File.Read(value.Offset, bytes);
        uint alignment = BinaryPrimitives.ReadUInt32LittleEndian(bytes);
        return BitOperations.IsPow2(alignment) ? alignment : throw File.Error($"metadata {key} at byte {value.Offset} is {alignment}, not a power of two; the file is damaged");
    }

    /// <summary>Its offset is checked later, when it is known where the data begin.</summary>
    private void ReadTensor(int part)
    {
        long at = _reader.Position;
        string name = _reader.Name(MaxNameBytes, "a tensor name");
        string what = $"tensor {name}";
        uint dimensions = _reader.U32(what);
        if (dimensions > MaxDims) throw File.Error($"{what} at byte {at} has {dimensions} dimensions, at most {MaxDims} are allowed; the file is damaged");
        // A tensor of no dimension is one number.
        long[] dims = dimensions == 0 ? [1] : new long[dimensions];
        // No type packs more than 8 numbers into a byte, so this bound also keeps every later product far from overflow.
        UInt128 elements = 1;
        for (int i = 0; i < dimensions; i++)
        {
            ulong n = _reader.U64(what);
            elements *= n;
            if (n == 0) throw File.Error($"{what} at byte {at} has a dimension of 0; the file is damaged");
            if (elements > (UInt128)File.Length * 8)
                throw File.Error($"{what} at byte {at} has more numbers than the file ({File.Length} bytes) can hold; the file is damaged or incomplete, download it again");
            dims[i] = (long)n;
        }
        uint number = _reader.U32(what);
        var type = (GgufType)number;
        (int values, int bytes) = GgufTypes.Block(type);
        if (bytes == 0) throw File.Error($"{what} at byte {at} has {GgufTypes.Refusal(number)}");
        if (dims[0] % values != 0) throw File.Error($"{what} at byte {at} is {type} with rows of {dims[0]}, not a multiple of its block of {values}; the file is damaged");
        ulong offset = _reader.U64(what);
        if (offset > (ulong)File.Length)
            throw File.Error($"{what} at byte {at} begins at byte {offset} of the data, beyond the end of the file ({File.Length} bytes); the file is damaged or incomplete, download it again");
        _tensors.Add(new GgufTensor(name, type, dims, part, (long)offset));
    }

    private void PlaceTensors(long alignment)
    {
        long start = (_reader.Position + alignment - 1) & -alignment;
        var seen = new HashSet<string>(_tensors.Count, StringComparer.Ordinal);
        for (int i = 0; i < _tensors.Count; i++)
        {
            GgufTensor tensor = _tensors[i];
            if (!seen.Add(tensor.Name)) throw File.Error($"tensor {tensor.Name} is named twice; the file is damaged");
            if ((tensor.Offset & (alignment - 1)) != 0)
                throw File.Error($"tensor {tensor.Name} begins at byte {tensor.Offset} of the data, which is no multiple of the alignment {alignment}; the file is damaged");
            long offset = start + tensor.Offset;
            if (offset > File.Length - tensor.Bytes)
                throw File.Error($"tensor {tensor.Name} ends at byte {offset + tensor.Bytes}, the file at {File.Length}; it is incomplete, download it again");
            _tensors[i] = tensor with { Offset = offset };
        }
        GgufTensor[] ordered = [.. _tensors.OrderBy(static t => t.Offset)];
        for (int i = 1; i < ordered.Length; i++)
            if (ordered[i].Offset < ordered[i - 1].Offset + ordered[i - 1].Bytes)
                throw File.Error($"tensors {ordered[i - 1].Name} and {ordered[i].Name} overlap at byte {ordered[i].Offset}; the file is damaged");
    }
}
