namespace FlashOrleans.Fuzz.Bench;

/// <summary>Damage to bytes and to the text of a template; that to JSON is the tests' (<see cref="FlashOrleans.Tests.JsonMutations"/>).</summary>
internal static class Mutations
{
    private static readonly ulong[] s_numbers =
    [
        0, 1, 2, 3, 31, 32, 255, 256, 511, 512, 4096, ushort.MaxValue, 1 << 16, int.MaxValue, 1ul << 31, uint.MaxValue, 1ul << 32, 1ul << 40, 1ul << 61, long.MaxValue, 1ul << 63, ulong.MaxValue,
    ];

    /// <summary>One to four changes within [from, to) of <paramref name="good"/>; a cut may be anywhere.</summary>
    /// <param name="meaning">Bytes that mean something in the format, tried more often than others.</param>
    public static byte[] Bytes(byte[] good, int from, int to, Random random, ReadOnlySpan<byte> meaning = default)
    {
        var bytes = new List<byte>(good);
        for (int n = random.Next(1, 5); n > 0; n--)
        {
            int end = Math.Min(to, bytes.Count - 8);
            if (end <= from) break;
            int at = random.Next(from, end);
            byte value = (byte)random.Next(256);
            switch (random.Next(9))
            {
                case 0: bytes[at] = value; break;
                case 1: bytes[at] ^= (byte)(1 << (value & 7)); break;
                case 2: bytes.RemoveRange(at, 1 + value % 8); break;
                case 3: bytes.InsertRange(at, Enumerable.Repeat(value, random.Next(4) == 0 ? 1 + random.Next(600) : 1)); break;
                case 4 when random.Next(3) == 0: bytes.RemoveRange(at = random.Next(bytes.Count), bytes.Count - at); break;
                case 5: bytes.InsertRange(at, bytes.GetRange(random.Next(from, end), 1 + value % 8)); break;
                case 6 when meaning.Length > 0: bytes[at] = meaning[value % meaning.Length]; break;
                default:
                    ulong number = s_numbers[random.Next(s_numbers.Length)];
                    for (int i = 0, size = random.Next(2) == 0 ? 8 : 4; i < size; i++) bytes[at + i] = (byte)(number >> (8 * i));
                    break;
            }
        }
        return [.. bytes];
    }

    /// <summary>One to six pieces cut out, doubled, moved, or put in: of <paramref name="donor"/>, or of <paramref name="pieces"/>.</summary>
    public static string Text(string text, string donor, string[] pieces, Random random)
    {
        for (int n = random.Next(1, 7); n > 0; n--)
        {
            (int at, int length) = Span(text, random);
            text = random.Next(6) switch
            {
                0 => text.Remove(at, length),
                1 => text.Insert(at, text.Substring(at, length)),
                2 => text.Remove(at, length).Insert(random.Next(text.Length - length + 1), text.Substring(at, length)),
                3 => Span(donor, random) is var (from, count) ? text.Insert(at, donor.Substring(from, count)) : text,
                _ => text.Insert(at, pieces[random.Next(pieces.Length)]),
            };
        }
        return text;
    }

    private static (int At, int Length) Span(string text, Random random)
    {
        int at = random.Next(text.Length + 1);
        double size = random.NextDouble();
        return (at, Math.Min((int)(size * size * size * 60), text.Length - at));
    }
}
