using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// cos and sin of the rotary angles, per position headDim/2 of each, filled in blocks of 256 positions as sessions grow. Shared by the layers of a package in
/// one host. Conductor thread fills (<see cref="Ensure"/>) before a step; compute threads read. Angles as Hugging Face computes them: frequency and angle
/// rounded to float32.
/// </summary>
internal sealed unsafe class RopeTable(int headDim, double theta, MemoryLedger ledger, string label) : IDisposable
{
    private const int BlockPositions = 256;
    private readonly List<NativeBuffer> _blocks = [];
    private readonly int _half = headDim / 2;

    public int Users { get; set; }

    public void Ensure(int positions)
    {
        while (_blocks.Count * BlockPositions < positions)
        {
            var block = new NativeBuffer((long)BlockPositions * headDim * sizeof(float), ledger, label, alignment: 64);
            float* p = (float*)block.Pointer;
            int first = _blocks.Count * BlockPositions;
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
            _blocks.Add(block);
        }
    }

    public float* Cos(int position) => (float*)_blocks[position / BlockPositions].Pointer + position % BlockPositions * headDim;

    public float* Sin(int position) => Cos(position) + _half;

    public void Dispose()
    {
        foreach (var block in _blocks) block.Dispose();
        _blocks.Clear();
    }
}
