using System.Text;
using FlashOrleans.Models.Gguf;

namespace FlashOrleans.Tests;

/// <summary>Writes GGUF files for tests, field by field, right or wrong as the test wants.</summary>
internal sealed class GgufBuilder
{
    private readonly List<byte> _keys = [];
    private readonly List<(string Name, GgufType Type, long[] Dims, byte[] Data)> _tensors = [];
    private ulong _keyCount;

    public string Magic { get; init; } = "GGUF";
    public uint Version { get; init; } = 3;
    public int Alignment { get; init; } = 32;

    public GgufBuilder Key(string key, object value)
    {
        (GgufValueType type, byte[] bytes) = Encode(value);
        _keys.AddRange([.. Encode(key).Bytes, .. BitConverter.GetBytes((uint)type), .. bytes]);
        _keyCount++;
        return this;
    }

    public GgufBuilder Tensor(string name, GgufType type, long[] dims, byte[] data)
    {
        _tensors.Add((name, type, dims, data));
        return this;
    }

    public GgufBuilder Tensor(string name, long[] dims, float[] data) => Tensor(name, GgufType.F32, dims, System.Runtime.InteropServices.MemoryMarshal.AsBytes(data.AsSpan()).ToArray());

    public byte[] Build()
    {
        var file = new MemoryStream();
        file.Write(Encoding.ASCII.GetBytes(Magic));
        U32(file, Version);
        U64(file, (ulong)_tensors.Count);
        U64(file, _keyCount);
        file.Write([.. _keys]);
        var data = new MemoryStream();
        foreach ((string name, GgufType type, long[] dims, byte[] bytes) in _tensors)
        {
            Text(file, name);
            U32(file, (uint)dims.Length);
            foreach (long n in dims) U64(file, (ulong)n);
            U32(file, (uint)type);
            U64(file, (ulong)data.Position);
            data.Write(bytes);
            while (data.Position % Alignment != 0) data.WriteByte(0);
        }
        while (file.Position % Alignment != 0) file.WriteByte(0);
        data.WriteTo(file);
        return file.ToArray();
    }

    private static (GgufValueType Type, byte[] Bytes) Encode(object value)
    {
        var bytes = new MemoryStream();
        switch (value)
        {
            case byte v: return (GgufValueType.UInt8, [v]);
            case sbyte v: return (GgufValueType.Int8, [(byte)v]);
            case ushort v: return (GgufValueType.UInt16, BitConverter.GetBytes(v));
            case short v: return (GgufValueType.Int16, BitConverter.GetBytes(v));
            case uint v: return (GgufValueType.UInt32, BitConverter.GetBytes(v));
            case int v: return (GgufValueType.Int32, BitConverter.GetBytes(v));
            case ulong v: return (GgufValueType.UInt64, BitConverter.GetBytes(v));
            case long v: return (GgufValueType.Int64, BitConverter.GetBytes(v));
            case float v: return (GgufValueType.Float32, BitConverter.GetBytes(v));
            case double v: return (GgufValueType.Float64, BitConverter.GetBytes(v));
            case bool v: return (GgufValueType.Bool, [v ? (byte)1 : (byte)0]);
            case string v:
                Text(bytes, v);
                return (GgufValueType.String, bytes.ToArray());
            case Array v:
                // The element type of an empty array of its own, else that of the first element.
                U32(bytes, v.Length == 0 ? (uint)GgufValueType.Int32 : (uint)Encode(v.GetValue(0)!).Type);
                U64(bytes, (ulong)v.Length);
                foreach (object element in v) bytes.Write(Encode(element).Bytes);
                return (GgufValueType.Array, bytes.ToArray());
            default: throw new ArgumentException(value.GetType().Name);
        }
    }

    private static void Text(Stream to, string text)
    {
        byte[] utf8 = Encoding.UTF8.GetBytes(text);
        U64(to, (ulong)utf8.Length);
        to.Write(utf8);
    }

    private static void U32(Stream to, uint n) => to.Write(BitConverter.GetBytes(n));
    private static void U64(Stream to, ulong n) => to.Write(BitConverter.GetBytes(n));
}
