using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashOrleans.Engine;

/// <summary>A stored float type that a SIMD kernel reads as f32: one generic kernel per operation serves f32, bf16 and f16 at no cost, as the JIT specialises on the struct.</summary>
internal unsafe interface IStored
{
    static abstract int Bytes { get; }
    static abstract float One(byte* row, int k);
    static abstract Vector256<float> Eight(byte* row, int k);
    static abstract Vector512<float> Sixteen(byte* row, int k);
}

internal readonly unsafe struct StoredF32 : IStored
{
    public static int Bytes => 4;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float One(byte* row, int k) => ((float*)row)[k];
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Eight(byte* row, int k) => Vector256.Load((float*)row + k);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Sixteen(byte* row, int k) => Vector512.Load((float*)row + k);
}

internal readonly unsafe struct StoredBF16 : IStored
{
    public static int Bytes => 2;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float One(byte* row, int k) => FloatMath.FromBFloat16(((ushort*)row)[k]);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Eight(byte* row, int k) => (Avx2.ConvertToVector256Int32((ushort*)row + k) << 16).AsSingle();
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Sixteen(byte* row, int k) => (Avx512F.ConvertToVector512Int32(Vector256.Load((ushort*)row + k)) << 16).AsSingle();
}

internal readonly unsafe struct StoredF16 : IStored
{
    public static int Bytes => 2;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float One(byte* row, int k) => FloatMath.FromHalf(((ushort*)row)[k]);
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Eight(byte* row, int k) => FloatMath.FromHalf(Avx2.ConvertToVector256Int32((ushort*)row + k));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Sixteen(byte* row, int k) => FloatMath.FromHalf(Avx512F.ConvertToVector512Int32(Vector256.Load((ushort*)row + k)));
}

/// <summary>How many tokens, and of how many panels, a tile holds in registers: constants to the JIT, which then drops the accumulators a smaller tile does not use.</summary>
internal interface ITile
{
    static abstract int Tokens { get; }
    static virtual int Panels => 1;
}

internal readonly struct Tile1 : ITile
{
    public static int Tokens => 1;
}

internal readonly struct Tile2 : ITile
{
    public static int Tokens => 2;
}

internal readonly struct Tile4 : ITile
{
    public static int Tokens => 4;
}

/// <summary>The same tokens against two panels.</summary>
internal readonly struct Pair<TTile> : ITile where TTile : struct, ITile
{
    public static int Tokens => TTile.Tokens;
    public static int Panels => 2;
}
