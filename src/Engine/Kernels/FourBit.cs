using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What a kernel has to know of a form of q4. The nibbles lie alike in all of them; a form says how the parameters behind them become scales and minima. One generic kernel per
/// operation serves the three at no cost, as the JIT specialises on the struct (see <see cref="IStored"/>). Parameters are widened many at a time, never one by one.
/// </summary>
internal unsafe interface IFourBit
{
    static abstract WeightFormat Format { get; }
    /// <summary>w = scale * q + minimum; else w = scale * (q - 8), the 8 leaving in integers.</summary>
    static abstract bool HasMinimum { get; }

    // Panels: lanes are rows. Parameters point at the first row wanted, blocks ascend, and scratch (ScratchFloats) belongs to this walk through the panel.
    static abstract void Begin8(byte* parameters, int block, float* scratch);
    static abstract Vector256<float> Scale8(byte* parameters, int block, float* scratch);
    static abstract Vector256<float> Minimum8(byte* parameters, int block, float* scratch);
    static abstract void Begin16(byte* parameters, int block, float* scratch);
    static abstract Vector512<float> Scale16(byte* parameters, int block, float* scratch);
    static abstract Vector512<float> Minimum16(byte* parameters, int block, float* scratch);

    // Rows: lanes are the blocks [block, block + 8) of a row. Heads are prepared for four places at once (block is part of the pointer), and i says which of them is meant.
    static abstract Vector256<float> Heads(byte* p0, byte* p1, byte* p2, byte* p3);
    static abstract Vector256<float> BlockScales(byte* p, Vector256<float> heads, int i);
    static abstract Vector256<float> BlockMinima(byte* p, Vector256<float> heads, int i);
    /// <summary>Two rows, the places i and i + 1.</summary>
    static abstract Vector512<float> BlockScales(byte* p, byte* q, Vector256<float> heads, int i);
    static abstract Vector512<float> BlockMinima(byte* p, byte* q, Vector256<float> heads, int i);
}

internal static class FourBit
{
    /// <summary>Scale and minimum of 8 blocks of 16 rows.</summary>
    public const int ScratchFloats = 8 * 2 * 16;
}

/// <summary>q4: an f16 scale per block.</summary>
internal readonly unsafe struct FormA : IFourBit
{
    public static WeightFormat Format => WeightFormat.Q4;
    public static bool HasMinimum => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Begin8(byte* parameters, int block, float* scratch) { }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Scale8(byte* parameters, int block, float* scratch) => StoredF16.Eight(parameters, block * 16);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Minimum8(byte* parameters, int block, float* scratch) => default;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Begin16(byte* parameters, int block, float* scratch) { }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Scale16(byte* parameters, int block, float* scratch) => StoredF16.Sixteen(parameters, block * 16);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Minimum16(byte* parameters, int block, float* scratch) => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Heads(byte* p0, byte* p1, byte* p2, byte* p3) => default;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> BlockScales(byte* p, Vector256<float> heads, int i) => StoredF16.Eight(p, 0);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> BlockMinima(byte* p, Vector256<float> heads, int i) => default;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> BlockScales(byte* p, byte* q, Vector256<float> heads, int i) =>
        FloatMath.FromHalf(Avx512F.ConvertToVector512Int32(Vector256.Create(Vector128.Load((ushort*)p), Vector128.Load((ushort*)q))));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> BlockMinima(byte* p, byte* q, Vector256<float> heads, int i) => default;
}

