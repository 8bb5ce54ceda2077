using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// The metadata of a GGUF model (of its first part, when it is split), by key. Values are read from the file when asked for, so nothing large is
/// kept; an accessor returns null when there is no such key, and refuses a value of another kind or range, naming the key, its place and its
/// type. Whole numbers of every width answer to every whole-number accessor that can hold them: writers do not agree on widths. Any thread.
/// </summary>
internal sealed class GgufMetadata(BinaryFile file, IReadOnlyDictionary<string, GgufValue> values)
{
    /// <summary>Far above any vocabulary or list of merges; what bounds the memory of a hostile array of tiny strings.</summary>
    private const int MaxStrings = 2 << 20;
    private static readonly UTF8Encoding Strict = new(false, throwOnInvalidBytes: true);

    public string Path => file.Path;
    public IEnumerable<string> Keys => values.Keys;
    public bool Has(string key) => values.ContainsKey(key);

    /// <summary>Where and of what type a value is; null when there is none.</summary>
    public GgufValue? Find(string key) => values.TryGetValue(key, out GgufValue value) ? value : null;

    public string Architecture => RequireString("general.architecture");

    public string? String(string key) => Find(key) is not { } v ? null : v.Type == GgufValueType.String ? Text(key, v.Offset, v.Bytes) : throw Wrong(key, v, "a string");
    public bool? Bool(string key) => Find(key) is not { } v ? null : v.Type == GgufValueType.Bool ? Truth(key, v.Offset, Scalar(v) != 0, Scalar(v)) : throw Wrong(key, v, "true or false");

    /// <summary>A float32 or float64; whole numbers are taken as well.</summary>
    public float? Float32(string key)
    {
        if (Find(key) is not { } v) return null;
        return v.Type switch
        {
            GgufValueType.Float32 => BitConverter.UInt32BitsToSingle((uint)Scalar(v)),
            GgufValueType.Float64 => (float)BitConverter.UInt64BitsToDouble(Scalar(v)),
            _ when IsWhole(v.Type) => (float)Whole(v.Type, Scalar(v)),
            _ => throw Wrong(key, v, "a number"),
        };
    }

    public int? Int32(string key) => (int?)Whole(key, int.MinValue, int.MaxValue);
    public uint? UInt32(string key) => (uint?)Whole(key, 0, uint.MaxValue);
    public long? Int64(string key) => (long?)Whole(key, long.MinValue, long.MaxValue);
    public ulong? UInt64(string key) => (ulong?)Whole(key, 0, ulong.MaxValue);

    public string RequireString(string key) => String(key) ?? throw Missing(key);
    public int RequireInt32(string key) => Int32(key) ?? throw Missing(key);
    public float RequireFloat32(string key) => Float32(key) ?? throw Missing(key);

