using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FlashOrleans.Engine;

/// <summary>8-bit integers read as f32, exactly.</summary>
internal readonly unsafe struct StoredI8 : IStored
{
    public static int Bytes => 1;
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float One(byte* row, int k) => ((sbyte*)row)[k];
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Eight(byte* row, int k) => Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32((sbyte*)row + k));
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Sixteen(byte* row, int k) => Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(Vector128.Load((sbyte*)row + k)));
}
