using System.Security.Cryptography;
using System.Text;
using FlashOrleans.Flash;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// Writes a GGUF file (version 3), streaming: first everything that the front says (<see cref="Key"/>, <see cref="Declare"/>), then <see cref="Begin"/>, then the tensors' bytes in the
/// order of their declaration, in pieces of any size. The file grows under a temporary name beside the target with its whole length reserved, so that a disk without room is refused at once;
/// <see cref="Complete"/> gives it its name, disposing without it leaves nothing. One thread. A disk at fault is a <see cref="FlashException"/>.
/// </summary>
internal sealed class GgufWriter : IDisposable
{
    private const int Alignment = 32;
    private readonly string _path, _temporary;
    private readonly MemoryStream _keys = new(), _infos = new();
    private readonly List<long> _ends = [];
    private FileStream? _file;
    private int _keyCount, _tensor;
    private long _dataBytes, _written;

    public GgufWriter(string path)
    {
        _path = Path.GetFullPath(path);
        _temporary = $"{_path}.tmp-{Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(8))}";
    }

    /// <summary>Bytes of the whole file, once everything is declared.</summary>
    public long Bytes => Front + _dataBytes;

    private long Front => Aligned(24 + _keys.Length + _infos.Length);

    public GgufWriter Key(string key, object value)
    {
        Text(_keys, key);
        Value(_keys, value);
        _keyCount++;
        return this;
    }

    /// <param name="name">The tensor's name.</param>
    /// <param name="type">How its numbers are stored.</param>
    /// <param name="dims">In the file's order, length of a row first.</param>
    public GgufWriter Declare(string name, GgufType type, params ReadOnlySpan<long> dims)
    {
        (int values, int bytes) = GgufTypes.Block(type);
        if (dims[0] % values != 0) throw new ArgumentException($"rows of {dims[0]} do not divide into the blocks of {values} of {type}", nameof(dims));
        Text(_infos, name);
        U32(_infos, (uint)dims.Length);
        long numbers = 1;
        foreach (long n in dims)
        {
            U64(_infos, (ulong)n);
            numbers *= n;
        }
        U32(_infos, (uint)type);
        U64(_infos, (ulong)_dataBytes);
        _ends.Add(_dataBytes + numbers / values * bytes);
        _dataBytes = Aligned(_ends[^1]);
        return this;
    }

    /// <summary>Reserves the file and writes its front.</summary>
    public void Begin() => Guard(() =>
    {
        Directory.CreateDirectory(Path.GetDirectoryName(_path)!);
        _file = new FileStream(_temporary, new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, BufferSize = 0, PreallocationSize = Bytes });
        var front = new MemoryStream();
        front.Write("GGUF"u8);
        U32(front, 3);
        U64(front, (ulong)_ends.Count);
        U64(front, (ulong)_keyCount);
        _keys.WriteTo(front);
        _infos.WriteTo(front);
        front.SetLength(Front);
        front.WriteTo(_file);
    });

    /// <summary>The next bytes of the tensor that is not complete yet; never of two tensors at once.</summary>
    public void Write(ReadOnlyMemory<byte> bytes)
    {
        if (_tensor == _ends.Count || bytes.Length > _ends[_tensor] - _written) throw new InvalidOperationException($"{bytes.Length} bytes are more than tensor {_tensor} of {_path} has room for");
        Guard(() => _file!.Write(bytes.Span));
        _written += bytes.Length;
        if (_written < _ends[_tensor]) return;
        long padding = Aligned(_written) - _written;
        if (padding > 0) Guard(() => _file!.Write(stackalloc byte[(int)padding]));
        _written += padding;
        _tensor++;
    }

    /// <summary>Flushes to the device and gives the file its name, in the place of one that had it.</summary>
    public void Complete()
    {
        if (_tensor != _ends.Count) throw new InvalidOperationException($"{_ends.Count - _tensor} tensors of {_path} were not written");
        Guard(() =>
        {
            _file!.Flush(flushToDisk: true);
            _file.Dispose();
            File.Move(_temporary, _path, overwrite: true);
            _file = null;
        });
    }

    public void Dispose()
    {
        if (_file == null) return;
        _file.Dispose();
        _file = null;
        File.Delete(_temporary);
    }

    private void Guard(Action write)
    {
        try
        {
            write();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            const int enospc = 28, windowsDiskFull = unchecked((int)0x80070070);
            throw new FlashException(e.HResult is enospc or windowsDiskFull
                ? $"{_path}: the file needs {(Bytes + (1 << 20) - 1) >> 20} MiB and the disk has not so much free: make room, or choose another place"
                : $"{_path}: cannot be written: {ModelFormatException.OneLine(e.Message)}", e);
        }
    }

    private static void Value(MemoryStream to, object value)
    {
        U32(to, (uint)TypeOf(value));
        Payload(to, value);
    }

    private static GgufValueType TypeOf(object value) => value switch
    {
        uint => GgufValueType.UInt32,
        int => GgufValueType.Int32,
        ulong => GgufValueType.UInt64,
        float => GgufValueType.Float32,
        bool => GgufValueType.Bool,
        string => GgufValueType.String,
        IReadOnlyList<string> or IReadOnlyList<int> => GgufValueType.Array,
        _ => throw new ArgumentException($"a value of type {value.GetType().Name} has no place in the metadata", nameof(value)),
    };

    private static void Payload(MemoryStream to, object value)
    {
        switch (value)
        {
            case uint v: U32(to, v); break;
            case int v: U32(to, (uint)v); break;
            case ulong v: U64(to, v); break;
            case float v: U32(to, BitConverter.SingleToUInt32Bits(v)); break;
            case bool v: to.WriteByte(v ? (byte)1 : (byte)0); break;
            case string v: Text(to, v); break;
            case IReadOnlyList<string> v:
                U32(to, (uint)GgufValueType.String);
                U64(to, (ulong)v.Count);
                foreach (string element in v) Text(to, element);
                break;
            case IReadOnlyList<int> v:
                U32(to, (uint)GgufValueType.Int32);
                U64(to, (ulong)v.Count);
                foreach (int element in v) U32(to, (uint)element);
                break;
        }
    }

    private static void Text(MemoryStream to, string text)
    {
        byte[] utf8 = Encoding.UTF8.GetBytes(text);
        U64(to, (ulong)utf8.Length);
        to.Write(utf8);
    }

    private static void U32(MemoryStream to, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        System.Buffers.Binary.BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        to.Write(bytes);
    }

    private static void U64(MemoryStream to, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        System.Buffers.Binary.BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        to.Write(bytes);
    }

    private static long Aligned(long bytes) => (bytes + Alignment - 1) & -Alignment;
}
