using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace FlashOrleans.Models.Gguf;

/// <summary>
/// What all block formats come down to: 16 small whole numbers times a scale. Every product and sum is one rounded float32 operation, lane by
/// lane, never fused, so that the result has the same bits on every processor, and the bits of the format's reference.
/// </summary>
internal static class Lanes
{
    public static Vector128<byte> Load(ReadOnlySpan<byte> bytes) => Vector128.Create(bytes);
    public static Vector128<byte> Low(Vector128<byte> packed) => packed & Vector128.Create((byte)0x0f);
    public static Vector128<byte> High(Vector128<byte> packed) => packed >>> 4;

    public static float Half(ReadOnlySpan<byte> bytes) => (float)BitConverter.UInt16BitsToHalf(U16(bytes));
    public static ushort U16(ReadOnlySpan<byte> bytes) => BinaryPrimitives.ReadUInt16LittleEndian(bytes);
    public static uint U32(ReadOnlySpan<byte> bytes) => BinaryPrimitives.ReadUInt32LittleEndian(bytes);

    /// <summary>Byte i is all ones where bit i is set.</summary>
    public static Vector128<byte> Mask(uint bits)
    {
        Vector128<byte> select = Vector128.Create(0x8040201008040201ul).AsByte();
        Vector128<byte> spread = Vector128.Shuffle(Vector128.CreateScalar(bits).AsByte(), Vector128.Create((byte)0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
        return Vector128.Equals(spread & select, select);
    }

    /// <summary>Minus the number where the mask is set.</summary>
    public static Vector128<sbyte> Negate(Vector128<sbyte> numbers, Vector128<byte> mask) => (numbers ^ mask.AsSByte()) - mask.AsSByte();

    /// <summary>to[i] = numbers[i] × scale, 16 of them.</summary>
    public static void Scale(Vector128<sbyte> numbers, float scale, Span<float> to)
    {
        (Vector128<short> lo, Vector128<short> hi) = Vector128.Widen(numbers);
        Vector128<float> by = Vector128.Create(scale);
        ref float at = ref First16(to);
        (Vector128.ConvertToSingle(Vector128.WidenLower(lo)) * by).StoreUnsafe(ref at);
        (Vector128.ConvertToSingle(Vector128.WidenUpper(lo)) * by).StoreUnsafe(ref at, 4);
        (Vector128.ConvertToSingle(Vector128.WidenLower(hi)) * by).StoreUnsafe(ref at, 8);
        (Vector128.ConvertToSingle(Vector128.WidenUpper(hi)) * by).StoreUnsafe(ref at, 12);
    }

    /// <summary>to[i] = numbers[i] × scale + shift, 16 of them.</summary>
    public static void Scale(Vector128<byte> numbers, float scale, float shift, Span<float> to)
    {
        (Vector128<ushort> lo, Vector128<ushort> hi) = Vector128.Widen(numbers);
        Vector128<float> by = Vector128.Create(scale), plus = Vector128.Create(shift);
        ref float at = ref First16(to);
        (Vector128.ConvertToSingle(Vector128.WidenLower(lo).AsInt32()) * by + plus).StoreUnsafe(ref at);
        (Vector128.ConvertToSingle(Vector128.WidenUpper(lo).AsInt32()) * by + plus).StoreUnsafe(ref at, 4);
        (Vector128.ConvertToSingle(Vector128.WidenLower(hi).AsInt32()) * by + plus).StoreUnsafe(ref at, 8);
        (Vector128.ConvertToSingle(Vector128.WidenUpper(hi).AsInt32()) * by + plus).StoreUnsafe(ref at, 12);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ref float First16(Span<float> to) => ref MemoryMarshal.GetReference(to[..16]);
}
