using System.Buffers.Binary;
using System.Text;

namespace FlashOrleans.Models.Tests.Pickle;

/// <summary>A tensor for <see cref="TorchArchive"/>: a view of a storage, as torch pickles it.</summary>
internal sealed record Pickled(string Name, string Storage, string Key, long Elements, long First, long[] Shape, long[] Strides)
{
    public static Pickled Contiguous(string name, string storage, string key, params long[] shape)
    {
        long[] strides = new long[shape.Length];
        long elements = 1;
        for (int i = shape.Length - 1; i >= 0; i--)
        {
            strides[i] = elements;
            elements *= shape[i];
        }
        return new Pickled(name, storage, key, elements, 0, shape, strides);
    }
}

/// <summary>Writes archives as torch.save does (a zip of stored entries, among them data.pkl), right or wrong as the test wants.</summary>
internal static class TorchArchive
{
    /// <summary>The whole file: the pickle, one entry per storage, the byte order.</summary>
    public static byte[] Build(byte[] pickle, IEnumerable<(string Key, byte[] Data)> storages, string order = "little") =>
        Zip([("model/data.pkl", pickle), ("model/byteorder", Encoding.ASCII.GetBytes(order)), .. storages.Select(static s => ($"model/data/{s.Key}", s.Data)), ("model/version", "3\n"u8.ToArray())]);

    public static byte[] Predictor(int rank, int inputs, int neurons, Func<int, float> fc1, Func<int, float> fc2) => Build(
        Dict(Pickled.Contiguous("fc1.weight", "HalfStorage", "0", rank, inputs), Pickled.Contiguous("fc2.weight", "HalfStorage", "1", neurons, rank)),
        [("0", Halves(rank * inputs, fc1)), ("1", Halves(neurons * rank, fc2))]);

    public static byte[] Halves(int count, Func<int, float> value)
    {
        byte[] bytes = new byte[count * 2];
        for (int i = 0; i < count; i++) BinaryPrimitives.WriteHalfLittleEndian(bytes.AsSpan(i * 2), (Half)value(i));
        return bytes;
    }

    /// <summary>A dict of tensors with the opcodes of protocol 2, without memo.</summary>
    public static byte[] Dict(params Pickled[] tensors) => Concat(P("\u0080\u0002}("), Items(tensors), P("u."));

    /// <summary>As a module's state dict: an OrderedDict with its versions attached.</summary>
    public static byte[] StateDict(params Pickled[] tensors) => Concat(P("\u0080\u0002ccollections\nOrderedDict\n)R("), Items(tensors),
        P("u}"), Text("_metadata"), P("ccollections\nOrderedDict\n)R("), Text(""), P("}"), Text("version"), P("K\u0001susb."));

    public static byte[] Tensor(Pickled t) => Concat(P("ctorch._utils\n_rebuild_tensor_v2\n(("), Text("storage"), P($"ctorch\n{t.Storage}\n"), Text(t.Key), Text("cpu"), Number(t.Elements), P("tQ"),
        Number(t.First), Tuple(t.Shape), Tuple(t.Strides), P("\u0089ccollections\nOrderedDict\n)RtR"));

    public static byte[] P(string latin1) => Encoding.Latin1.GetBytes(latin1);

    public static byte[] Text(string text)
    {
        byte[] utf8 = Encoding.UTF8.GetBytes(text);
        return Concat(P("X"), BitConverter.GetBytes(utf8.Length), utf8);
    }

    public static byte[] Number(long n) => n is >= int.MinValue and <= int.MaxValue ? Concat(P("J"), BitConverter.GetBytes((int)n)) : Concat(P("\u008a\u0008"), BitConverter.GetBytes(n));

    public static byte[] Concat(params byte[][] parts) => [.. parts.SelectMany(static p => p)];

    public static byte[] Zip((string Name, byte[] Data)[] entries, ushort method = 0, ushort flags = 0)
    {
        var file = new MemoryStream();
        var directory = new MemoryStream();
        foreach ((string name, byte[] data) in entries)
        {
            byte[] utf8 = Encoding.UTF8.GetBytes(name);
            int local = (int)file.Position;
            byte[] common = Concat(U16(0), U16(flags), U16(method), U16(0), U16(0), U32(0), U32((uint)data.Length), U32((uint)data.Length), U16((ushort)utf8.Length));
            file.Write(Concat(U32(0x04034b50), common, U16(5), utf8, new byte[5], data));
            directory.Write(Concat(U32(0x02014b50), U16(0), common, U16(0), U16(0), U16(0), U16(0), U32(0), U32((uint)local), utf8));
        }
        int start = (int)file.Position;
        directory.WriteTo(file);
        file.Write(Concat(U32(0x06054b50), U16(0), U16(0), U16((ushort)entries.Length), U16((ushort)entries.Length), U32((uint)directory.Length), U32((uint)start), U16(0)));
        return file.ToArray();
    }

    private static byte[] Items(Pickled[] tensors) => Concat([.. tensors.Select(static t => Concat(Text(t.Name), Tensor(t)))]);
    private static byte[] Tuple(long[] numbers) => Concat(P("("), Concat([.. numbers.Select(Number)]), P("t"));
    private static byte[] U16(ushort n) => BitConverter.GetBytes(n);
    private static byte[] U32(uint n) => BitConverter.GetBytes(n);
}
