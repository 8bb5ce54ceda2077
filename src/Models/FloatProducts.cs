using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace FlashOrleans.Models;

/// <summary>
/// The little linear algebra that an import needs, on rows of floats: products, and the rows of a matrix made orthonormal. Vector256 of the base library without fused steps: the same
/// bits on every machine, since what comes out goes into packages. Any thread; products use all processors.
/// </summary>
internal static class FloatProducts
{
    /// <summary>Rows of the right side that stay in the cache while rows of the left pass by.</summary>
    private const int Tile = 32;

    /// <summary>to[i, j] = a_i · b_j (+ bias_j) for rows of <paramref name="cols"/> numbers.</summary>
    public static void RowsByRows(float[] a, float[] b, int cols, float[] to, float[]? bias = null)
    {
        int m = a.Length / cols, n = b.Length / cols;
        Parallel.For(0, (n + Tile - 1) / Tile, tile =>
        {
            int end = Math.Min(n, (tile + 1) * Tile);
            for (int i = 0; i < m; i++)
            {
                ReadOnlySpan<float> row = a.AsSpan(i * cols, cols);
                for (int j = tile * Tile; j < end; j++) to[(long)i * n + j] = Dot(row, b.AsSpan(j * cols, cols)) + (bias == null ? 0 : bias[j]);
            }
        });
    }

    public static float[] Transposed(float[] a, int cols)
    {
        int rows = a.Length / cols;
        float[] to = new float[a.Length];
        Parallel.For(0, cols, c =>
        {
            for (int r = 0; r < rows; r++) to[c * rows + r] = a[r * cols + c];
        });
        return to;
    }

    /// <summary>Gram and Schmidt, each row twice: what rounding leaves of the rows before it goes in the second pass. A row that is nothing but those becomes zero.</summary>
    public static void MakeOrthonormal(float[] a, int cols)
    {
        int rows = a.Length / cols;
        for (int i = 0; i < rows; i++)
        {
            Span<float> row = a.AsSpan(i * cols, cols);
            float before = MathF.Sqrt(Dot(row, row));
            for (int pass = 0; pass < 2; pass++)
            {
                for (int j = 0; j < i; j++)
                {
                    ReadOnlySpan<float> other = a.AsSpan(j * cols, cols);
                    float along = Dot(row, other);
                    for (int k = 0; k < cols; k++) row[k] -= along * other[k];
                }
            }
            float length = MathF.Sqrt(Dot(row, row));
            if (!(length > 1e-5f * before)) row.Clear();
            else for (int k = 0; k < cols; k++) row[k] /= length;
        }
    }

    public static float Dot(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        ReadOnlySpan<Vector256<float>> va = MemoryMarshal.Cast<float, Vector256<float>>(a), vb = MemoryMarshal.Cast<float, Vector256<float>>(b);
        Vector256<float> s0 = default, s1 = default;
        int i = 0;
        for (; i + 1 < va.Length; i += 2)
        {
            s0 += va[i] * vb[i];
            s1 += va[i + 1] * vb[i + 1];
        }
        if (i < va.Length) s0 += va[i] * vb[i];
        s0 += s1;
        Vector128<float> h = s0.GetLower() + s0.GetUpper();
        float sum = h[0] + h[2] + (h[1] + h[3]);
        for (int k = va.Length * 8; k < a.Length; k++) sum += a[k] * b[k];
        return sum;
    }
}
