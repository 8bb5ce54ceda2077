using CsCheck;

namespace FlashOrleans.Engine.Tests;

/// <summary>Several queries over the same keys and values: each gets the bits that scalar gives it alone, whatever the type and the number of queries.</summary>
public sealed unsafe class SharedQueriesTests
{
    public static TheoryData<string> Names() => [.. Kernels.Available];

    [Theory, MemberData(nameof(Names))]
    public void Each_of_several_queries_gets_the_bits_it_gets_alone(string name) =>
        Gen.Select(ExactnessTests.OneOf(4, 16, 20, 48, 64, 80, 96, 128, 192), Gen.Int[1, 64], Gen.Int[1, 11], ExactnessTests.OneOf(KvType.F32, KvType.F16, KvType.Q8), Made.AnyKind, Gen.Int[0, 1 << 20]).Sample((width, count, queries, type, kind, seed) =>
        {
            int qStride = width + 3, pStride = 70, accStride = width + 2;
            float[] stored = Made.Floats(count * width, kind, seed);
            using Native cache = type switch
            {
                KvType.F32 => Native.Of<float>(stored, 4),
                KvType.F16 => Native.Of<ushort>([.. stored.Select(static v => FloatMath.ToHalf(Math.Clamp(v, -60000f, 60000f)))], 2),
                _ => Native.Of<sbyte>([.. stored.Select(static (v, i) => (sbyte)(i * 37 % 255 - 127))], 1),
            };
            using Native q = Native.Of<float>(Made.Floats(queries * qStride, Kind.Ordinary, seed + 1), 8), p = Native.Of<float>(Made.Floats(queries * pStride, Kind.Ordinary, seed + 2), 4);
            using Native scales = Native.Of<float>(Made.Floats(count, Kind.Ordinary, seed + 3), 12), room = new((int)Kernels.RoomFloats(queries, width) * 4, 0);
            float[] start = Made.Floats(queries * accStride, Kind.Ordinary, seed + 4);
            using Native expectedScores = new(queries * pStride * 4, 4), scores = new(queries * pStride * 4, 4), expectedSums = Native.Of<float>(start, 8), sums = Native.Of<float>(start, 8);
            var scalar = Kernels.Choose("scalar");
            for (int i = 0; i < queries; i++)
            {
                scalar.ScoresOfMany(type, q.Floats + i * qStride, 1, qStride, cache.Pointer, scales.Floats, count, width, 0.125f, expectedScores.Floats + i * pStride, pStride, room.Floats);
                scalar.WeightedSumOfMany(type, p.Floats + i * pStride, 1, pStride, cache.Pointer, scales.Floats, count, width, expectedSums.Floats + i * accStride, accStride, room.Floats);
            }
            var kernels = Kernels.Choose(name);
            kernels.ScoresOfMany(type, q.Floats, queries, qStride, cache.Pointer, scales.Floats, count, width, 0.125f, scores.Floats, pStride, room.Floats, cache.Pointer);
            kernels.WeightedSumOfMany(type, p.Floats, queries, pStride, cache.Pointer, scales.Floats, count, width, sums.Floats, accStride, room.Floats, cache.Pointer);
            Assert.True(expectedScores.Same(scores), $"scores: {width} x {count}, {queries} queries, {type} {kind} {seed}");
            Assert.True(expectedSums.Same(sums), $"sums: {width} x {count}, {queries} queries, {type} {kind} {seed}");
        }, iter: 400);
}