/// <summary>q4b: a word per block, its low half the f16 scale, its high half the f16 minimum.</summary>
internal readonly unsafe struct FormB : IFourBit
{
    public static WeightFormat Format => WeightFormat.Q4B;
    public static bool HasMinimum => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Begin8(byte* parameters, int block, float* scratch) { }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Scale8(byte* parameters, int block, float* scratch) => LowHalf(Vector256.Load((int*)parameters + block * 16));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Minimum8(byte* parameters, int block, float* scratch) => HighHalf(Vector256.Load((int*)parameters + block * 16));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Begin16(byte* parameters, int block, float* scratch) { }
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Scale16(byte* parameters, int block, float* scratch) => LowHalf(Vector512.Load((int*)parameters + block * 16));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Minimum16(byte* parameters, int block, float* scratch) => HighHalf(Vector512.Load((int*)parameters + block * 16));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Heads(byte* p0, byte* p1, byte* p2, byte* p3) => default;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> BlockScales(byte* p, Vector256<float> heads, int i) => LowHalf(Vector256.Load((int*)p));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> BlockMinima(byte* p, Vector256<float> heads, int i) => HighHalf(Vector256.Load((int*)p));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> BlockScales(byte* p, byte* q, Vector256<float> heads, int i) => LowHalf(Vector512.Create(Vector256.Load((int*)p), Vector256.Load((int*)q)));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> BlockMinima(byte* p, byte* q, Vector256<float> heads, int i) => HighHalf(Vector512.Create(Vector256.Load((int*)p), Vector256.Load((int*)q)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> LowHalf(Vector256<int> words) => FloatMath.FromHalf(words & Vector256.Create(0xFFFF));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> HighHalf(Vector256<int> words) => FloatMath.FromHalf(words >>> 16);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> LowHalf(Vector512<int> words) => FloatMath.FromHalf(words & Vector512.Create(0xFFFF));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> HighHalf(Vector512<int> words) => FloatMath.FromHalf(words >>> 16);
}

/// <summary>
/// q4k: per super-block of 8 blocks a word d | dmin &lt;&lt; 16 and three words of <see cref="SixBits"/>; scale = d * sc, minimum = -dmin * mn, exact products. A panel's are
/// made for 8 blocks at once into the scratch, so that each f16 is widened once.
/// </summary>
internal readonly unsafe struct FormK : IFourBit
{
    public static WeightFormat Format => WeightFormat.Q4K;
    public static bool HasMinimum => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Begin8(byte* parameters, int block, float* scratch)
    {
        if (block % 8 != 0) return;
        int* p = (int*)parameters + block * 8;
        Vector256<int> head = Vector256.Load(p), s = Vector256.Load(p + 16), m = Vector256.Load(p + 32), l = Vector256.Load(p + 48);
        Vector256<int> six = Vector256.Create(63), low = Vector256.Create(15), high = Vector256.Create(48);
        Vector256<float> d = FloatMath.FromHalf(head & Vector256.Create(0xFFFF)), minus = FloatMath.FromHalf((head >>> 16) ^ Vector256.Create(0x8000));
        for (int b = 0; b < 4; b++, scratch += 16)
        {
            (d * Avx.ConvertToVector256Single(s & six)).Store(scratch);
            (minus * Avx.ConvertToVector256Single(m & six)).Store(scratch + 8);
            (d * Avx.ConvertToVector256Single((l & low) | ((s >>> 2) & high))).Store(scratch + 64);
            (minus * Avx.ConvertToVector256Single(((l >>> 4) & low) | ((m >>> 2) & high))).Store(scratch + 72);
            s >>>= 8;
            m >>>= 8;
            l >>>= 8;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Scale8(byte* parameters, int block, float* scratch) => Vector256.Load(scratch + block % 8 * 16);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Minimum8(byte* parameters, int block, float* scratch) => Vector256.Load(scratch + block % 8 * 16 + 8);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Begin16(byte* parameters, int block, float* scratch)
    {
        if (block % 8 != 0) return;
        int* p = (int*)parameters + block * 8;
        Vector512<int> head = Vector512.Load(p), s = Vector512.Load(p + 16), m = Vector512.Load(p + 32), l = Vector512.Load(p + 48);
        Vector512<int> six = Vector512.Create(63), low = Vector512.Create(15), high = Vector512.Create(48);
        Vector512<float> d = FloatMath.FromHalf(head & Vector512.Create(0xFFFF)), minus = FloatMath.FromHalf((head >>> 16) ^ Vector512.Create(0x8000));
        for (int b = 0; b < 4; b++, scratch += 32)
        {
            (d * Avx512F.ConvertToVector512Single(s & six)).Store(scratch);
            (minus * Avx512F.ConvertToVector512Single(m & six)).Store(scratch + 16);
            (d * Avx512F.ConvertToVector512Single((l & low) | ((s >>> 2) & high))).Store(scratch + 128);
            (minus * Avx512F.ConvertToVector512Single(((l >>> 4) & low) | ((m >>> 2) & high))).Store(scratch + 144);
            s >>>= 8;
            m >>>= 8;
            l >>>= 8;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Scale16(byte* parameters, int block, float* scratch) => Vector512.Load(scratch + block % 8 * 32);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Minimum16(byte* parameters, int block, float* scratch) => Vector512.Load(scratch + block % 8 * 32 + 16);

    /// <summary>d and -dmin of four super-blocks, in turn.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Heads(byte* p0, byte* p1, byte* p2, byte* p3)
    {
        Vector128<uint> words = Vector128.Create(*(uint*)p0, *(uint*)p1, *(uint*)p2, *(uint*)p3) ^ Vector128.Create(0x80000000);
        return FloatMath.FromHalf(Avx2.ConvertToVector256Int32(words.AsUInt16()));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> BlockScales(byte* p, Vector256<float> heads, int i) =>
        Bytes(SixBits.Scales(((uint*)p)[1], ((uint*)p)[3])) * Avx2.PermuteVar8x32(heads, Vector256.Create(2 * i));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> BlockMinima(byte* p, Vector256<float> heads, int i) =>
        Bytes(SixBits.Minima(((uint*)p)[2], ((uint*)p)[3])) * Avx2.PermuteVar8x32(heads, Vector256.Create(2 * i + 1));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> BlockScales(byte* p, byte* q, Vector256<float> heads, int i) =>
        Bytes(SixBits.Scales(((uint*)p)[1], ((uint*)p)[3]), SixBits.Scales(((uint*)q)[1], ((uint*)q)[3])) * Two(heads, 2 * i, 2 * i + 2);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> BlockMinima(byte* p, byte* q, Vector256<float> heads, int i) =>
        Bytes(SixBits.Minima(((uint*)p)[2], ((uint*)p)[3]), SixBits.Minima(((uint*)q)[2], ((uint*)q)[3])) * Two(heads, 2 * i + 1, 2 * i + 3);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Bytes(ulong eight) => Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(Vector128.CreateScalarUnsafe(eight).AsByte()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Bytes(ulong eight, ulong more) => Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(Vector128.Create(eight, more).AsByte()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Two(Vector256<float> heads, int first, int second) =>
        Vector512.Create(Avx2.PermuteVar8x32(heads, Vector256.Create(first)), Avx2.PermuteVar8x32(heads, Vector256.Create(second)));
}
