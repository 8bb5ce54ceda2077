using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace FlashOrleans.Engine;

/// <summary>
/// The elementary functions every kernel variant shares: exp, f16 and bf16. Each function is written once for a scalar and once per vector width, from the same
/// IEEE operations in the same order, so that the bits agree on every machine; nothing here asks the platform's libm or an *Estimate instruction. No state, any thread.
/// NaN stays NaN (its payload is not promised).
/// </summary>
internal static class FloatMath
{
    private const float Log2E = 1.44269504f;
    // ln 2 in two pieces: n * Ln2High is exact for |n| <= 150 (its low 9 bits are zero).
    private const float Ln2High = 0.693145752f;
    private const float Ln2Low = 1.42860677e-6f;
    // 1.5 * 2^23: adding it rounds to an integer (nearest even) and leaves that integer in the low bits.
    private const float RoundMagic = 12582912f;
    private const int RoundMagicBits = 0x4B400000;
    // Beyond these exp is +inf and +0; between them |n| <= 150, so both halves of 2^n are normal numbers.
    private const float ExpHigh = 88.8f;
    private const float ExpLow = -104f;
    // Taylor to degree 7: truncation at |r| = ln2/2 is 0.1 ulp.
    private const float C2 = 1f / 2, C3 = 1f / 6, C4 = 1f / 24, C5 = 1f / 120, C6 = 1f / 720, C7 = 1f / 5040;

    /// <summary>e^x, below 2 ulp of error everywhere, results that are subnormal included; exp(-inf) = +0.</summary>
    public static float Exp(float x)
    {
        if (x > ExpHigh) return float.PositiveInfinity;
        if (x < ExpLow) return 0f;
        float t = MathF.FusedMultiplyAdd(x, Log2E, RoundMagic);
        float n = t - RoundMagic;
        float r = MathF.FusedMultiplyAdd(n, -Ln2High, x);
        r = MathF.FusedMultiplyAdd(n, -Ln2Low, r);
        float p = MathF.FusedMultiplyAdd(C7, r, C6);
        p = MathF.FusedMultiplyAdd(p, r, C5);
        p = MathF.FusedMultiplyAdd(p, r, C4);
        p = MathF.FusedMultiplyAdd(p, r, C3);
        p = MathF.FusedMultiplyAdd(p, r, C2);
        p = MathF.FusedMultiplyAdd(p, r, 1f);
        p = MathF.FusedMultiplyAdd(p, r, 1f);
        // 2^n in two factors: the first product is exact, so a subnormal result is rounded once.
        int e = BitConverter.SingleToInt32Bits(t) - RoundMagicBits;
        int half = e >> 1;
        return p * PowerOfTwo(half) * PowerOfTwo(e - half);
    }

