using System.Buffers;
using System.IO.Hashing;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Text;
using FlashOrleans.Flash;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models.Synthetic;

/// <summary>
/// Random weights of any shape, made when they are read: every block is a function of (seed, tensor, row, block), in the form in which it is stored, so that any part of any tensor
/// can be had alone, at once and again. A matrix consists of tiles of 32 × 32 numbers with one scale each, and with the largest integer of the format somewhere in each of its rows and
/// columns (on the diagonal): the same numbers can therefore be stored along rows and along columns, and quantising them anew along the other side finds the same
/// scales and integers. Magnitudes keep activations near 1 through all layers. No state; any thread.
/// </summary>
internal sealed class SyntheticWeights : BlockWeights
{
    private const int Tile = WeightLayout.Block;
    /// <summary>Root mean square of the integers of a tile, the diagonal included.</summary>
    private const float FourBits = 4.78f, EightBits = 75.6f;

    private readonly Dictionary<string, Tensor> _tensors = new(StringComparer.Ordinal);

    private sealed record Tensor(long[] Shape, GgufType Type, ulong Key, float Size)
    {
        public required bool IsVector { get; init; }
        public int Columns { get; } = (int)Shape[^1];
        /// <summary>Blocks of 32 in a row, the last one perhaps cut off.</summary>
        public ulong Blocks { get; } = ((ulong)Shape[^1] + Tile - 1) / Tile;
    }

    /// <param name="name">What messages call the weights.</param>
    /// <param name="config">The model, for the magnitudes.</param>
    /// <param name="shapes">The tensors to have.</param>
    /// <param name="matrices">How the matrices are stored: F32, BF16, Q8_0 or Q4_0; rows that do not divide into blocks are BF16 then. Vectors are F32.</param>
    /// <param name="seed">Another seed, other numbers.</param>
    /// <param name="vocabulary">The tokenizer to go with them.</param>
    public SyntheticWeights(string name, ModelConfig config, IEnumerable<SourceShape> shapes, GgufType matrices, ulong seed, VocabularySource? vocabulary)
    {
        Name = name;
        Vocabulary = vocabulary;
        SyntheticSeed = seed;
        foreach (SourceShape shape in shapes)
        {
            bool vector = shape.Shape.Length == 1 || shape.Name.EndsWith(".bias", StringComparison.Ordinal), router = shape.Name.EndsWith("ffn_gate_inp.weight", StringComparison.Ordinal);
            GgufType type = vector || router ? GgufType.F32 : shape.Shape[^1] % GgufTypes.Block(matrices).Values == 0 ? matrices : GgufType.BF16;
            _tensors.Add(shape.Name, new Tensor(shape.Shape, type, XxHash3.HashToUInt64(Encoding.UTF8.GetBytes(shape.Name), (long)seed), Magnitude(config, shape)) { IsVector = vector });
        }
    }

    public override string Name { get; }
    public override IReadOnlyList<string> Paths => [];
    public override long Bytes => _tensors.Values.Sum(static t => t.Shape.Aggregate(1L, static (a, b) => a * b) / GgufTypes.Block(t.Type).Values * GgufTypes.Block(t.Type).Bytes);
    public override VocabularySource? Vocabulary { get; }
    public override ulong? SyntheticSeed { get; }

    public override bool Has(string tensor) => _tensors.ContainsKey(tensor);
    public override IReadOnlyList<long> Shape(string tensor) => _tensors[tensor].Shape;
    public override string PathOf(string tensor) => Name;
    public override void Dispose() { }

    /// <summary>The edge's first, then layer by layer.</summary>
    public IReadOnlyCollection<string> Tensors => _tensors.Keys;

    public GgufType StoredAs(string tensor) => _tensors[tensor].Type;

    protected override GgufType TypeOf(string tensor) => _tensors[tensor].Type;
    protected override int Columns(string tensor) => _tensors[tensor].Columns;
    protected override long RowBytes(string tensor) => (long)Columns(tensor) / GgufTypes.Block(TypeOf(tensor)).Values * GgufTypes.Block(TypeOf(tensor)).Bytes;

    protected override void ReadRaw(string tensor, long firstRow, int count, Span<byte> destination)
    {
        int rowBytes = destination.Length / Math.Max(count, 1);
        for (int r = 0; r < count; r++) ReadRow(tensor, firstRow + r, destination.Slice(r * rowBytes, rowBytes));
    }

    /// <summary>Any part is made when it is asked for.</summary>
    public override void Hold(IReadOnlyList<HeldRows> rows, int room, CancellationToken cancel) { }
    protected override void ReadBlocks(string tensor, long row, int firstBlock, Span<byte> to) => Blocks(_tensors[tensor], row, firstBlock, to);

    /// <summary>A row as a GGUF file stores it.</summary>
    public void ReadRow(string tensor, long row, Span<byte> to) => Blocks(_tensors[tensor], row, 0, to);

