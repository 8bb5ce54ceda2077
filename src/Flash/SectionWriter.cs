using System.Buffers.Binary;
using System.IO.Hashing;
using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Flash;

/// <summary>One file of a package while it grows: where its sections go, which are done. Owned by <see cref="PackageWriter"/>, its thread.</summary>
internal sealed class PackageFileWriter : IDisposable
{
    private readonly PackageWriter _owner;
    private readonly SafeFileHandle _handle;
    private readonly SectionEntry[] _entries;
    private readonly bool[] _begun, _done;

    public PackageFileWriter(PackageWriter owner, string path, int layer, IReadOnlyList<SectionEntry> sections, int alignment)
    {
        _owner = owner;
        Path = path;
        Layer = layer;
        _entries = [.. sections];
        long end = PackageLayout.Page;
        for (int i = 0; i < _entries.Length; i++)
        {
            _entries[i] = _entries[i] with { Offset = PackageLayout.RoundUp(end, alignment) };
            end = _entries[i].End;
        }
        Bytes = PackageLayout.RoundUp(end, PackageLayout.Page);
        _begun = new bool[_entries.Length];
        _done = new bool[_entries.Length];
        _handle = File.OpenHandle(path, FileMode.CreateNew, FileAccess.Write);
        // What no section covers reads as zero.
        RandomAccess.SetLength(_handle, Bytes);
    }

    public string Path { get; }
    public int Layer { get; }
    public long Bytes { get; }

    public SectionEntry Entry(string name) => _entries[Index(name)];

    public void Begin(string name)
    {
        int index = Index(name);
        if (_begun[index]) throw new InvalidOperationException($"section {name} was begun already");
        _begun[index] = true;
    }

    public bool HasHashes(string name) => Array.Exists(_entries, e => e.Name == name + PackageLayout.HashesSuffix);

    public void Write(long offset, ReadOnlyMemory<byte> bytes)
    {
        _owner.Guard(Path, offset, () => _owner.Sink(_handle, bytes, offset));
        _owner.Wrote(bytes.Length);
    }

    public void Done(string name, ulong hash)
    {
        int index = Index(name);
        _entries[index] = _entries[index] with { Hash = hash };
        _done[index] = true;
    }

    /// <summary>Writes the per-unit checksums of a section, themselves a section.</summary>
    public void WriteHashes(string of, List<ulong> hashes)
    {
        string name = of + PackageLayout.HashesSuffix;
        Begin(name);
        byte[] bytes = new byte[hashes.Count * 8];
        for (int i = 0; i < hashes.Count; i++) BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(i * 8), hashes[i]);
        if (bytes.Length != Entry(name).Bytes) throw new InvalidOperationException($"section {name} got {bytes.Length} bytes of {Entry(name).Bytes}");
        Write(Entry(name).Offset, bytes);
        Done(name, XxHash3.HashToUInt64(bytes));
    }

    /// <summary>Writes the header and returns its hash; <see cref="Flush"/> is still to come.</summary>
    public string Complete()
    {
        int missing = Array.IndexOf(_done, false);
        if (missing >= 0) throw new InvalidOperationException($"{Path}: section {_entries[missing].Name} was not written");
        byte[] header = new SectionTable(Layer, Bytes, _entries).Encode(_owner.Version);
        Write(0, header);
        return SectionTable.Hash(header);
    }

    /// <summary>Flushes to the device and closes. Any thread.</summary>
    public void Flush()
    {
        try
        {
            _owner.Guard(Path, 0, () => RandomAccess.FlushToDisk(_handle));
        }
        finally
        {
            Dispose();
        }
    }

    public void Dispose() => _handle.Dispose();

    private int Index(string name)
    {
        int index = Array.FindIndex(_entries, e => e.Name == name);
        return index >= 0 ? index : throw new FlashException($"{Path}: a model of this shape has no section {name}");
    }
}

/// <summary>
/// Takes the bytes of one section in order, in pieces of any size. Dispose ends it: fewer or more bytes than the shape demands is an
/// error of the caller (fewer goes unreported while an exception unwinds: the file then lacks a section and cannot complete).
/// </summary>
public sealed class SectionWriter : IDisposable
{
    private const int BufferBytes = 256 << 10;
    private readonly PackageFileWriter _file;
    private readonly SectionEntry _entry;
    private readonly XxHash3 _hash = new();
    private readonly byte[] _buffer;
    private readonly int _unitBytes;
    private readonly int _units;
    private readonly List<ulong> _unitHashes = [];
    private readonly XxHash3 _unitHash = new();
    private long _flushed, _taken;
    private int _buffered, _unitFilled;
    private bool _ended;

