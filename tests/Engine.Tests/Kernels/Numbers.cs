using System.Runtime.InteropServices;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Deterministic test numbers and small wrappers around the quantiser.</summary>
internal static class Numbers
{
    public static float[] Normal(int n, int seed, float deviation)
    {
        Random random = new(seed);
        float[] values = new float[n];
        for (int i = 0; i < n; i++)
            values[i] = (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble())) * deviation;
        return values;
    }

    public static byte[] Store(WeightFormat format, float[] row)
    {
        byte[] stored = new byte[WeightLayout.RowBytes(format, row.Length)];
        Quantizer.QuantizeRow(format, row, stored);
        return stored;
    }

    public static float[] Restore(WeightFormat format, byte[] stored, int cols)
    {
        float[] row = new float[cols];
        Quantizer.DequantizeRow(format, stored, cols, row);
        return row;
    }

    public static bool SameBits(ReadOnlySpan<float> a, ReadOnlySpan<float> b) => MemoryMarshal.Cast<float, int>(a).SequenceEqual(MemoryMarshal.Cast<float, int>(b));
}
