using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models;

/// <summary>Rows of a tensor of the checkpoint.</summary>
internal readonly record struct HeldRows(string Tensor, long First, long Count);

/// <summary>
/// The tensors of a checkpoint by their names there, as floats, whatever file they are in. Each is seen as a matrix of rows as long as its last dimension. Any
/// thread; what is wrong with a file is a <see cref="ModelFormatException"/>.
/// </summary>
internal abstract class WeightSource : IDisposable
{
    /// <summary>The most that one room holds: a feed-forward matrix of a 7B model in 16 bits, of a 13B model in 8.</summary>
    public const int MostHeld = 128 << 20;
    private const int ReadAtOnce = 4 << 20;

    private readonly Scratch<byte>[] _rooms = [new(), new()];
    private readonly Dictionary<string, Held>?[] _held = new Dictionary<string, Held>?[2];

    /// <summary>The file, or the index, that says which tensors there are: for error messages.</summary>
    public abstract string Name { get; }
    public abstract IReadOnlyList<string> Paths { get; }
    public abstract long Bytes { get; }
    /// <summary>The tokenizer that comes with the weights, or null.</summary>
    public virtual VocabularySource? Vocabulary => null;
    /// <summary>Of random weights the seed; null: the weights are a model's.</summary>
    public virtual ulong? SyntheticSeed => null;

    public abstract bool Has(string tensor);
    /// <summary>Outermost dimension first.</summary>
    public abstract IReadOnlyList<long> Shape(string tensor);
    /// <summary>The file a tensor is in.</summary>
    public abstract string PathOf(string tensor);
    /// <summary>Refuses a tensor whose numbers cannot be weights.</summary>
    public abstract void DemandWeights(string tensor);

    public abstract void ReadRows(string tensor, long firstRow, int count, Span<float> destination);

    /// <summary>A rectangle: rows [firstRow, firstRow + rows) x columns [firstCol, firstCol + cols), row after row.</summary>
    public abstract void ReadBlock(string tensor, long firstRow, int rows, long firstCol, int cols, Span<float> destination);

    /// <summary>The package's format that is nearest to how a tensor's rows are stored, and whether it holds them without loss.</summary>
    public abstract (WeightFormat Format, bool Lossless) Nearest(string tensor);

    /// <summary>Rows in the package's format, <paramref name="stride"/> bytes apart, without a detour through floats; only where <see cref="Nearest"/> says that it is lossless.</summary>
    public abstract void ReadStored(string tensor, long firstRow, int count, WeightFormat format, Span<byte> destination, int stride);

    /// <summary>The same for whole blocks of columns [firstCol, firstCol + cols) of each row, as rows of their own.</summary>
    public virtual void ReadStoredBlock(string tensor, long firstRow, int rows, int firstCol, int cols, WeightFormat format, Span<byte> destination, int stride) =>
        throw new InvalidOperationException("nothing is kept without loss here");

    /// <summary>Columns of whole blocks can be had in blocks as well.</summary>
    public virtual bool TurnsBlocks => false;

    /// <summary>Where <see cref="TurnsBlocks"/> says so: of rows [firstRow, firstRow + rows), whole blocks of them, every column as a row of the package, <paramref name="stride"/> bytes apart.</summary>
    public virtual void ReadStoredTurned(string tensor, long firstRow, int rows, WeightFormat format, Span<byte> destination, int stride) => throw new InvalidOperationException("no column has blocks here");

    /// <summary>Stored bytes of a row.</summary>
    protected abstract long RowBytes(string tensor);

    /// <summary>Rows as they are stored, one behind the other.</summary>
    protected abstract void ReadRaw(string tensor, long firstRow, int count, Span<byte> destination);

    /// <summary>Bytes that holding these rows takes.</summary>
    public long HeldBytes(HeldRows rows) => rows.Count * RowBytes(rows.Tensor);

    /// <summary>
    /// Reads rows into one of two rooms, in the place of what was there: from now on pieces of them are copied from there. For what is read in small pieces from all over, which no disk likes. More than
    /// <see cref="MostHeld"/> is left on the disk. One caller at a time; nobody reads what was in the room meanwhile, the other room may be in use.
    /// </summary>
    public virtual void Hold(IReadOnlyList<HeldRows> rows, int room, CancellationToken cancel)
    {
        Volatile.Write(ref _held[room], null);
        long bytes = rows.Sum(HeldBytes);
        if (bytes is 0 or > MostHeld) return;
        byte[] to = _rooms[room].Of((int)bytes);
        var held = new Dictionary<string, Held>(StringComparer.Ordinal);
        int at = 0;
        foreach (HeldRows piece in rows)
        {
            int rowBytes = (int)RowBytes(piece.Tensor), each = Math.Max(1, ReadAtOnce / rowBytes);
            held.Add(piece.Tensor, new Held(to, at, piece.First, piece.Count, rowBytes));
            for (long row = 0; row < piece.Count; row += each)
            {
                cancel.ThrowIfCancellationRequested();
                int count = (int)Math.Min(each, piece.Count - row);
                ReadRaw(piece.Tensor, piece.First + row, count, to.AsSpan(at, count * rowBytes));
                at += count * rowBytes;
            }
        }
        Volatile.Write(ref _held[room], held);
    }

    /// <summary>Where rows [first, first + count) are held; null: nowhere.</summary>
    protected Held? HeldOf(string tensor, long first, int count)
    {
        for (int room = 0; room < _held.Length; room++)
            if (Volatile.Read(ref _held[room]) is { } all && all.TryGetValue(tensor, out Held? held) && first >= held.First && first + count <= held.First + held.Count) return held;
        return null;
    }

    public abstract void Dispose();

    /// <summary>Rows in memory, as they are stored.</summary>
    protected sealed record Held(byte[] Bytes, int At, long First, long Count, int RowBytes)
    {
        public ReadOnlySpan<byte> Row(long row) => Bytes.AsSpan(At + (int)(row - First) * RowBytes, RowBytes);
    }
}
