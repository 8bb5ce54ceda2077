namespace FlashOrleans.Models.Gguf;

/// <summary>
/// One tensor of a GGUF file. <see cref="Dims"/> are in the file's order: the first one is the length of a row, whose numbers are contiguous; all
/// further ones together count the rows (an expert tensor {d, ff, experts} has ff × experts rows). Checked at open: sizes cannot overflow.
/// </summary>
internal sealed record GgufTensor(string Name, GgufType Type, IReadOnlyList<long> Dims, int Part, long Offset)
{
    /// <summary>Numbers in a row.</summary>
    public long Columns => Dims[0];

    public long Rows
    {
        get
        {
            long rows = 1;
            for (int i = 1; i < Dims.Count; i++) rows *= Dims[i];
            return rows;
        }
    }

    /// <summary>Stored bytes of one row.</summary>
    public long RowBytes
    {
        get
        {
            (int values, int bytes) = GgufTypes.Block(Type);
            return Columns / values * bytes;
        }
    }

    public long Bytes => Rows * RowBytes;
    public string DimsText => $"[{string.Join(", ", Dims)}]";
}
