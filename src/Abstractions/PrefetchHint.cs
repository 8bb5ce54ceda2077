using System.Buffers;
using Orleans.Serialization;
using Orleans.Serialization.Buffers;
using Orleans.Serialization.Cloning;
using Orleans.Serialization.Codecs;
using Orleans.Serialization.Serializers;
using Orleans.Serialization.WireProtocol;

namespace FlashOrleans.Abstractions;

/// <summary>
/// Units of a layer that the layer before it expects to be needed (int32 ids, ascending), or the hidden rows to predict them from (float32, for a layer on another
/// silo). The numbers travel in one pooled array that is claimed once, by whoever comes first: the receiver inside the silo, or the codec that copies
/// them onto the wire, which gives the array back at once. So a one-way message needs no acknowledgement to return its array. A hint is only
/// a hint: sent a second time it arrives empty, and one that is dropped costs a collection.
/// </summary>
[Immutable, Alias("flashorleans.hint")]
public sealed class PrefetchHint
{
    private byte[]? _array;

    private PrefetchHint(byte[] array, int length, int count, bool rows)
    {
        _array = array;
        Length = length;
        Count = count;
        Rows = rows;
    }

    /// <summary>Unit ids, or rows.</summary>
    public int Count { get; }
    /// <summary>The numbers are hidden rows.</summary>
    public bool Rows { get; }
    /// <summary>Bytes of the numbers.</summary>
    public int Length { get; }

    /// <summary>Copies the numbers into a rented array.</summary>
    public static PrefetchHint Rent(ReadOnlySpan<byte> numbers, int count, bool rows)
    {
        PrefetchHint hint = Rent(numbers.Length, count, rows);
        numbers.CopyTo(hint._array);
        return hint;
    }

    /// <summary>Takes the array. Any thread; true exactly once. The claimer gives it to <see cref="Return"/>.</summary>
    public bool TryClaim(out byte[] array)
    {
        byte[]? claimed = Interlocked.Exchange(ref _array, null);
        array = claimed ?? [];
        return claimed is not null;
    }

    /// <summary>Gives a claimed array back.</summary>
    public static void Return(byte[] array)
    {
        ArrayPool<byte>.Shared.Return(array);
        Track(-1);
    }

    /// <summary>Gives the array back if nobody has claimed it.</summary>
    public void TryReturn()
    {
        if (TryClaim(out byte[] array)) Return(array);
    }

    internal static PrefetchHint Rent(int length, int count, bool rows)
    {
        Track(1);
        return new PrefetchHint(ArrayPool<byte>.Shared.Rent(length), length, count, rows);
    }

    internal Span<byte> Numbers => _array.AsSpan(0, Length);

#if FLASH_GUARD
    private static int s_outstanding;
    /// <summary>Arrays rented and not yet given back, in this process. Guarded builds only.</summary>
    internal static int Outstanding => Volatile.Read(ref s_outstanding);
#endif

    [System.Diagnostics.Conditional("FLASH_GUARD")]
    private static void Track(int by)
    {
#if FLASH_GUARD
        Interlocked.Add(ref s_outstanding, by);
#endif
    }
}

/// <summary>The same instance arrives inside a silo.</summary>
[RegisterCopier]
public sealed class PrefetchHintCopier : IDeepCopier<PrefetchHint>, IOptionalDeepCopier
{
    public PrefetchHint? DeepCopy(PrefetchHint? input, CopyContext context) => input;
    public bool IsShallowCopyable() => true;
}

/// <summary>Hints on the wire: <c>count i32, kind i32 (1: rows), numbers</c>, length-prefixed. Writing one takes its array.</summary>
[RegisterSerializer]
public sealed class PrefetchHintCodec : IFieldCodec<PrefetchHint>
{
    private const int HeaderBytes = 8;
    private const uint MaxBytes = 100 << 20;

    public void WriteField<TBufferWriter>(ref Writer<TBufferWriter> writer, uint fieldIdDelta, Type? expectedType, PrefetchHint? value)
        where TBufferWriter : IBufferWriter<byte>
    {
        if (ReferenceCodec.TryWriteReferenceField(ref writer, fieldIdDelta, expectedType, value) || value is null) return;
        bool mine = value.TryClaim(out byte[] array);
        try
        {
            int length = mine ? value.Length : 0;
            writer.WriteFieldHeader(fieldIdDelta, expectedType, typeof(PrefetchHint), WireType.LengthPrefixed);
            writer.WriteVarUInt32((uint)(HeaderBytes + length));
            writer.WriteInt32(mine ? value.Count : 0);
            writer.WriteInt32(value.Rows ? 1 : 0);
            writer.Write(array.AsSpan(0, length));
        }
        finally
        {
            if (mine) PrefetchHint.Return(array);
        }
    }

    public PrefetchHint ReadValue<TInput>(ref Reader<TInput> reader, Field field)
    {
        if (field.WireType == WireType.Reference) return ReferenceCodec.ReadReference<PrefetchHint, TInput>(ref reader, field)!;
        field.EnsureWireType(WireType.LengthPrefixed);
        uint length = reader.ReadVarUInt32();
        if (length is < HeaderBytes or > MaxBytes) throw new InvalidDataException($"a hint of {length} bytes is outside the limits of {HeaderBytes} to {MaxBytes}");
        int count = reader.ReadInt32(), kind = reader.ReadInt32();
        PrefetchHint hint = PrefetchHint.Rent((int)length - HeaderBytes, count, kind == 1);
        try
        {
            reader.ReadBytes(hint.Numbers);
        }
        catch
        {
            hint.TryReturn();
            throw;
        }
        ReferenceCodec.RecordObject(reader.Session, hint);
        return hint;
    }
}