    /// <summary>Rows [first, first + 32) of the transpose of a matrix, of one expert's where there are several, or as many as there are, as a GGUF file stores them; <paramref name="first"/> is a multiple of 32.</summary>
    public void ReadTransposed(string tensor, int expert, int first, Span<byte> to)
    {
        Tensor t = _tensors[tensor];
        int rows = (int)t.Shape[^2];
        Transpose(t, (long)expert * rows, rows, first, to);
    }

    /// <summary>A matrix's tiles are the same along both sides.</summary>
    public override bool TurnsBlocks => true;

    public override void ReadStoredTurned(string tensor, long firstRow, int rows, WeightFormat format, Span<byte> destination, int stride)
    {
        Tensor t = _tensors[tensor];
        (int values, int bytes) = GgufTypes.Block(t.Type);
        int rowBytes = rows / values * bytes;
        byte[] turned = ArrayPool<byte>.Shared.Rent(Tile * rowBytes);
        for (int first = 0; first < t.Columns; first += Tile)
        {
            Transpose(t, firstRow, rows, first, turned);
            for (int i = 0; i < Math.Min(Tile, t.Columns - first); i++) Keep(turned.AsSpan(i * rowBytes, rowBytes), rows, format, destination[((first + i) * stride)..]);
        }
        ArrayPool<byte>.Shared.Return(turned);
    }

    /// <summary>Columns [first, first + 32) of some rows, from a multiple of 32 on.</summary>
    private static void Transpose(Tensor t, long firstRow, int rows, int first, Span<byte> to)
    {
        int width = Math.Min(Tile, t.Columns - first);
        (int values, int bytes) = GgufTypes.Block(t.Type);
        int rowBytes = rows / values * bytes, tileBytes = width / Math.Min(values, width) * bytes;
        Span<byte> tile = stackalloc byte[Tile * Tile * 4];
        Span<byte> flat = stackalloc byte[Tile * Tile];
        for (int row = 0; row < rows; row += Tile)
        {
            int height = Math.Min(Tile, rows - row);
            for (int r = 0; r < height; r++) Blocks(t, firstRow + row + r, first / values, tile.Slice(r * tileBytes, tileBytes));
            switch (t.Type)
            {
                case GgufType.F32: Turn(MemoryMarshal.Cast<byte, float>(tile), height, width, MemoryMarshal.Cast<byte, float>(to)[row..], rows); break;
                case GgufType.BF16: Turn(MemoryMarshal.Cast<byte, ushort>(tile), height, width, MemoryMarshal.Cast<byte, ushort>(to)[row..], rows); break;
                default: TurnBlocks(t.Type, tile, tileBytes, flat, to[(row / Tile * bytes)..], rowBytes); break;
            }
        }
    }

    private static void Turn<T>(ReadOnlySpan<T> from, int height, int width, Span<T> to, int stride)
    {
        for (int r = 0; r < height; r++)
            for (int c = 0; c < width; c++) to[c * stride + r] = from[r * width + c];
    }

    /// <summary>A tile of 32 blocks to the 32 blocks of its columns: the scale is the same for all.</summary>
    private static void TurnBlocks(GgufType type, ReadOnlySpan<byte> tile, int bytes, Span<byte> flat, Span<byte> to, int stride)
    {
        bool four = type == GgufType.Q4_0;
        for (int r = 0; r < Tile; r++)
        {
            ReadOnlySpan<byte> from = tile.Slice(r * bytes + 2, bytes - 2);
            if (!four)
                for (int c = 0; c < Tile; c++) flat[c * Tile + r] = from[c];
            else
                for (int c = 0; c < Tile / 2; c++)
                {
                    flat[c * Tile + r] = (byte)(from[c] & 15);
                    flat[(c + 16) * Tile + r] = (byte)(from[c] >> 4);
                }
        }
        for (int c = 0; c < Tile; c++)
        {
            Span<byte> block = to.Slice(c * stride, bytes);
            tile[..2].CopyTo(block);
            ReadOnlySpan<byte> column = flat.Slice(c * Tile, Tile);
            if (!four) column.CopyTo(block[2..]);
            else (Vector128.Create(column[..16]) | Vector128.Create(column[16..]) << 4).CopyTo(block[2..]);
        }
    }

    private static void Blocks(Tensor t, long row, int first, Span<byte> to)
    {
        switch (t.Type)
        {
            case GgufType.Q4_0: FourBitBlocks(t, row, first, to); break;
            case GgufType.Q8_0: EightBitBlocks(t, row, first, to); break;
            case GgufType.BF16: Numbers(t, row, first, MemoryMarshal.Cast<byte, ushort>(to), ToBFloat16); break;
            case GgufType.F32 when !t.IsVector: Numbers(t, row, first, MemoryMarshal.Cast<byte, float>(to), static x => x); break;
            default:
                Span<float> entries = MemoryMarshal.Cast<byte, float>(to);
                for (int i = 0; i < entries.Length; i++) entries[i] = Entry(t, (int)row * t.Columns + first + i);
                break;
        }
    }

