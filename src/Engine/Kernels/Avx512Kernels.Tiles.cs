using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Whole tiles of q4 (form A), two registers a block of 32 columns, and of q8; the rest as <see cref="Kernels.Tiles"/> does.</summary>
internal sealed unsafe partial class Avx512Kernels
{
    private const int TileRowBytes = BundleLayout.TileColumns / 2 + TileBlocks * 2, TileRowBytesQ8 = BundleLayout.TileColumns + TileBlocks * 2, TileBlocks = BundleLayout.TileColumns / WeightLayout.Block, CoefficientsOfToken = ColumnRows * TileBlocks;

    public override void Tiles(WeightFormat format, byte** tiles, int n, int columns, float* a, nint aStride, int tokens, float* y, nint yStride, bool whole, byte** next = null)
    {
        if (format is not (WeightFormat.Q4 or WeightFormat.Q8) || columns != BundleLayout.TileColumns)
        {
            base.Tiles(format, tiles, n, columns, a, aStride, tokens, y, yStride, whole, next);
            return;
        }
        float* c = stackalloc float[4 * CoefficientsOfToken];
        for (int t = 0, count; t < tokens; t += count, a += count * aStride, y += count * yStride, next = null)
        {
            if (format == WeightFormat.Q8)
            {
                count = 1;
                Coefficients(tiles, n, TileRowBytesQ8, a, aStride, count, c);
                TileOneQ8(tiles, n, c, y, whole, next);
                continue;
            }
            count = tokens - t >= 4 ? 4 : tokens - t >= 2 ? 2 : 1;
            Coefficients(tiles, n, TileRowBytes, a, aStride, count, c);
            switch (count)
            {
                case 4:
                    for (int block = 0; block < TileBlocks; block += 2) TileFour(tiles, n, block, c + block, y + block * WeightLayout.Block, yStride, whole, block == 0 ? next : null);
                    break;
                case 2:
                    for (int block = 0; block < TileBlocks; block += 4) TileTwo(tiles, n, block, c + block, y + block * WeightLayout.Block, yStride, whole, block == 0 ? next : null);
                    break;
                default:
                    TileOne(tiles, n, 0, c, y, whole, next);
                    break;
            }
        }
    }

