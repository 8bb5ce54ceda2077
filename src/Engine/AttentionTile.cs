using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Queries that read the same keys and values together: the heads of one group, of some rows of one session. How many, and what they need of scratch, in numbers.</summary>
internal readonly record struct AttentionTile(int Rows, int Queries, int KeyDim, int ValueDim)
{
    /// <summary>Queries that keys and values, made floats, should serve at least; more would not stay in the second cache beside them.</summary>
    private const int WantedQueries = 32;
    /// <summary>Splits of whole tiles that there is room for, a thread. Steps that share positions have a row or two, so many more of theirs.</summary>
    public const int SplitsPerThread = 4;

    public static AttentionTile Of(ModelConfig c)
    {
        int group = c.Heads / c.KvHeads, rows = Math.Max(1, WantedQueries / group);
        return new(rows, rows * group, c.HeadDim, c.ValueHeadDim);
    }

    /// <summary>A split of a query: its weighted sum, its largest score, its sum.</summary>
    public int ResultFloats => ValueDim + 2;
    public long SplitFloats => (long)Queries * ResultFloats;
    public long ScoresAt => (long)Queries * KeyDim;
    public long SplitAt => ScoresAt + (long)Queries * Numerics.SplitPositions;
    public long RoomAt => SplitAt + SplitFloats;
    /// <summary>Of one worker: queries, scores, a split, and the room for keys or values; a multiple of 16, so that workers share no line.</summary>
    public long Floats => (RoomAt + Kernels.RoomFloats(Queries, Math.Max(KeyDim, ValueDim)) + 15) & ~15L;
}
