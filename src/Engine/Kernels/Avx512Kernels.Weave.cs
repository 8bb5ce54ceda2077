using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Sixteen rows become a panel: 16 x 16 words of four bytes are turned in registers.</summary>
internal sealed unsafe partial class Avx512Kernels
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override int WeaveWords(byte** rows, int words, byte* panel)
    {
        int at = 0;
        for (; at + 16 <= words; at += 16, panel += 1024) Turn(rows, (nint)at * 4, panel);
        return at;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override int WeaveHalves(byte** rows, nint offset, int halves, byte* panel)
    {
        byte* turned = stackalloc byte[1024];
        int at = 0;
        for (; at + 32 <= halves; at += 32, panel += 1024)
        {
            Turn(rows, offset + at * 2, turned);
            for (int i = 0; i < 1024; i += 64)
            {
                Vector512<uint> pairs = Vector512.Load((uint*)(turned + i));
                Avx512F.ConvertToVector256UInt16(pairs).Store((ushort*)(panel + i));
                Avx512F.ConvertToVector256UInt16(pairs >>> 16).Store((ushort*)(panel + i + 32));
            }
        }
        return at;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Turn(byte** rows, nint at, byte* to)
    {
        // Rows in fours: after two steps the 128-bit lane l of register k holds word 4 l + k of four rows.
        Fours(rows, at, out Vector512<int> a0, out Vector512<int> a1, out Vector512<int> a2, out Vector512<int> a3);
        Fours(rows + 4, at, out Vector512<int> b0, out Vector512<int> b1, out Vector512<int> b2, out Vector512<int> b3);
        Fours(rows + 8, at, out Vector512<int> c0, out Vector512<int> c1, out Vector512<int> c2, out Vector512<int> c3);
        Fours(rows + 12, at, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3);
        Lanes(a0, b0, c0, d0, to);
        Lanes(a1, b1, c1, d1, to + 64);
        Lanes(a2, b2, c2, d2, to + 128);
        Lanes(a3, b3, c3, d3, to + 192);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Fours(byte** rows, nint at, out Vector512<int> w0, out Vector512<int> w1, out Vector512<int> w2, out Vector512<int> w3)
    {
        Vector512<int> r0 = Vector512.Load((int*)(rows[0] + at)), r1 = Vector512.Load((int*)(rows[1] + at)), r2 = Vector512.Load((int*)(rows[2] + at)), r3 = Vector512.Load((int*)(rows[3] + at));
        Vector512<long> low01 = Avx512F.UnpackLow(r0, r1).AsInt64(), high01 = Avx512F.UnpackHigh(r0, r1).AsInt64();
        Vector512<long> low23 = Avx512F.UnpackLow(r2, r3).AsInt64(), high23 = Avx512F.UnpackHigh(r2, r3).AsInt64();
        w0 = Avx512F.UnpackLow(low01, low23).AsInt32();
        w1 = Avx512F.UnpackHigh(low01, low23).AsInt32();
        w2 = Avx512F.UnpackLow(high01, high23).AsInt32();
        w3 = Avx512F.UnpackHigh(high01, high23).AsInt32();
    }

    /// <summary>Lane l of four registers becomes row l, four rows of the panel apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Lanes(Vector512<int> a, Vector512<int> b, Vector512<int> c, Vector512<int> d, byte* to)
    {
        Vector512<int> ab01 = Avx512F.Shuffle4x128(a, b, 0b01_00_01_00), ab23 = Avx512F.Shuffle4x128(a, b, 0b11_10_11_10);
        Vector512<int> cd01 = Avx512F.Shuffle4x128(c, d, 0b01_00_01_00), cd23 = Avx512F.Shuffle4x128(c, d, 0b11_10_11_10);
        Avx512F.Shuffle4x128(ab01, cd01, 0b10_00_10_00).Store((int*)to);
        Avx512F.Shuffle4x128(ab01, cd01, 0b11_01_11_01).Store((int*)(to + 256));
        Avx512F.Shuffle4x128(ab23, cd23, 0b10_00_10_00).Store((int*)(to + 512));
        Avx512F.Shuffle4x128(ab23, cd23, 0b11_01_11_01).Store((int*)(to + 768));
    }
}