    private static void FourBitBlocks(Tensor t, long row, int first, Span<byte> to)
    {
        int diagonal = (int)(row % Tile);
        ulong counter = ((ulong)row * t.Blocks + (ulong)first) * 2;
        for (int block = first; to.Length > 0; block++, counter += 2, to = to[18..])
        {
            MemoryMarshal.Write(to, Half(t, row, block, FourBits, signed: true));
            MemoryMarshal.Write(to[2..], Word(t.Key, counter));
            MemoryMarshal.Write(to[10..], Word(t.Key, counter + 1));
            // The nibble 0 is -8, the largest there is.
            to[2 + diagonal % 16] &= (byte)(diagonal < 16 ? 0xF0 : 0x0F);
        }
    }

    private static void EightBitBlocks(Tensor t, long row, int first, Span<byte> to)
    {
        for (int block = first; to.Length > 0; block++, to = to[34..])
        {
            MemoryMarshal.Write(to, Half(t, row, block, EightBits, signed: false));
            Bytes8(t, row, block).CopyTo(MemoryMarshal.Cast<byte, sbyte>(to.Slice(2, Tile)));
        }
    }

    /// <summary>32 integers from -127 to 127, one of them at the end of that range.</summary>
    private static Vector256<sbyte> Bytes8(Tensor t, long row, int block)
    {
        ulong counter = ((ulong)row * t.Blocks + (ulong)block) * 4;
        Vector256<sbyte> q = Vector256.Create(Word(t.Key, counter), Word(t.Key, counter + 1), Word(t.Key, counter + 2), Word(t.Key, counter + 3)).AsSByte();
        q = Vector256.Max(q, Vector256.Create((sbyte)-127));
        int diagonal = (int)(row % Tile);
        return q.WithElement(diagonal, (sbyte)(q.GetElement(diagonal) < 0 ? -127 : 127));
    }

    /// <summary>Numbers of a matrix of floats: those of the 8-bit form, so that one arithmetic makes all.</summary>
    private static void Numbers<T>(Tensor t, long row, int first, Span<T> to, Func<float, T> store)
    {
        Span<sbyte> integers = stackalloc sbyte[Tile];
        while (to.Length > 0)
        {
            Bytes8(t, row, first / Tile).CopyTo(integers);
            float scale = (float)BitConverter.UInt16BitsToHalf(Half(t, row, first / Tile, EightBits, signed: false));
            int skip = first % Tile, count = Math.Min(Tile - skip, to.Length);
            for (int i = 0; i < count; i++) to[i] = store(scale * integers[skip + i]);
            to = to[count..];
            first += count;
        }
    }

    /// <summary>Norms near 1, biases near 0.</summary>
    private static float Entry(Tensor t, int i)
    {
        float random = (long)Word(t.Key, (ulong)i) / (float)long.MaxValue;
        return t.Size + 0.1f * random;
    }

    /// <summary>The scale of a tile: within a quarter of the tensor's own. A sign takes care that four bits, whose range is not even, have no mean.</summary>
    private static ushort Half(Tensor t, long row, int block, float integers, bool signed)
    {
        ulong random = Word(~t.Key, (ulong)(row / Tile) * t.Blocks + (ulong)block);
        float scale = t.Size / integers * (0.75f + 0.5f * ((random >> 40) / (float)(1 << 24)));
        return BitConverter.HalfToUInt16Bits((Half)(signed && (random & 1) != 0 ? -scale : scale));
    }

    /// <summary>Of a vector what its entries lie around; of a matrix the root mean square.</summary>
    private static float Magnitude(ModelConfig c, SourceShape shape)
    {
        if (shape.Shape.Length == 1 || shape.Name.EndsWith(".bias", StringComparison.Ordinal)) return shape.Name.EndsWith(".weight", StringComparison.Ordinal) ? 1 : 0;
        // A tied head sums over the rows of the embedding.
        if (shape.Name is "token_embd.weight" or "position_embd.weight") return c.TiedHead ? 1 / MathF.Sqrt(c.HiddenSize) : 1 / c.EmbeddingScale;
        bool inputsFirst = shape.Name.Contains("ffn_down_t", StringComparison.Ordinal) || shape.Name.EndsWith("_proj", StringComparison.Ordinal);
        float each = 1 / MathF.Sqrt(shape.Shape[inputsFirst ? ^2 : ^1]);
        // What is added to the stream 2 × layers times must not outgrow it.
        bool added = shape.Name.Contains("attn_output", StringComparison.Ordinal) || shape.Name.Contains("ffn_down", StringComparison.Ordinal);
        return added ? each / MathF.Sqrt(2 * c.Layers) : each;
    }

    /// <summary>Number <paramref name="counter"/> of the sequence of a key: SplitMix64, whose state is a counter.</summary>
    private static ulong Word(ulong key, ulong counter)
    {
        ulong x = key + counter * 0x9E3779B97F4A7C15;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
        return x ^ (x >> 31);
    }

    /// <summary>Nearest, ties to even.</summary>
    private static ushort ToBFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
}