    /// <summary>Twin of <see cref="Exp(float)"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Exp(Vector256<float> x)
    {
        Vector256<float> magic = Vector256.Create(RoundMagic);
        Vector256<float> t = Vector256.FusedMultiplyAdd(x, Vector256.Create(Log2E), magic);
        Vector256<float> n = t - magic;
        Vector256<float> r = Vector256.FusedMultiplyAdd(n, Vector256.Create(-Ln2High), x);
        r = Vector256.FusedMultiplyAdd(n, Vector256.Create(-Ln2Low), r);
        Vector256<float> p = Vector256.FusedMultiplyAdd(Vector256.Create(C7), r, Vector256.Create(C6));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(C5));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(C4));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(C3));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(C2));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(1f));
        p = Vector256.FusedMultiplyAdd(p, r, Vector256.Create(1f));
        Vector256<int> e = t.AsInt32() - Vector256.Create(RoundMagicBits);
        Vector256<int> half = e >> 1;
        Vector256<int> bias = Vector256.Create(127);
        p = p * ((half + bias) << 23).AsSingle() * ((e - half + bias) << 23).AsSingle();
        p = Vector256.ConditionalSelect(Vector256.GreaterThan(x, Vector256.Create(ExpHigh)), Vector256.Create(float.PositiveInfinity), p);
        return Vector256.ConditionalSelect(Vector256.LessThan(x, Vector256.Create(ExpLow)), Vector256<float>.Zero, p);
    }

    /// <summary>Twin of <see cref="Exp(float)"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Exp(Vector512<float> x)
    {
        Vector512<float> magic = Vector512.Create(RoundMagic);
        Vector512<float> t = Vector512.FusedMultiplyAdd(x, Vector512.Create(Log2E), magic);
        Vector512<float> n = t - magic;
        Vector512<float> r = Vector512.FusedMultiplyAdd(n, Vector512.Create(-Ln2High), x);
        r = Vector512.FusedMultiplyAdd(n, Vector512.Create(-Ln2Low), r);
        Vector512<float> p = Vector512.FusedMultiplyAdd(Vector512.Create(C7), r, Vector512.Create(C6));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(C5));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(C4));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(C3));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(C2));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f));
        Vector512<int> e = t.AsInt32() - Vector512.Create(RoundMagicBits);
        Vector512<int> half = e >> 1;
        Vector512<int> bias = Vector512.Create(127);
        p = p * ((half + bias) << 23).AsSingle() * ((e - half + bias) << 23).AsSingle();
        p = Vector512.ConditionalSelect(Vector512.GreaterThan(x, Vector512.Create(ExpHigh)), Vector512.Create(float.PositiveInfinity), p);
        return Vector512.ConditionalSelect(Vector512.LessThan(x, Vector512.Create(ExpLow)), Vector512<float>.Zero, p);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float PowerOfTwo(int e) => BitConverter.Int32BitsToSingle((e + 127) << 23);

    /// <summary>f16 to f32, exact. A subnormal is built beside 2^-14 and moved down by a subtraction, so no subnormal float is ever an operand (slow on some CPUs).</summary>
    public static float FromHalf(ushort h)
    {
        int magnitude = h & 0x7FFF;
        int bits = (magnitude << 13) + 0x38000000;
        if (magnitude < 0x400) bits = BitConverter.SingleToInt32Bits(BitConverter.Int32BitsToSingle(bits + 0x00800000) - BitConverter.Int32BitsToSingle(0x38800000));
        if (magnitude >= 0x7C00) bits += 0x38000000;
        return BitConverter.Int32BitsToSingle(bits | (h & 0x8000) << 16);
    }

    private const float TwoTo112 = 5192296858534827628530496329220096f;

    /// <summary>Twin of <see cref="FromHalf(ushort)"/>: eight f16, each zero-extended to 32 bits. Its sign, exponent and mantissa, put where f32 has them, are 2^-112 of the number, which a product restores:
    /// exact, and of subnormal operands only where the f16 is one. Infinity and NaN keep their mantissa.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> FromHalf(Vector256<int> h)
    {
        Vector256<int> small = ((h << 16) >> 3) & Vector256.Create(unchecked((int)0x8FFFE000));
        Vector256<int> value = (small.AsSingle() * Vector256.Create(TwoTo112)).AsInt32(), exponent = Vector256.Create(0x7C00);
        return Vector256.ConditionalSelect(Vector256.Equals(h & exponent, exponent), value | Vector256.Create(0x7F800000), value).AsSingle();
    }

    /// <summary>Twin of <see cref="FromHalf(ushort)"/>: sixteen f16, each zero-extended to 32 bits; as <see cref="FromHalf(Vector256{int})"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> FromHalf(Vector512<int> h)
    {
        Vector512<int> small = ((h << 16) >> 3) & Vector512.Create(unchecked((int)0x8FFFE000));
        Vector512<int> value = (small.AsSingle() * Vector512.Create(TwoTo112)).AsInt32(), exponent = Vector512.Create(0x7C00);
        return Vector512.ConditionalSelect(Vector512.Equals(h & exponent, exponent), value | Vector512.Create(0x7F800000), value).AsSingle();
    }

    /// <summary>f32 to f16, nearest even; too large becomes infinity, NaN becomes the quiet NaN of its sign.</summary>
    public static ushort ToHalf(float x)
    {
        int bits = BitConverter.SingleToInt32Bits(x);
        int magnitude = bits & 0x7FFFFFFF;
        int sign = bits >> 16 & 0x8000;
        int half;
        if (magnitude >= 0x47800000) half = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
        // Below 2^-14: 0.5f has the spacing of f16 subnormals, so the addition rounds for us.
        else if (magnitude < 0x38800000) half = BitConverter.SingleToInt32Bits(BitConverter.Int32BitsToSingle(magnitude) + 0.5f) - 0x3F000000;
        else half = magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1) >> 13;
        return (ushort)(half | sign);
    }

    /// <summary>Twin of <see cref="ToHalf(float)"/>; each result in the low half of its lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<int> ToHalf(Vector256<float> x)
    {
        Vector256<int> bits = x.AsInt32();
        Vector256<int> magnitude = bits & Vector256.Create(0x7FFFFFFF);
        Vector256<int> sign = (bits >>> 16) & Vector256.Create(0x8000);
        Vector256<int> odd = (magnitude >> 13) & Vector256<int>.One;
        Vector256<int> half = (magnitude - Vector256.Create(0x38000000 - 0xFFF) + odd) >> 13;
        Vector256<int> subnormal = (magnitude.AsSingle() + Vector256.Create(0.5f)).AsInt32() - Vector256.Create(0x3F000000);
        Vector256<int> large = Vector256.Create(0x7C00) | (Vector256.GreaterThan(magnitude, Vector256.Create(0x7F800000)) & Vector256.Create(0x0200));
        half = Vector256.ConditionalSelect(Vector256.GreaterThan(Vector256.Create(0x38800000), magnitude), subnormal, half);
        half = Vector256.ConditionalSelect(Vector256.GreaterThan(magnitude, Vector256.Create(0x477FFFFF)), large, half);
        return half | sign;
    }

    /// <summary>Twin of <see cref="ToHalf(float)"/>; each result in the low half of its lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> ToHalf(Vector512<float> x)
    {
        Vector512<int> bits = x.AsInt32();
        Vector512<int> magnitude = bits & Vector512.Create(0x7FFFFFFF);
        Vector512<int> sign = (bits >>> 16) & Vector512.Create(0x8000);
        Vector512<int> odd = (magnitude >> 13) & Vector512<int>.One;
        Vector512<int> half = (magnitude - Vector512.Create(0x38000000 - 0xFFF) + odd) >> 13;
        Vector512<int> subnormal = (magnitude.AsSingle() + Vector512.Create(0.5f)).AsInt32() - Vector512.Create(0x3F000000);
        Vector512<int> large = Vector512.Create(0x7C00) | (Vector512.GreaterThan(magnitude, Vector512.Create(0x7F800000)) & Vector512.Create(0x0200));
        half = Vector512.ConditionalSelect(Vector512.GreaterThan(Vector512.Create(0x38800000), magnitude), subnormal, half);
        half = Vector512.ConditionalSelect(Vector512.GreaterThan(magnitude, Vector512.Create(0x477FFFFF)), large, half);
        return half | sign;
    }

    public static float FromBFloat16(ushort b) => BitConverter.Int32BitsToSingle(b << 16);

    /// <summary>f32 to bf16, nearest even; NaN becomes quiet.</summary>
    public static ushort ToBFloat16(float x)
    {
        uint bits = BitConverter.SingleToUInt32Bits(x);
        if ((bits & 0x7FFFFFFF) > 0x7F800000) return (ushort)(bits >> 16 | 0x40);
        return (ushort)(bits + 0x7FFF + (bits >> 16 & 1) >> 16);
    }
}
