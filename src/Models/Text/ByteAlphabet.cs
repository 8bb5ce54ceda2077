using System.Text;

namespace FlashOrleans.Models.Text;

/// <summary>
/// The 256 printable characters by which byte-level BPE writes bytes in its vocabulary (published with GPT-2): printable Latin-1
/// bytes stand for themselves, the other 68 follow from U+0100 in ascending order. Immutable; any thread.
/// </summary>
internal static class ByteAlphabet
{
    private static readonly char[] s_chars = Make();
    private static readonly short[] s_bytes = Invert(s_chars);

    public static char Char(byte value) => s_chars[value];

    /// <summary>Writes a piece of text as one character per UTF-8 byte; an unpaired surrogate counts as U+FFFD.</summary>
    public static string Write(ReadOnlySpan<char> text)
    {
        var bytes = new byte[Encoding.UTF8.GetByteCount(text)];
        Encoding.UTF8.GetBytes(text, bytes);
        return string.Create(bytes.Length, bytes, static (chars, source) =>
        {
            for (int i = 0; i < source.Length; i++) chars[i] = s_chars[source[i]];
        });
    }

    /// <summary>The bytes a vocabulary entry stands for. An entry with any character outside the alphabet (added tokens) is plain text.</summary>
    public static byte[] Read(string entry)
    {
        var bytes = new byte[entry.Length];
        for (int i = 0; i < entry.Length; i++)
        {
            if (entry[i] >= s_bytes.Length || s_bytes[entry[i]] < 0) return Encoding.UTF8.GetBytes(entry);
            bytes[i] = (byte)s_bytes[entry[i]];
        }
        return bytes;
    }

    private static char[] Make()
    {
        var chars = new char[256];
        int next = 256;
        for (int b = 0; b < 256; b++)
            chars[b] = b is >= '!' and <= '~' or >= 0xA1 and <= 0xAC or >= 0xAE ? (char)b : (char)next++;
        return chars;
    }

    private static short[] Invert(char[] chars)
    {
        var bytes = new short[chars.Max() + 1];
        Array.Fill(bytes, (short)-1);
        for (int b = 0; b < 256; b++) bytes[chars[b]] = (short)b;
        return bytes;
    }
}
