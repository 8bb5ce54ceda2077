using System.Globalization;
using System.Text;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models.Tests.Text;

/// <summary>The metadata of a well-formed GGUF file, read without a check: enough to fill a <see cref="VocabularySource"/> from a golden file.</summary>
internal static class GgufMetadata
{
    public static VocabularySource Vocabulary(string path)
    {
        var all = Read(path);
        return new()
        {
            Model = (string)all["tokenizer.ggml.model"],
            Pre = all.GetValueOrDefault("tokenizer.ggml.pre") as string,
            Name = all.GetValueOrDefault("general.name") as string,
            Tokens = List("tokens", static v => (string)v),
            Scores = List("scores", static v => (float)v),
            TokenTypes = List("token_type", static v => Convert.ToInt32(v, CultureInfo.InvariantCulture)),
            Merges = List("merges", static v => (string)v),
            Bos = Id("bos_token_id"),
            Eos = Id("eos_token_id"),
            Eot = Id("eot_token_id"),
            Unknown = Id("unknown_token_id"),
            Padding = Id("padding_token_id"),
            AddBos = all.GetValueOrDefault("tokenizer.ggml.add_bos_token") as bool?,
            AddEos = all.GetValueOrDefault("tokenizer.ggml.add_eos_token") as bool?,
            AddSpacePrefix = all.GetValueOrDefault("tokenizer.ggml.add_space_prefix") as bool?,
            ChatTemplate = all.GetValueOrDefault("tokenizer.chat_template") as string,
        };

        T[] List<T>(string name, Func<object, T> read) => all.TryGetValue("tokenizer.ggml." + name, out object? list) ? [.. ((object[])list).Select(read)] : [];
        int? Id(string name) => all.TryGetValue("tokenizer.ggml." + name, out object? id) ? Convert.ToInt32(id, CultureInfo.InvariantCulture) : null;
    }

    private static Dictionary<string, object> Read(string path)
    {
        using var reader = new BinaryReader(File.OpenRead(path));
        Assert.Equal("GGUF"u8, reader.ReadBytes(4));
        reader.ReadBytes(4 + 8); // version, tensor count
        var values = new Dictionary<string, object>(StringComparer.Ordinal);
        for (ulong n = reader.ReadUInt64(); n > 0; n--)
        {
            string key = String(reader);
            values[key] = Value(reader, reader.ReadInt32());
        }
        return values;
    }

    private static string String(BinaryReader reader) => Encoding.UTF8.GetString(reader.ReadBytes((int)reader.ReadUInt64()));

    private static object Value(BinaryReader reader, int type)
    {
        switch (type)
        {
            case 0: return reader.ReadByte();
            case 1: return reader.ReadSByte();
            case 2: return reader.ReadUInt16();
            case 3: return reader.ReadInt16();
            case 4: return reader.ReadUInt32();
            case 5: return reader.ReadInt32();
            case 6: return reader.ReadSingle();
            case 7: return reader.ReadBoolean();
            case 8: return String(reader);
            case 9:
                int of = reader.ReadInt32();
                object[] values = new object[reader.ReadUInt64()];
                for (int i = 0; i < values.Length; i++) values[i] = Value(reader, of);
                return values;
            case 10: return reader.ReadUInt64();
            case 11: return reader.ReadInt64();
            case 12: return reader.ReadDouble();
            default: throw new InvalidOperationException($"metadata type {type}");
        }
    }
}