    /// <summary>An array of strings.</summary>
    public string[]? Strings(string key)
    {
        if (Find(key) is not { } v) return null;
        if (v.Type != GgufValueType.Array || v.Element != GgufValueType.String) throw Wrong(key, v, "an array of strings");
        if (v.Count > MaxStrings) throw file.Error($"metadata {key} at byte {v.Offset} has {v.Count} strings, at most {MaxStrings} are read");
        byte[] bytes = Read(v);
        string[] strings = new string[v.Count];
        int at = 0;
        for (int i = 0; i < strings.Length; i++)
        {
            // The lengths were checked when the file was opened.
            int length = (int)BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(at));
            strings[i] = Text($"{key}[{i}]", v.Offset + at + 8, bytes.AsSpan(at + 8, length));
            at += 8 + length;
        }
        return strings;
    }

    /// <summary>An array of whole numbers of any width, each within int.</summary>
    public int[]? Int32s(string key)
    {
        if (Find(key) is not { } v) return null;
        if (v.Type != GgufValueType.Array || !IsWhole(v.Element)) throw Wrong(key, v, "an array of whole numbers");
        byte[] bytes = Read(v);
        int width = GgufHeader.ScalarBytes(v.Element);
        int[] numbers = new int[v.Count];
        for (int i = 0; i < numbers.Length; i++)
        {
            Int128 n = Whole(v.Element, Little(bytes.AsSpan(i * width, width)));
            numbers[i] = n >= int.MinValue && n <= int.MaxValue ? (int)n : throw file.Error($"metadata {key}[{i}] at byte {v.Offset + (long)i * width} is {n}, beyond the range of {int.MinValue} to {int.MaxValue}");
        }
        return numbers;
    }

    /// <summary>An array of float32 or float64.</summary>
    public float[]? Float32s(string key)
    {
        if (Find(key) is not { } v) return null;
        if (v.Type != GgufValueType.Array || v.Element is not (GgufValueType.Float32 or GgufValueType.Float64)) throw Wrong(key, v, "an array of floats");
        byte[] bytes = Read(v);
        return v.Element == GgufValueType.Float32
            ? MemoryMarshal.Cast<byte, float>(bytes).ToArray()
            : Array.ConvertAll(MemoryMarshal.Cast<byte, double>(bytes).ToArray(), static d => (float)d);
    }

    public bool[]? Bools(string key)
    {
        if (Find(key) is not { } v) return null;
        if (v.Type != GgufValueType.Array || v.Element != GgufValueType.Bool) throw Wrong(key, v, "an array of true and false");
        byte[] bytes = Read(v);
        bool[] flags = new bool[bytes.Length];
        for (int i = 0; i < flags.Length; i++) flags[i] = Truth($"{key}[{i}]", v.Offset + i, bytes[i] != 0, bytes[i]);
        return flags;
    }

    /// <summary>One number per layer: an array of <paramref name="layers"/> whole numbers, or one number that holds for all of them.</summary>
    public int[]? Int32PerLayer(string key, int layers)
    {
        if (Find(key) is not { } v) return null;
        if (v.Type != GgufValueType.Array)
        {
            int[] same = new int[layers];
            Array.Fill(same, RequireInt32(key));
            return same;
        }
        if (v.Count != layers) throw file.Error($"metadata {key} at byte {v.Offset} has {v.Count} numbers for {layers} layers");
        return Int32s(key);
    }

    /// <summary>The vocabulary by id, as the file spells it.</summary>
    public string[]? Tokens => Strings("tokenizer.ggml.tokens");

    /// <summary>One per token, of SentencePiece vocabularies.</summary>
    public float[]? Scores => Float32s("tokenizer.ggml.scores");

    /// <summary>One per token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.</summary>
    public int[]? TokenTypes => Int32s("tokenizer.ggml.token_type");

    /// <summary>In the order of their ranks, each "left right", of byte-level vocabularies.</summary>
    public string[]? Merges => Strings("tokenizer.ggml.merges");

    public ModelFormatException Missing(string key) => file.Error($"metadata {key} is missing; the file is incomplete or of a model that this version does not know");

    private ModelFormatException Wrong(string key, GgufValue v, string wanted)
    {
        string type = v.Type == GgufValueType.Array ? $"array of {v.Element}" : v.Type.ToString();
        return file.Error($"metadata {key} at byte {v.Offset} is of type {type}, not {wanted}; the file is damaged or was made by an unusual converter");
    }

    private Int128? Whole(string key, Int128 least, Int128 most)
    {
        if (Find(key) is not { } v) return null;
        if (!IsWhole(v.Type)) throw Wrong(key, v, "a whole number");
        Int128 n = Whole(v.Type, Scalar(v));
        return n >= least && n <= most ? n : throw file.Error($"metadata {key} at byte {v.Offset} is {n}, beyond the range of {least} to {most}");
    }

    private bool Truth(string key, long offset, bool value, ulong raw) =>
        raw <= 1 ? value : throw file.Error($"metadata {key} at byte {offset} is {raw}, neither false (0) nor true (1); the file is damaged");

    private ulong Scalar(GgufValue v)
    {
        Span<byte> bytes = stackalloc byte[8];
        bytes = bytes[..(int)v.Bytes];
        file.Read(v.Offset, bytes);
        return Little(bytes);
    }

    private byte[] Read(GgufValue v)
    {
        byte[] bytes = new byte[v.Bytes];
        file.Read(v.Offset, bytes);
        return bytes;
    }

    private string Text(string key, long offset, long length)
    {
        byte[] bytes = new byte[length];
        file.Read(offset, bytes);
        return Text(key, offset, bytes);
    }

    private string Text(string key, long offset, ReadOnlySpan<byte> bytes)
    {
        try
        {
            return Strict.GetString(bytes);
        }
        catch (DecoderFallbackException e)
        {
            throw new ModelFormatException(file.Path, $"metadata {key} at byte {offset} is not UTF-8; the file is damaged", e);
        }
    }

    private static bool IsWhole(GgufValueType type) =>
        type is not (GgufValueType.Float32 or GgufValueType.Float64 or GgufValueType.Bool or GgufValueType.String or GgufValueType.Array);

    private static Int128 Whole(GgufValueType type, ulong raw) => type switch
    {
        GgufValueType.Int8 => (sbyte)raw,
        GgufValueType.Int16 => (short)raw,
        GgufValueType.Int32 => (int)raw,
        GgufValueType.Int64 => (long)raw,
        _ => raw,
    };

    private static ulong Little(ReadOnlySpan<byte> bytes)
    {
        ulong n = 0;
        for (int i = bytes.Length - 1; i >= 0; i--) n = n << 8 | bytes[i];
        return n;
    }
}
