using System.Buffers;
using Orleans.Serialization.Cloning;

namespace FlashOrleans.Abstractions;

/// <summary>
/// A wave on its way between grains: one pooled array and its length, opaque here. Passed by reference inside a silo, as one memcpy between
/// silos. Owned by whoever claims it: <see cref="TryClaim"/> succeeds once, and only the claimer may give the array back. After an acknowledged
/// send the sender tries to claim: inside the silo the receiver already has (nothing to do), between silos the bytes were copied to the wire and
/// the sender's array is free. A message that failed or was dropped is left to the garbage collector: an array given back twice would
/// hand one user's activations to another, a lost one costs a collection.
/// Inside a silo a message may go ahead of its wave: the sender fills it when the rows are computed, and whoever is last, the sender with the wave or the message with its turn, brings
/// both together. A message without a wave never leaves its silo.
/// </summary>
[Immutable, Alias("flashorleans.wave")]
public sealed class WaveMessage
{
    private const int Ahead = 0, Awaited = 1, Full = 2, Taken = 3, Withdrawn = 4;
    private byte[] _array;
    private Func<byte[], int, bool>? _arrived;
    private int _state;

    /// <summary>Goes ahead of its wave.</summary>
    public WaveMessage()
    {
        _array = [];
    }

    public WaveMessage(byte[] array, int length)
    {
        ArgumentNullException.ThrowIfNull(array);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)length, (uint)array.Length);
        _array = array;
        Length = length;
        _state = Full;
    }

    public int Length { get; private set; }

    /// <summary>Nobody can claim it any more: it was claimed, or withdrawn.</summary>
    public bool Claimed => Volatile.Read(ref _state) is Taken or Withdrawn;

    /// <summary>It did not go ahead of its wave, or the wave has come.</summary>
    public bool HasWave => Volatile.Read(ref _state) is Full or Taken;

    /// <summary>The receiver's turn: true when the wave is yet to come, and <paramref name="arrived"/> is called with it, on the sender's thread; false there leaves the wave with the sender.
    /// False: the message has its wave, or will never have one.</summary>
    public bool Await(Func<byte[], int, bool> arrived)
    {
        _arrived = arrived;
        return Interlocked.CompareExchange(ref _state, Awaited, Ahead) is Ahead or Awaited;
    }

    /// <summary>The sender has the wave. False: the message was withdrawn, or its receiver does not take it; the array stays the caller's, who sends it as any other.</summary>
    public bool Fill(byte[] array, int length)
    {
        (_array, Length) = (array, length);
        if (Interlocked.CompareExchange(ref _state, Full, Ahead) == Ahead) return true;
        // Never to be claimed by anybody else meanwhile: the receiver gets it at once.
        return Interlocked.CompareExchange(ref _state, Taken, Awaited) == Awaited && _arrived!(array, length);
    }

    /// <summary>There will be no wave, or no way for it. False: it has come.</summary>
    public bool Withdraw() => WithdrawLost() || Interlocked.CompareExchange(ref _state, Withdrawn, Awaited) == Awaited;

    /// <summary>Its call has ended. True: without having brought it to its receiver, and before there was a wave.</summary>
    public bool WithdrawLost() => Interlocked.CompareExchange(ref _state, Withdrawn, Ahead) == Ahead;

    /// <summary>Takes the array. Any thread; true exactly once.</summary>
    public bool TryClaim(out byte[] array, out int length)
    {
        if (Interlocked.CompareExchange(ref _state, Taken, Full) != Full)
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

    internal ReadOnlySpan<byte> Bytes =>
        HasWave ? _array.AsSpan(0, Length) : throw new InvalidOperationException("a message that goes ahead of its wave stays in its silo");
}

/// <summary>The same instance arrives: a wave is never copied inside a silo.</summary>
[RegisterCopier]
public sealed class WaveMessageCopier : IDeepCopier<WaveMessage>, IOptionalDeepCopier
{
    public WaveMessage? DeepCopy(WaveMessage? input, CopyContext context) => input;
    public bool IsShallowCopyable() => true;
}
