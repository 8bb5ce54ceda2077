using System.Buffers;
using Orleans.Serialization.Cloning;

namespace FlashOrleans.Abstractions;

/// <summary>
/// A wave on its way between grains: one pooled array and its length, opaque here. Passed by reference inside a silo, as one memcpy between
/// silos. Owned by whoever claims it: <see cref="TryClaim"/> succeeds once, and only the claimer may give the array back. After an acknowledged
/// send the sender tries to claim: inside the silo the receiver already has (nothing to do), between silos the bytes were copied to the wire and
/// the sender's array is free. A message that failed or was dropped is left to the garbage collector: an array given back twice would
/// hand one user's activations to another, a lost one costs a collection.
/// </summary>
[Immutable, Alias("flashorleans.wave")]
public sealed class WaveMessage
{
    private readonly byte[] _array;
    private int _claimed;

    public WaveMessage(byte[] array, int length)
    {
        ArgumentNullException.ThrowIfNull(array);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)length, (uint)array.Length);
        _array = array;
        Length = length;
    }

    public int Length { get; }

    public bool Claimed => Volatile.Read(ref _claimed) != 0;

    /// <summary>Takes the array. Any thread; true exactly once.</summary>
    public bool TryClaim(out byte[] array, out int length)
    {
        if (Interlocked.Exchange(ref _claimed, 1) != 0)
        {
            array = [];
            length = 0;
            return false;
        }
        array = _array;
        length = Length;
        return true;
    }

    /// <summary>The same wave in another pooled array. Only for whoever has the message and has not sent it: afterwards the bytes are the receiver's.</summary>
    public WaveMessage Copy()
    {
        byte[] copy = ArrayPool<byte>.Shared.Rent(Length);
        Bytes.CopyTo(copy);
        return new WaveMessage(copy, Length);
    }

    internal ReadOnlySpan<byte> Bytes => _array.AsSpan(0, Length);
}

/// <summary>The same instance arrives: a wave is never copied inside a silo.</summary>
[RegisterCopier]
public sealed class WaveMessageCopier : IDeepCopier<WaveMessage>, IOptionalDeepCopier
{
    public WaveMessage? DeepCopy(WaveMessage? input, CopyContext context) => input;
    public bool IsShallowCopyable() => true;
}