    /// <summary>c[(t * 128 + i) * 8 + block] = a_ti * scale.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Coefficients(byte** tiles, int n, nint rowBytes, float* a, nint aStride, int tokens, float* c)
    {
        for (int i = 0; i < n; i++, a++, c += TileBlocks)
        {
            Vector256<float> scales = StoredF16.Eight(tiles[i / WeightLayout.PanelRows] + i % WeightLayout.PanelRows * rowBytes + rowBytes - TileBlocks * 2, 0);
            for (int t = 0; t < tokens; t++) (scales * Vector256.Create(a[t * aStride])).Store(c + t * CoefficientsOfToken);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void AskRow(byte* row)
    {
        Sse.Prefetch0(row);
        Sse.Prefetch0(row + 64);
        Sse.Prefetch0(row + 128);
    }

    /// <summary>One token, 256 columns: the sums stay in sixteen registers while the rows pass by.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TileOne(byte** tiles, int n, int block, float* c, float* y, bool whole, byte** next)
    {
        // A permute looks at the low four bits of an index only, so the byte itself chooses its low nibble's value.
        Vector512<float> values = Vector512.Create(-8f, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default, a4 = default, a5 = default, a6 = default, a7 = default, a8 = default, a9 = default, a10 = default, a11 = default, a12 = default, a13 = default, a14 = default, a15 = default;
        if (!whole)
        {
            a0 = Vector512.Load(y); a1 = Vector512.Load(y + 16); a2 = Vector512.Load(y + 32); a3 = Vector512.Load(y + 48); a4 = Vector512.Load(y + 64); a5 = Vector512.Load(y + 80); a6 = Vector512.Load(y + 96); a7 = Vector512.Load(y + 112); a8 = Vector512.Load(y + 128); a9 = Vector512.Load(y + 144); a10 = Vector512.Load(y + 160); a11 = Vector512.Load(y + 176); a12 = Vector512.Load(y + 192); a13 = Vector512.Load(y + 208); a14 = Vector512.Load(y + 224); a15 = Vector512.Load(y + 240);
        }
        for (int i = 0; i < n; i++, c += 8)
        {
            int tile = i / WeightLayout.PanelRows;
            nint at = i % WeightLayout.PanelRows * (nint)TileRowBytes;
            if (next != null) AskRow(next[tile] + at);
            byte* row = tiles[tile] + at + block * 16;
            Vector512<int> w = Bytes(row);
            Vector512<float> low = Avx512F.PermuteVar16x32(values, w), high = Avx512F.PermuteVar16x32(values, w >> 4);
            Vector512<float> s = Vector512.Create(c[0]); a0 = Mad(s, low, a0); a1 = Mad(s, high, a1);
            w = Bytes(row + 16);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[1]); a2 = Mad(s, low, a2); a3 = Mad(s, high, a3);
            w = Bytes(row + 32);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[2]); a4 = Mad(s, low, a4); a5 = Mad(s, high, a5);
            w = Bytes(row + 48);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[3]); a6 = Mad(s, low, a6); a7 = Mad(s, high, a7);
            w = Bytes(row + 64);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[4]); a8 = Mad(s, low, a8); a9 = Mad(s, high, a9);
            w = Bytes(row + 80);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[5]); a10 = Mad(s, low, a10); a11 = Mad(s, high, a11);
            w = Bytes(row + 96);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[6]); a12 = Mad(s, low, a12); a13 = Mad(s, high, a13);
            w = Bytes(row + 112);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[7]); a14 = Mad(s, low, a14); a15 = Mad(s, high, a15);
        }
        Put(a0, a1, y, whole);
        Put(a2, a3, y + 32, whole);
        Put(a4, a5, y + 64, whole);
        Put(a6, a7, y + 96, whole);
        Put(a8, a9, y + 128, whole);
        Put(a10, a11, y + 160, whole);
        Put(a12, a13, y + 192, whole);
        Put(a14, a15, y + 224, whole);
    }

    /// <summary>One token, 256 columns of q8: the sums stay in sixteen registers while the rows pass by.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TileOneQ8(byte** tiles, int n, float* c, float* y, bool whole, byte** next)
    {
        Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default, a4 = default, a5 = default, a6 = default, a7 = default, a8 = default, a9 = default, a10 = default, a11 = default, a12 = default, a13 = default, a14 = default, a15 = default;
        if (!whole)
        {
            a0 = Vector512.Load(y); a1 = Vector512.Load(y + 16); a2 = Vector512.Load(y + 32); a3 = Vector512.Load(y + 48); a4 = Vector512.Load(y + 64); a5 = Vector512.Load(y + 80); a6 = Vector512.Load(y + 96); a7 = Vector512.Load(y + 112); a8 = Vector512.Load(y + 128); a9 = Vector512.Load(y + 144); a10 = Vector512.Load(y + 160); a11 = Vector512.Load(y + 176); a12 = Vector512.Load(y + 192); a13 = Vector512.Load(y + 208); a14 = Vector512.Load(y + 224); a15 = Vector512.Load(y + 240);
        }
        for (int i = 0; i < n; i++, c += 8)
        {
            int tile = i / WeightLayout.PanelRows;
            nint at = i % WeightLayout.PanelRows * (nint)TileRowBytesQ8;
            if (next != null)
            {
                AskRow(next[tile] + at);
                Sse.Prefetch0(next[tile] + at + 192);
            }
            byte* row = tiles[tile] + at;
            Vector512<float> s = Vector512.Create(c[0]); a0 = Mad(s, StoredI8.Sixteen(row, 0), a0); a1 = Mad(s, StoredI8.Sixteen(row, 16), a1);
            s = Vector512.Create(c[1]); a2 = Mad(s, StoredI8.Sixteen(row, 32), a2); a3 = Mad(s, StoredI8.Sixteen(row, 48), a3);
            s = Vector512.Create(c[2]); a4 = Mad(s, StoredI8.Sixteen(row, 64), a4); a5 = Mad(s, StoredI8.Sixteen(row, 80), a5);
            s = Vector512.Create(c[3]); a6 = Mad(s, StoredI8.Sixteen(row, 96), a6); a7 = Mad(s, StoredI8.Sixteen(row, 112), a7);
            s = Vector512.Create(c[4]); a8 = Mad(s, StoredI8.Sixteen(row, 128), a8); a9 = Mad(s, StoredI8.Sixteen(row, 144), a9);
            s = Vector512.Create(c[5]); a10 = Mad(s, StoredI8.Sixteen(row, 160), a10); a11 = Mad(s, StoredI8.Sixteen(row, 176), a11);
            s = Vector512.Create(c[6]); a12 = Mad(s, StoredI8.Sixteen(row, 192), a12); a13 = Mad(s, StoredI8.Sixteen(row, 208), a13);
            s = Vector512.Create(c[7]); a14 = Mad(s, StoredI8.Sixteen(row, 224), a14); a15 = Mad(s, StoredI8.Sixteen(row, 240), a15);
        }
        Put(a0, a1, y, whole);
        Put(a2, a3, y + 32, whole);
        Put(a4, a5, y + 64, whole);
        Put(a6, a7, y + 96, whole);
        Put(a8, a9, y + 128, whole);
        Put(a10, a11, y + 160, whole);
        Put(a12, a13, y + 192, whole);
        Put(a14, a15, y + 224, whole);
    }

    /// <summary>Two tokens, 128 columns: the sums stay in sixteen registers while the rows pass by.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TileTwo(byte** tiles, int n, int block, float* c, float* y, nint yStride, bool whole, byte** next)
    {
        // A permute looks at the low four bits of an index only, so the byte itself chooses its low nibble's value.
        Vector512<float> values = Vector512.Create(-8f, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default, a4 = default, a5 = default, a6 = default, a7 = default;
        Vector512<float> b0 = default, b1 = default, b2 = default, b3 = default, b4 = default, b5 = default, b6 = default, b7 = default;
        if (!whole)
        {
            a0 = Vector512.Load(y); a1 = Vector512.Load(y + 16); a2 = Vector512.Load(y + 32); a3 = Vector512.Load(y + 48); a4 = Vector512.Load(y + 64); a5 = Vector512.Load(y + 80); a6 = Vector512.Load(y + 96); a7 = Vector512.Load(y + 112);
            b0 = Vector512.Load(y + yStride); b1 = Vector512.Load(y + yStride + 16); b2 = Vector512.Load(y + yStride + 32); b3 = Vector512.Load(y + yStride + 48); b4 = Vector512.Load(y + yStride + 64); b5 = Vector512.Load(y + yStride + 80); b6 = Vector512.Load(y + yStride + 96); b7 = Vector512.Load(y + yStride + 112);
        }
        for (int i = 0; i < n; i++, c += 8)
        {
            int tile = i / WeightLayout.PanelRows;
            nint at = i % WeightLayout.PanelRows * (nint)TileRowBytes;
            if (next != null) AskRow(next[tile] + at);
            byte* row = tiles[tile] + at + block * 16;
            Vector512<int> w = Bytes(row);
            Vector512<float> low = Avx512F.PermuteVar16x32(values, w), high = Avx512F.PermuteVar16x32(values, w >> 4);
            Vector512<float> s = Vector512.Create(c[0]); a0 = Mad(s, low, a0); a1 = Mad(s, high, a1);
            s = Vector512.Create(c[1 * CoefficientsOfToken + 0]); b0 = Mad(s, low, b0); b1 = Mad(s, high, b1);
            w = Bytes(row + 16);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[1]); a2 = Mad(s, low, a2); a3 = Mad(s, high, a3);
            s = Vector512.Create(c[1 * CoefficientsOfToken + 1]); b2 = Mad(s, low, b2); b3 = Mad(s, high, b3);
            w = Bytes(row + 32);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[2]); a4 = Mad(s, low, a4); a5 = Mad(s, high, a5);
            s = Vector512.Create(c[1 * CoefficientsOfToken + 2]); b4 = Mad(s, low, b4); b5 = Mad(s, high, b5);
            w = Bytes(row + 48);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[3]); a6 = Mad(s, low, a6); a7 = Mad(s, high, a7);
            s = Vector512.Create(c[1 * CoefficientsOfToken + 3]); b6 = Mad(s, low, b6); b7 = Mad(s, high, b7);
        }
        Put(a0, a1, y, whole);
        Put(a2, a3, y + 32, whole);
        Put(a4, a5, y + 64, whole);
        Put(a6, a7, y + 96, whole);
        Put(b0, b1, y + yStride, whole);
        Put(b2, b3, y + yStride + 32, whole);
        Put(b4, b5, y + yStride + 64, whole);
        Put(b6, b7, y + yStride + 96, whole);
    }

    /// <summary>Four tokens, 64 columns: the sums stay in sixteen registers while the rows pass by.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TileFour(byte** tiles, int n, int block, float* c, float* y, nint yStride, bool whole, byte** next)
    {
        // A permute looks at the low four bits of an index only, so the byte itself chooses its low nibble's value.
        Vector512<float> values = Vector512.Create(-8f, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default;
        Vector512<float> b0 = default, b1 = default, b2 = default, b3 = default;
        Vector512<float> c0 = default, c1 = default, c2 = default, c3 = default;
        Vector512<float> d0 = default, d1 = default, d2 = default, d3 = default;
        if (!whole)
        {
            a0 = Vector512.Load(y); a1 = Vector512.Load(y + 16); a2 = Vector512.Load(y + 32); a3 = Vector512.Load(y + 48);
            b0 = Vector512.Load(y + yStride); b1 = Vector512.Load(y + yStride + 16); b2 = Vector512.Load(y + yStride + 32); b3 = Vector512.Load(y + yStride + 48);
            c0 = Vector512.Load(y + 2 * yStride); c1 = Vector512.Load(y + 2 * yStride + 16); c2 = Vector512.Load(y + 2 * yStride + 32); c3 = Vector512.Load(y + 2 * yStride + 48);
            d0 = Vector512.Load(y + 3 * yStride); d1 = Vector512.Load(y + 3 * yStride + 16); d2 = Vector512.Load(y + 3 * yStride + 32); d3 = Vector512.Load(y + 3 * yStride + 48);
        }
        for (int i = 0; i < n; i++, c += 8)
        {
            int tile = i / WeightLayout.PanelRows;
            nint at = i % WeightLayout.PanelRows * (nint)TileRowBytes;
            if (next != null) AskRow(next[tile] + at);
            byte* row = tiles[tile] + at + block * 16;
            Vector512<int> w = Bytes(row);
            Vector512<float> low = Avx512F.PermuteVar16x32(values, w), high = Avx512F.PermuteVar16x32(values, w >> 4);
            Vector512<float> s = Vector512.Create(c[0]); a0 = Mad(s, low, a0); a1 = Mad(s, high, a1);
            s = Vector512.Create(c[1 * CoefficientsOfToken + 0]); b0 = Mad(s, low, b0); b1 = Mad(s, high, b1);
            s = Vector512.Create(c[2 * CoefficientsOfToken + 0]); c0 = Mad(s, low, c0); c1 = Mad(s, high, c1);
            s = Vector512.Create(c[3 * CoefficientsOfToken + 0]); d0 = Mad(s, low, d0); d1 = Mad(s, high, d1);
            w = Bytes(row + 16);
            low = Avx512F.PermuteVar16x32(values, w); high = Avx512F.PermuteVar16x32(values, w >> 4);
            s = Vector512.Create(c[1]); a2 = Mad(s, low, a2); a3 = Mad(s, high, a3);
            s = Vector512.Create(c[1 * CoefficientsOfToken + 1]); b2 = Mad(s, low, b2); b3 = Mad(s, high, b3);
            s = Vector512.Create(c[2 * CoefficientsOfToken + 1]); c2 = Mad(s, low, c2); c3 = Mad(s, high, c3);
            s = Vector512.Create(c[3 * CoefficientsOfToken + 1]); d2 = Mad(s, low, d2); d3 = Mad(s, high, d3);
        }
        Put(a0, a1, y, whole);
        Put(a2, a3, y + 32, whole);
        Put(b0, b1, y + yStride, whole);
        Put(b2, b3, y + yStride + 32, whole);
        Put(c0, c1, y + 2 * yStride, whole);
        Put(c2, c3, y + 2 * yStride + 32, whole);
        Put(d0, d1, y + 3 * yStride, whole);
        Put(d2, d3, y + 3 * yStride + 32, whole);
    }
}
