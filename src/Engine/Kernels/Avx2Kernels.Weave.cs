using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashOrleans.Engine;

/// <summary>Sixteen rows become a panel: 8 x 8 words of four bytes are turned in registers.</summary>
internal sealed unsafe partial class Avx2Kernels
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override int WeaveWords(byte** rows, int words, byte* panel)
    {
        int at = 0;
        for (; at + 8 <= words; at += 8, panel += 512)
        {
            Turn(rows, (nint)at * 4, panel);
            Turn(rows + 8, (nint)at * 4, panel + 32);
        }
        return at;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    protected override int WeaveHalves(byte** rows, nint offset, int halves, byte* panel)
    {
        byte* turned = stackalloc byte[512];
        int at = 0;
        Vector256<int> low = Vector256.Create(0xFFFF);
        for (; at + 16 <= halves; at += 16, panel += 512)
        {
            Turn(rows, offset + at * 2, turned);
            Turn(rows + 8, offset + at * 2, turned + 32);
            for (int i = 0; i < 512; i += 64)
            {
                // Packing interleaves 128-bit halves; the permute puts the rows back in order.
                Vector256<int> first = Vector256.Load((int*)(turned + i)), second = Vector256.Load((int*)(turned + i + 32));
                Avx2.Permute4x64(Avx2.PackUnsignedSaturate(first & low, second & low).AsInt64(), 0b11_01_10_00).Store((long*)(panel + i));
                Avx2.Permute4x64(Avx2.PackUnsignedSaturate(first >>> 16, second >>> 16).AsInt64(), 0b11_01_10_00).Store((long*)(panel + i + 32));
            }
        }
        return at;
    }

    /// <summary>Eight words of eight rows; a line of the panel is 64 bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Turn(byte** rows, nint at, byte* to)
    {
        Fours(rows, at, out Vector256<int> a0, out Vector256<int> a1, out Vector256<int> a2, out Vector256<int> a3);
        Fours(rows + 4, at, out Vector256<int> b0, out Vector256<int> b1, out Vector256<int> b2, out Vector256<int> b3);
        Avx2.Permute2x128(a0, b0, 0x20).Store((int*)to);
        Avx2.Permute2x128(a1, b1, 0x20).Store((int*)(to + 64));
        Avx2.Permute2x128(a2, b2, 0x20).Store((int*)(to + 128));
        Avx2.Permute2x128(a3, b3, 0x20).Store((int*)(to + 192));
        Avx2.Permute2x128(a0, b0, 0x31).Store((int*)(to + 256));
        Avx2.Permute2x128(a1, b1, 0x31).Store((int*)(to + 320));
        Avx2.Permute2x128(a2, b2, 0x31).Store((int*)(to + 384));
        Avx2.Permute2x128(a3, b3, 0x31).Store((int*)(to + 448));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Fours(byte** rows, nint at, out Vector256<int> w0, out Vector256<int> w1, out Vector256<int> w2, out Vector256<int> w3)
    {
        Vector256<int> r0 = Vector256.Load((int*)(rows[0] + at)), r1 = Vector256.Load((int*)(rows[1] + at)), r2 = Vector256.Load((int*)(rows[2] + at)), r3 = Vector256.Load((int*)(rows[3] + at));
        Vector256<long> low01 = Avx2.UnpackLow(r0, r1).AsInt64(), high01 = Avx2.UnpackHigh(r0, r1).AsInt64();
        Vector256<long> low23 = Avx2.UnpackLow(r2, r3).AsInt64(), high23 = Avx2.UnpackHigh(r2, r3).AsInt64();
        w0 = Avx2.UnpackLow(low01, low23).AsInt32();
        w1 = Avx2.UnpackHigh(low01, low23).AsInt32();
        w2 = Avx2.UnpackLow(high01, high23).AsInt32();
        w3 = Avx2.UnpackHigh(high01, high23).AsInt32();
    }
}