    internal SectionWriter(PackageFileWriter file, SectionEntry entry)
    {
        file.Begin(entry.Name);
        _file = file;
        _entry = entry;
        _buffer = new byte[(int)Math.Min(BufferBytes, Math.Max(entry.Bytes, 1))];
        if (!file.HasHashes(entry.Name) || entry.Kind != SectionKind.Panels) return;
        _unitBytes = PackageLayout.EmbedUnitBytes(entry.Format, entry.Cols);
        _units = PackageLayout.EmbedUnits(entry.Format, entry.Rows);
    }

    public void Write(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length > _entry.Bytes - _taken)
            throw new InvalidOperationException($"section {_entry.Name} has {_entry.Bytes} bytes; {_taken + bytes.Length} were written");
        _taken += bytes.Length;
        _hash.Append(bytes);
        HashUnits(bytes);
        while (bytes.Length > 0)
        {
            int count = Math.Min(bytes.Length, _buffer.Length - _buffered);
            bytes[..count].CopyTo(_buffer.AsSpan(_buffered));
            _buffered += count;
            bytes = bytes[count..];
            if (_buffered == _buffer.Length) Flush();
        }
    }

    public void Dispose()
    {
        if (_ended) return;
        _ended = true;
        if (_taken != _entry.Bytes) return;
        Flush();
        if (_unitBytes > 0) _file.WriteHashes(_entry.Name, _unitHashes);
        _file.Done(_entry.Name, _hash.GetCurrentHashAsUInt64());
    }

    private void HashUnits(ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0 && _unitHashes.Count < _units)
        {
            int count = Math.Min(bytes.Length, _unitBytes - _unitFilled);
            _unitHash.Append(bytes[..count]);
            bytes = bytes[count..];
            if ((_unitFilled += count) < _unitBytes) return;
            _unitHashes.Add(_unitHash.GetCurrentHashAsUInt64());
            _unitHash.Reset();
            _unitFilled = 0;
        }
    }

    private void Flush()
    {
        if (_buffered == 0) return;
        _file.Write(_entry.Offset + _flushed, _buffer.AsMemory(0, _buffered));
        _flushed += _buffered;
        _buffered = 0;
    }
}

/// <summary>Takes the bundles of a slice neuron by neuron and lays them out in units with their checksums. Dispose as <see cref="SectionWriter"/>.</summary>
public sealed class BundleWriter : IDisposable
{
    private readonly PackageFileWriter _file;
    private readonly BundleLayout _layout;
    private readonly SectionWriter _section;
    private readonly byte[] _unit;
    private readonly List<ulong> _hashes = [];
    private int _neurons;
    private bool _ended;

    internal BundleWriter(PackageFileWriter file, SectionEntry entry, BundleLayout layout)
    {
        _file = file;
        _layout = layout;
        _section = new SectionWriter(file, entry);
        _unit = new byte[layout.Stride];
    }

    public BundleLayout Layout => _layout;

    /// <summary>The next neuron, in stored order: up row, down row and, when gated, gate row; where bundles are lean, without the one that decides.</summary>
    public void WriteNeuron(ReadOnlySpan<byte> bundle) => Write(bundle, _layout.Slabs ? 0 : _layout.BundleBytes, 1);

    /// <summary>The next neurons of a unit as a slab: <see cref="BundleLayout.SlabNeurons"/>, or as many as there are up to its end.</summary>
    public void WriteSlab(ReadOnlySpan<byte> slab) => Write(slab, _layout.Slabs ? _layout.SlabBytes : 0, BundleLayout.SlabNeurons);

    private void Write(ReadOnlySpan<byte> bytes, int expected, int neurons)
    {
        if (bytes.Length != expected) throw new InvalidOperationException($"{neurons} neurons of this layer have {expected} bytes, not {bytes.Length}");
        if (_neurons == _layout.Neurons) throw new InvalidOperationException($"a layer has {_layout.Neurons} neurons; one more was written");
        int j = _neurons % _layout.Group;
        if (j == 0) Array.Clear(_unit);
        bytes.CopyTo(_unit.AsSpan(_layout.Slabs ? _layout.SlabOffset(j) : _layout.UpOffset(j)));
        neurons = Math.Min(neurons, Math.Min(_layout.Group - j, _layout.Neurons - _neurons));
        _neurons += neurons;
        if (j + neurons < _layout.Group && _neurons < _layout.Neurons) return;
        for (int span = 0; span < 2; span++)
        {
            (int offset, int count) = _layout.Span(span);
            _hashes.Add(count == 0 ? 0 : XxHash3.HashToUInt64(_unit.AsSpan(offset, count)));
        }
        _section.Write(_unit);
    }

    public void Dispose()
    {
        if (_ended) return;
        _ended = true;
        _section.Dispose();
        if (_neurons == _layout.Neurons) _file.WriteHashes(PackageLayout.Bundles, _hashes);
    }
}
