using System.Buffers.Binary;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>q4b and q4k calculated by hand: bytes as docs/FORMAT.md describes them, every variant.</summary>
public sealed unsafe class MinimumKernelsTests
{
    private const int Cols = 256;

    private static readonly byte[] s_sc = [1, 2, 5, 0, 16, 33, 48, 63], s_mn = [0, 63, 7, 4, 32, 1, 15, 62];

    private static int Nibble(int k) => (k * 7 + k / 32) % 16;

    private static double Scale(WeightFormat format, int block) => format == WeightFormat.Q4B ? 0.5 + block : 0.25 * s_sc[block];

    private static double Minimum(WeightFormat format, int block) => format == WeightFormat.Q4B ? -2.0 * block : -0.125 * s_mn[block];

    private static byte[] Row(WeightFormat format)
    {
        byte[] row = new byte[WeightLayout.RowBytes(format, Cols)];
        for (int block = 0; block < 8; block++)
            for (int j = 0; j < 16; j++) row[block * 16 + j] = (byte)(Nibble(block * 32 + j) | Nibble(block * 32 + j + 16) << 4);
        if (format == WeightFormat.Q4B)
        {
            for (int block = 0; block < 8; block++)
            {
                BinaryPrimitives.WriteHalfLittleEndian(row.AsSpan(128 + 4 * block), (Half)Scale(format, block));
                BinaryPrimitives.WriteHalfLittleEndian(row.AsSpan(130 + 4 * block), (Half)Minimum(format, block));
            }
            return row;
        }
        BinaryPrimitives.WriteHalfLittleEndian(row.AsSpan(128), (Half)0.25);
        BinaryPrimitives.WriteHalfLittleEndian(row.AsSpan(130), (Half)0.125);
        for (int b = 0; b < 4; b++)
        {
            row[132 + b] = (byte)(s_sc[b] | s_sc[b + 4] / 16 << 6);
            row[136 + b] = (byte)(s_mn[b] | s_mn[b + 4] / 16 << 6);
            row[140 + b] = (byte)(s_sc[b + 4] % 16 | s_mn[b + 4] % 16 << 4);
        }
        return row;
    }

    public static TheoryData<string, WeightFormat> Cases()
    {
        TheoryData<string, WeightFormat> cases = [];
        foreach (string name in Kernels.Available)
            foreach (WeightFormat format in new[] { WeightFormat.Q4B, WeightFormat.Q4K }) cases.Add(name, format);
        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_row_stands_for_scale_times_integer_plus_minimum(string name, WeightFormat format)
    {
        byte[] row = Row(format), panel = new byte[WeightLayout.PanelBytes(format, Cols)];
        Panel.Pack(format, [.. row, .. row, .. row], 3, Cols, panel);
        float[] stored = Numbers.Restore(format, row, Cols), unpacked = new float[Cols], acc = new float[Cols];
        acc.AsSpan().Fill(1.5f);
        fixed (byte* p = panel, pr = row)
        fixed (float* py = unpacked, pacc = acc)
        {
            Kernels.Choose(name).PanelRow(format, p, 2, Cols, py);
            byte* r = pr;
            float a = -4;
            Kernels.Choose(name).Axpys(format, &a, &r, 1, Cols, pacc);
        }
        for (int k = 0; k < Cols; k++)
        {
            double w = Scale(format, k / 32) * Nibble(k) + Minimum(format, k / 32);
            Assert.Equal((w, w, 1.5 - 4 * w), (stored[k], unpacked[k], acc[k]));
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_product_adds_each_blocks_integer_sum_and_then_its_minimum(string name, WeightFormat format)
    {
        float[] x = new float[Cols];
        for (int k = 0; k < Cols; k++) x[k] = k % 32 == 0 ? 12.7f : MathF.Round(MathF.Sin(k) * 100) / 10;
        byte[] row = Row(format), panel = new byte[WeightLayout.PanelBytes(format, Cols)], quantized = new byte[Kernels.QuantizedBytes(Cols)];
        Panel.Pack(format, [.. row, .. row, .. row], 3, Cols, panel);
        float* y = stackalloc float[4];
        float dot;
        fixed (byte* p = panel, pr = row, pq = quantized)
        fixed (float* px = x)
        {
            Kernels.Choose(name).QuantizeRow(px, Cols, pq);
            byte* r = pr, q = pq;
            Kernels.Choose(name).Panels(format, p, 0, 1, 3, Cols, pq, quantized.Length, 1, y, 3);
            Kernels.Choose(name).Dots(format, &r, &q, 1, Cols, &dot);
        }
        float acc = 0f, scaleX = 12.7f / 127f;
        double exact = 0;
        for (int block = 0; block < 8; block++)
        {
            int sum = 0, sumX = 0;
            for (int k = block * 32; k < block * 32 + 32; k++)
            {
                int q = (int)MathF.Round(x[k] * 10);
                (sum, sumX) = (sum + Nibble(k) * q, sumX + q);
                exact += (Scale(format, block) * Nibble(k) + Minimum(format, block)) * q * 0.1;
            }
            acc = MathF.FusedMultiplyAdd(sum, (float)Scale(format, block) * scaleX, acc);
            acc = MathF.FusedMultiplyAdd(sumX, (float)Minimum(format, block) * scaleX, acc);
        }
        Assert.Equal(exact, acc, 1e-2);
        Assert.Equal((acc, acc, acc), (y[0], y[2], dot));
    }
}
