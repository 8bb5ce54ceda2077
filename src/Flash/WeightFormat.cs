using System.Text.Json.Serialization;

namespace FlashOrleans.Flash;

/// <summary>How the numbers of a matrix are stored. See docs/FORMAT.md for every byte.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<WeightFormat>))]
public enum WeightFormat
{
    F32,
    BF16,
    /// <summary>int8 in [-127, 127] times one f16 scale per block of 32 along the row.</summary>
    Q8,
    /// <summary>4 bits 0..15 minus 8, times one f16 scale per block of 32 along the row (form A).</summary>
    Q4,
}

/// <summary>
/// Byte geometry of rows and panels. A <em>row</em> is one neuron's contiguous weights (bundles); a <em>panel</em> is 16 rows
/// interleaved for SIMD (resident matrices, the head). Knows sizes only; the numbers are the engine's business.
/// <code>
/// row   f32  : cols x 4 bytes                 panel f32/bf16 : 16 rows one after another
/// row   bf16 : cols x 2 bytes
/// row   q8   : cols x int8, then cols/32 x f16 scale
/// row   q4   : per block of 32: 16 bytes, byte j = q[j] | q[j+16] &lt;&lt; 4; then cols/32 x f16 scale
/// panel q8   : per block of 32: [8 steps][16 rows][4 columns] int8; then per block 16 x f16 scale
/// panel q4   : per block of 32: [4 steps][16 rows][4 columns] bytes, low nibble = step s, high nibble = step s + 4; then scales as q8
/// </code>
/// Rows are padded with zeros to a multiple of 16 bytes, matrices to a multiple of 16 rows.
/// </summary>
public static class WeightLayout
{
    public const int Block = 32;
    public const int PanelRows = 16;

    public static bool IsQuantized(WeightFormat format) => format is WeightFormat.Q8 or WeightFormat.Q4;

    /// <summary>Bytes of one row of <paramref name="cols"/> numbers, padding included.</summary>
    public static int RowBytes(WeightFormat format, int cols)
    {
        if (IsQuantized(format) && cols % Block != 0)
            throw new ArgumentException($"{format} needs rows in blocks of {Block}; {cols} columns do not divide", nameof(cols));
        int raw = format switch
        {
            WeightFormat.F32 => cols * 4,
            WeightFormat.BF16 => cols * 2,
            WeightFormat.Q8 => cols + cols / Block * 2,
            WeightFormat.Q4 => cols / 2 + cols / Block * 2,
            _ => throw new ArgumentOutOfRangeException(nameof(format)),
        };
        return (raw + 15) & ~15;
    }

    /// <summary>Bytes of one panel of 16 rows.</summary>
    public static int PanelBytes(WeightFormat format, int cols)
    {
        if (IsQuantized(format) && cols % Block != 0)
            throw new ArgumentException($"{format} needs rows in blocks of {Block}; {cols} columns do not divide", nameof(cols));
        return format switch
        {
            WeightFormat.F32 or WeightFormat.BF16 => PanelRows * RowBytes(format, cols),
            WeightFormat.Q8 => cols / Block * (Block * PanelRows + 2 * PanelRows),
            WeightFormat.Q4 => cols / Block * (Block * PanelRows / 2 + 2 * PanelRows),
            _ => throw new ArgumentOutOfRangeException(nameof(format)),
        };
    }

    public static int Panels(int rows) => (rows + PanelRows - 1) / PanelRows;

    public static long MatrixBytes(WeightFormat format, int rows, int cols) => (long)Panels(rows) * PanelBytes(format, cols);
}
