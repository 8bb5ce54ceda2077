using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FlashOrleans.Engine;

[Flags]
public enum SlotFlags
{
    None = 0,
    /// <summary>The tail samples a token after the slot's last position.</summary>
    Sample = 1,
    /// <summary>The tail returns the negative log-likelihood of the next token at every position of the slot (the last one's target is <see cref="Slot.Target"/>).</summary>
    Score = 2,
}

/// <summary>How the tail chooses a token. Temperature 0 is greedy. Randomness is a function of (Seed, absolute position).</summary>
[StructLayout(LayoutKind.Sequential)]
public struct Sampling
{
    public float Temperature;
    /// <summary>Keep the smallest set of tokens whose probability reaches this; 1 keeps all.</summary>
    public float TopP;
    /// <summary>Keep tokens with at least this share of the best one's probability; 0 keeps all.</summary>
    public float MinP;
    /// <summary>Keep the k best; 0 keeps all.</summary>
    public int TopK;
    public ulong Seed;

    public static Sampling Greedy => new() { TopP = 1 };
}

/// <summary>
/// One session's tokens inside a wave. Blittable: this is the wire. (Session, Epoch, Step) identifies the step; a layer accepts a slot only if
/// (Epoch, Step) is newer than the last it accepted, and only at a position where its chained token hash equals <see cref="PrefixHash"/>.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
public struct Slot
{
    public Guid Session;
    public long Step;
    public int Epoch;
    /// <summary>Position of the first token.</summary>
    public int Position;
    /// <summary>Tokens (rows) of this slot.</summary>
    public int Count;
    public SlotFlags Flags;
    /// <summary>Chained hash of the tokens before <see cref="Position"/>.</summary>
    public ulong PrefixHash;
    public Sampling Sampling;
    /// <summary>How many best (id, logit) pairs of the last position to return; 0 none.</summary>
    public int TopLogits;
    /// <summary>Token that really follows the last position (Score), or -1.</summary>
    public int Target;
    /// <summary>Tokens of the whole sequence, where the model's rotation depends on it (<see cref="RopeFrequencies"/>); else 0.</summary>
    public int Length;
    /// <summary>How many of the tokens, the last ones, are guesses: the tail samples behind the token before them and behind each guess that turns out right.</summary>
    public int Drafts;

    /// <summary>Whose session it is, as a number that says no more than whether two are the same: a fair share of prefill.</summary>
    public uint User;
    private readonly int _reserved;

    /// <summary>The same step without its guesses.</summary>
    internal readonly Slot Undrafted => this with { Count = Count - Drafts, Drafts = 0 };
}

/// <summary>
/// The unit that travels between layers: slots, their token ids and, after layer 0, one float32 row of width d per token. One pooled byte array
/// holds it all, so that a hop moves a reference and the wire is a memcpy. A Wave is owned by exactly one thread at a time; whoever owns it
/// last calls <see cref="Return"/>. Little-endian.
/// <code>header 16 B: version u32, slots i32, rows i32, width i32 | slots | token ids i32 x rows | pad to 64 | float32 rows x width</code>
/// </summary>
public readonly struct Wave
{
    public const uint Version = 3;
    private const int HeaderBytes = 16;
    private readonly byte[] _array;

    /// <summary>Adopts an array that holds a wave (a receiver). Throws <see cref="InvalidDataException"/> when it is not one; the array stays the caller's then.</summary>
    public Wave(byte[] array, int length)
    {
        _array = array;
        Length = length;
        if (length < HeaderBytes || length > array.Length || Read(0) != Version || SlotCount < 0 || RowCount < 0 || Width < 0
            || Size(SlotCount, RowCount, Width) != length)
            throw new InvalidDataException($"not a wave of version {Version} ({length} bytes)");
        long rows = 0;
        foreach (ref readonly var slot in Slots)
        {
            if (slot.Count < 1) throw new InvalidDataException($"not a wave: a slot of {slot.Count} tokens");
            if (slot.Drafts < 0 || slot.Drafts >= slot.Count) throw new InvalidDataException($"not a wave: {slot.Drafts} of a slot's {slot.Count} tokens are drafts");
            rows += slot.Count;
        }
        if (rows != RowCount) throw new InvalidDataException($"not a wave: its slots have {rows} tokens and it has {RowCount} rows");
        WaveGuard.Taken(array);
    }

    private Wave(byte[] array, int slots, int rows, int width)
    {
        _array = array;
        Length = (int)Size(slots, rows, width);
        var header = MemoryMarshal.Cast<byte, int>(array.AsSpan(0, HeaderBytes));
        header[0] = (int)Version; header[1] = slots; header[2] = rows; header[3] = width;
        WaveGuard.Taken(array);
    }

    public static Wave Rent(int slots, int rows, int width) =>
        new(ArrayPool<byte>.Shared.Rent((int)Size(slots, rows, width)), slots, rows, width);

    public byte[] Array => _array;
    public int Length { get; }
    public int SlotCount => (int)Read(1);
    public int RowCount => (int)Read(2);

    /// <summary>Every slot brings one token, and guesses at most: no prompt is among them.</summary>
    internal bool IsDecode
    {
        get
        {
            foreach (ref readonly var slot in Slots)
                if (slot.Count - slot.Drafts != 1) return false;
            return true;
        }
    }

    /// <summary>Floats per row; 0 on the way to layer 0, which embeds the token ids.</summary>
    public int Width => (int)Read(3);

    public Span<Slot> Slots => MemoryMarshal.Cast<byte, Slot>(_array.AsSpan(HeaderBytes, SlotCount * Unsafe.SizeOf<Slot>()));
    public Span<int> Tokens => MemoryMarshal.Cast<byte, int>(_array.AsSpan(HeaderBytes + SlotCount * Unsafe.SizeOf<Slot>(), RowCount * 4));
    public Span<float> Rows => MemoryMarshal.Cast<byte, float>(_array.AsSpan(RowsOffset(SlotCount, RowCount), RowCount * Width * 4));

    /// <summary>Gives the array back. Only the last owner, once.</summary>
    public void Return() => Return(_array);

    /// <summary>Gives back an array that held a wave.</summary>
    public static void Return(byte[] array)
    {
        WaveGuard.Returned(array);
        ArrayPool<byte>.Shared.Return(array);
    }

    private uint Read(int index) => MemoryMarshal.Cast<byte, uint>(_array.AsSpan(0, HeaderBytes))[index];

    private static int RowsOffset(int slots, int rows) => (HeaderBytes + slots * Unsafe.SizeOf<Slot>() + rows * 4 + 63) & ~63;

    private static long Size(int slots, int rows, int width) =>
        ((HeaderBytes + (long)slots * Unsafe.SizeOf<Slot>() + (long)rows * 4 + 63) & ~63L) + (long)rows * width * 4;
}
