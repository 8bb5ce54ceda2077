using System.Buffers;
using Orleans.Serialization;
using Orleans.Serialization.Buffers;
using Orleans.Serialization.Codecs;
using Orleans.Serialization.Serializers;
using Orleans.Serialization.WireProtocol;

namespace FlashOrleans.Abstractions;

/// <summary>
/// Waves on the wire: a length-prefixed run of bytes, copied as they are. The default codecs write a float array element by element at
/// five bytes each and cost four to five times as much. A received wave lands in a rented array.
/// </summary>
[RegisterSerializer]
public sealed class WaveMessageCodec : IFieldCodec<WaveMessage>
{
    /// <summary>Longest wave a peer may announce: what a message may be (100 MiB).</summary>
    private const uint MaxBytes = 100 << 20;

    public void WriteField<TBufferWriter>(ref Writer<TBufferWriter> writer, uint fieldIdDelta, Type? expectedType, WaveMessage? value)
        where TBufferWriter : IBufferWriter<byte>
    {
        if (ReferenceCodec.TryWriteReferenceField(ref writer, fieldIdDelta, expectedType, value) || value is null) return;
        ReadOnlySpan<byte> bytes = value.Bytes;
        writer.WriteFieldHeader(fieldIdDelta, expectedType, typeof(WaveMessage), WireType.LengthPrefixed);
        writer.WriteVarUInt32((uint)bytes.Length);
        writer.Write(bytes);
    }

    public WaveMessage ReadValue<TInput>(ref Reader<TInput> reader, Field field)
    {
        if (field.WireType == WireType.Reference) return ReferenceCodec.ReadReference<WaveMessage, TInput>(ref reader, field)!;
        field.EnsureWireType(WireType.LengthPrefixed);
        uint length = reader.ReadVarUInt32();
        if (length > MaxBytes) throw new InvalidDataException($"a wave of {length} bytes is beyond the limit of {MaxBytes}");
        byte[] array = ArrayPool<byte>.Shared.Rent((int)length);
        reader.ReadBytes(array.AsSpan(0, (int)length));
        var wave = new WaveMessage(array, (int)length);
        ReferenceCodec.RecordObject(reader.Session, wave);
        return wave;
    }
}
