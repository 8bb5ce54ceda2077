using System.Runtime.InteropServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// cos and sin of the rotary angles, per position headDim/2 of each, filled in blocks of 256 positions as sessions grow. Shared by the layers of a package in
/// one host. Conductor thread fills (<see cref="Ensure"/>) before a step; compute threads read. Angles as Hugging Face computes them: frequency and angle
/// rounded to float32.
/// </summary>
internal sealed unsafe class RopeTable(int headDim, double theta, int maxPositions, MemoryLedger ledger, string label) : IDisposable
{
    private const int BlockPositions = 256;
    /// <summary>As long as it can get: a block that is added in the middle of a session makes nothing for the collector.</summary>
    private readonly nint[] _blocks = new nint[(maxPositions + BlockPositions - 1) / BlockPositions];
    private readonly long _blockBytes = (long)BlockPositions * headDim * sizeof(float);
    private int _count;
    private readonly int _half = headDim / 2;

    public int Users { get; set; }

    public void Ensure(int positions)
    {
        while (_count * BlockPositions < positions)
        {
            float* p = (float*)NativeMemory.AlignedAlloc((nuint)_blockBytes, 64);
            ledger.Add(label, _blockBytes);
            int first = _count * BlockPositions;
            for (int i = 0; i < _half; i++)
            {
                float frequency = (float)(1.0 / Math.Pow(theta, 2.0 * i / headDim));
                for (int t = 0; t < BlockPositions; t++)
                {
                    float angle = (first + t) * frequency;
                    p[t * headDim + i] = (float)Math.Cos(angle);
                    p[t * headDim + _half + i] = (float)Math.Sin(angle);
                }
            }
            _blocks[_count++] = (nint)p;
        }
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
