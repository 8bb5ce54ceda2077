using System.Runtime.InteropServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// cos and sin of the rotary angles, per position headDim/2 of each, filled in blocks of 256 positions as sessions grow. Shared by the layers of a package in
/// one host. Conductor thread fills (<see cref="Ensure"/>) before a step; compute threads read. Angles as Hugging Face computes them: frequency and angle
/// rounded to float32.
/// </summary>
internal sealed unsafe class RopeTable(RopeConfig rope, int headDim, int maxPositions, MemoryLedger ledger, string label) : IDisposable
{
    private const int BlockPositions = 256;
    /// <summary>As long as it can get: a block that is added in the middle of a session makes nothing for the collector.</summary>
    private readonly nint[] _blocks = new nint[(maxPositions + BlockPositions - 1) / BlockPositions];
    private readonly long _blockBytes = (long)BlockPositions * headDim * sizeof(float);
    private int _count;
    private readonly int _half = headDim / 2;
    private float[] _frequencies = RopeFrequencies.For(rope, headDim, 1);
    private int _length = 1;

    public int Users { get; set; }

    /// <summary>Native bytes of a table for so many positions.</summary>
    public static long BytesFor(int positions, int headDim) => (positions + BlockPositions - 1) / BlockPositions * NativeBuffer.Footprint((long)BlockPositions * headDim * sizeof(float));

    public void Ensure(int positions)
    {
        while (_count * BlockPositions < positions)
        {
            float* p = (float*)NativeMemory.AlignedAlloc((nuint)_blockBytes, 64);
            ledger.Add(label, _blockBytes);
            int first = _count * BlockPositions;
            for (int i = 0; i < _half; i++)
            {
                for (int t = 0; t < BlockPositions; t++) Angle(first + t, i, p + t * headDim);
            }
            _blocks[_count++] = (nint)p;
        }
    }

    /// <summary>Where the rotation depends on the sequence's length: cos and sin of one position, headDim numbers. Conductor thread.</summary>
    public void Angles(int position, int length, float* to)
    {
        if (length != _length)
        {
            _frequencies = RopeFrequencies.For(rope, headDim, length);
            _length = length;
        }
        for (int i = 0; i < _half; i++) Angle(position, i, to);
    }

    private void Angle(int position, int pair, float* to)
    {
        // Pairs beyond the rotated part stay as they are.
        float angle = position * _frequencies[pair], factor = _frequencies[pair] == 0 ? 1 : (float)rope.AttentionFactor;
        to[pair] = (float)Math.Cos(angle) * factor;
        to[_half + pair] = (float)Math.Sin(angle) * factor;
    }

    public float* Cos(int position) => (float*)_blocks[position / BlockPositions] + position % BlockPositions * headDim;

    public float* Sin(int position) => Cos(position) + _half;

    public void Dispose()
    {
        while (_count > 0)
        {
            NativeMemory.AlignedFree((void*)_blocks[--_count]);
            ledger.Add(label, -_blockBytes);
        }
    }
}
