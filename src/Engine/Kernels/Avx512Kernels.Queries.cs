using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashOrleans.Engine;

/// <summary>Attention of several queries: four of them at a time with four keys, or with 64 columns of the values, in sixteen registers.</summary>
internal sealed unsafe partial class Avx512Kernels
{
    public override void FromHalf(ushort* x, int n, float* y, byte* next) => Widen<StoredF16>((byte*)x, n, y, next);

    public override void FromInt8(sbyte* x, int n, float* y, byte* next) => Widen<StoredI8>((byte*)x, n, y, next);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Widen<T>(byte* x, int n, float* y, byte* next) where T : struct, IStored
    {
        int i = 0;
        for (; i + 64 <= n && next != null; i += 64)
        {
            Ask(next + i * T.Bytes, 64 * T.Bytes);
            for (int k = i; k < i + 64; k += 16) T.Sixteen(x, k).Store(y + k);
        }
        for (; i + 16 <= n; i += 16) T.Sixteen(x, i).Store(y + i);
        for (; i < n; i++) y[i] = T.One(x, i);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override void ScoresOfMany(float* q, int queries, nint qStride, float* keys, int count, int headDim, float scale, float* scores, nint scoresStride)
    {
        if (headDim % 16 != 0)
        {
            base.ScoresOfMany(q, queries, qStride, keys, count, headDim, scale, scores, scoresStride);
            return;
        }
        for (int j = 0; j < count; j += 4)
        {
            // A missing key or query is computed as the last one; a key's score is not stored then, a query's is stored again.
            int last = count - 1 - j;
            float* k0 = keys + (nint)j * headDim, k1 = k0 + (nint)Math.Min(1, last) * headDim, k2 = k0 + (nint)Math.Min(2, last) * headDim, k3 = k0 + (nint)Math.Min(3, last) * headDim;
            for (int i = 0; i < queries; i += 4)
            {
                nint i1 = Math.Min(i + 1, queries - 1), i2 = Math.Min(i + 2, queries - 1), i3 = Math.Min(i + 3, queries - 1);
                float* q0 = q + i * qStride, q1 = q + i1 * qStride, q2 = q + i2 * qStride, q3 = q + i3 * qStride;
                Vector512<float> a00 = default, a01 = default, a02 = default, a03 = default, a10 = default, a11 = default, a12 = default, a13 = default;
                Vector512<float> a20 = default, a21 = default, a22 = default, a23 = default, a30 = default, a31 = default, a32 = default, a33 = default;
                for (int k = 0; k < headDim; k += 16)
                {
                    Vector512<float> b0 = Vector512.Load(k0 + k), b1 = Vector512.Load(k1 + k), b2 = Vector512.Load(k2 + k), b3 = Vector512.Load(k3 + k);
                    Vector512<float> x = Vector512.Load(q0 + k);
                    a00 = Mad(b0, x, a00); a01 = Mad(b1, x, a01); a02 = Mad(b2, x, a02); a03 = Mad(b3, x, a03);
                    x = Vector512.Load(q1 + k);
                    a10 = Mad(b0, x, a10); a11 = Mad(b1, x, a11); a12 = Mad(b2, x, a12); a13 = Mad(b3, x, a13);
                    x = Vector512.Load(q2 + k);
                    a20 = Mad(b0, x, a20); a21 = Mad(b1, x, a21); a22 = Mad(b2, x, a22); a23 = Mad(b3, x, a23);
                    x = Vector512.Load(q3 + k);
                    a30 = Mad(b0, x, a30); a31 = Mad(b1, x, a31); a32 = Mad(b2, x, a32); a33 = Mad(b3, x, a33);
                }
                // The tree of sixteen sums at once: a key's four queries to a register, then the four keys side by side in each query's quarter.
                Vector512<float> even = Pairs(Quarters(a00, a10, a20, a30), Quarters(a01, a11, a21, a31)), odd = Pairs(Quarters(a02, a12, a22, a32), Quarters(a03, a13, a23, a33));
                Vector512<float> sums = (Avx512F.Shuffle(even, odd, 0x44) + Avx512F.Shuffle(even, odd, 0xEE)) * Vector512.Create(scale);
                float* to = scores + j;
                Avx2Kernels.StoreFour(sums.GetLower().GetLower(), to + i * scoresStride, last + 1);
                Avx2Kernels.StoreFour(sums.GetLower().GetUpper(), to + i1 * scoresStride, last + 1);
                Avx2Kernels.StoreFour(sums.GetUpper().GetLower(), to + i2 * scoresStride, last + 1);
                Avx2Kernels.StoreFour(sums.GetUpper().GetUpper(), to + i3 * scoresStride, last + 1);
            }
        }
    }

    /// <summary>Steps l+8 and l+4 of four sums; each keeps a quarter.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Quarters(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d)
    {
        Vector512<float> ab = Avx512F.Shuffle4x128(a, b, 0x44) + Avx512F.Shuffle4x128(a, b, 0xEE), cd = Avx512F.Shuffle4x128(c, d, 0x44) + Avx512F.Shuffle4x128(c, d, 0xEE);
        return Avx512F.Shuffle4x128(ab, cd, 0x88) + Avx512F.Shuffle4x128(ab, cd, 0xDD);
    }

    /// <summary>Step l+2 of two sums in every quarter.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Pairs(Vector512<float> a, Vector512<float> b) => Avx512F.UnpackLow(a, b) + Avx512F.UnpackHigh(a, b);

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override void WeightedSumOfMany(float* p, int queries, nint pStride, float* values, int count, int width, float* acc, nint accStride)
    {
        for (int i = 0; i < queries; i += 4)
        {
            // A missing query is computed as the last one, and stored again.
            nint i1 = Math.Min(i + 1, queries - 1), i2 = Math.Min(i + 2, queries - 1), i3 = Math.Min(i + 3, queries - 1);
            float* p0 = p + i * pStride, p1 = p + i1 * pStride, p2 = p + i2 * pStride, p3 = p + i3 * pStride;
            float* y0 = acc + i * accStride, y1 = acc + i1 * accStride, y2 = acc + i2 * accStride, y3 = acc + i3 * accStride;
            int k = 0;
            for (; k + 64 <= width; k += 64)
            {
                Vector512<float> a00 = Vector512.Load(y0 + k), a01 = Vector512.Load(y0 + k + 16), a02 = Vector512.Load(y0 + k + 32), a03 = Vector512.Load(y0 + k + 48);
                Vector512<float> a10 = Vector512.Load(y1 + k), a11 = Vector512.Load(y1 + k + 16), a12 = Vector512.Load(y1 + k + 32), a13 = Vector512.Load(y1 + k + 48);
                Vector512<float> a20 = Vector512.Load(y2 + k), a21 = Vector512.Load(y2 + k + 16), a22 = Vector512.Load(y2 + k + 32), a23 = Vector512.Load(y2 + k + 48);
                Vector512<float> a30 = Vector512.Load(y3 + k), a31 = Vector512.Load(y3 + k + 16), a32 = Vector512.Load(y3 + k + 32), a33 = Vector512.Load(y3 + k + 48);
                float* value = values + k;
                for (int j = 0; j < count; j++, value += width)
                {
                    Vector512<float> v0 = Vector512.Load(value), v1 = Vector512.Load(value + 16), v2 = Vector512.Load(value + 32), v3 = Vector512.Load(value + 48);
                    Vector512<float> s = Vector512.Create(p0[j]);
                    a00 = Mad(s, v0, a00); a01 = Mad(s, v1, a01); a02 = Mad(s, v2, a02); a03 = Mad(s, v3, a03);
                    s = Vector512.Create(p1[j]);
                    a10 = Mad(s, v0, a10); a11 = Mad(s, v1, a11); a12 = Mad(s, v2, a12); a13 = Mad(s, v3, a13);
                    s = Vector512.Create(p2[j]);
                    a20 = Mad(s, v0, a20); a21 = Mad(s, v1, a21); a22 = Mad(s, v2, a22); a23 = Mad(s, v3, a23);
                    s = Vector512.Create(p3[j]);
                    a30 = Mad(s, v0, a30); a31 = Mad(s, v1, a31); a32 = Mad(s, v2, a32); a33 = Mad(s, v3, a33);
                }
                a00.Store(y0 + k); a01.Store(y0 + k + 16); a02.Store(y0 + k + 32); a03.Store(y0 + k + 48);
                a10.Store(y1 + k); a11.Store(y1 + k + 16); a12.Store(y1 + k + 32); a13.Store(y1 + k + 48);
                a20.Store(y2 + k); a21.Store(y2 + k + 16); a22.Store(y2 + k + 32); a23.Store(y2 + k + 48);
                a30.Store(y3 + k); a31.Store(y3 + k + 16); a32.Store(y3 + k + 32); a33.Store(y3 + k + 48);
            }
            for (; k + 16 <= width; k += 16)
            {
                Vector512<float> a0 = Vector512.Load(y0 + k), a1 = Vector512.Load(y1 + k), a2 = Vector512.Load(y2 + k), a3 = Vector512.Load(y3 + k);
                float* value = values + k;
                for (int j = 0; j < count; j++, value += width)
                {
                    Vector512<float> v = Vector512.Load(value);
                    a0 = Mad(Vector512.Create(p0[j]), v, a0);
                    a1 = Mad(Vector512.Create(p1[j]), v, a1);
                    a2 = Mad(Vector512.Create(p2[j]), v, a2);
                    a3 = Mad(Vector512.Create(p3[j]), v, a3);
                }
                a0.Store(y0 + k); a1.Store(y1 + k); a2.Store(y2 + k); a3.Store(y3 + k);
            }
            for (; k < width; k++)
                for (nint t = i; t < Math.Min(i + 4, queries); t++)
                {
                    float sum = acc[t * accStride + k];
                    for (int j = 0; j < count; j++) sum = MathF.FusedMultiplyAdd(p[t * pStride + j], values[(nint)j * width + k], sum);
                    acc[t * accStride + k] = sum;
                }
        }
    }
}
