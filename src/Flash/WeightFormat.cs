using System.Text.Json.Serialization;

namespace FlashOrleans.Flash;

/// <summary>How the numbers of a matrix are stored. See docs/FORMAT.md for every byte.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<WeightFormat>))]
public enum WeightFormat
{
    F32,
    BF16,
    /// <summary>int8 times one f16 scale per block of 32 along the row.</summary>
    Q8,
    /// <summary>4 bits 0..15 minus 8, times one f16 scale per block of 32 along the row (form A).</summary>
    Q4,
    /// <summary>4 bits 0..15 times an f16 scale plus an f16 minimum, both per block of 32 along the row (form B).</summary>
    Q4B,
    /// <summary>As form B, but scale and minimum are 6 bits per block, times f16 d and dmin of a super-block of 256 (form K): the size of form A.</summary>
    Q4K,
}

/// <summary>
/// Byte geometry of rows and panels. A <em>row</em> is one neuron's contiguous weights (bundles); a <em>panel</em> is 16 rows
/// interleaved for SIMD (resident matrices, the head). Knows sizes only; the numbers are the engine's business.
/// <code>
/// row   f32  : cols x 4 bytes                 panel f32/bf16 : 16 rows one after another
/// row   bf16 : cols x 2 bytes
/// row   q8   : cols x int8, then per block of 32 its parameters
/// row   q4*  : per block of 32: 16 bytes, byte j = q[j] | q[j+16] &lt;&lt; 4; then the parameters
/// panel q8   : per block of 32: [8 steps][16 rows][4 columns] int8; then the parameters
/// panel q4*  : per block of 32: [4 steps][16 rows][4 columns] bytes, low nibble = step s, high nibble = step s + 4; then the parameters
///
/// parameters : q8, q4 : f16 scale a block                         in panels: per block  [16 rows] f16
///              q4b    : f16 scale, f16 minimum a block                       per block  [16 rows][scale, minimum]
///              q4k    : f16 d, f16 dmin, 12 bytes of 6-bit numbers           per 256    [4 words][16 rows] u32
///                       (16 bytes, that is 4 words, per 8 blocks)
/// </code>
/// So a panel is its rows' bytes taken four (f16 scales: two) at a time, 16 rows in turn. Rows are padded with zeros to a multiple of 16 bytes, matrices to a multiple of 16 rows.
/// </summary>
public static class WeightLayout
{
    public const int Block = 32;
    /// <summary>Columns that share d and dmin in q4k.</summary>
    public const int SuperBlock = 256;
    public const int PanelRows = 16;

    /// <summary>Integers with scales: what is multiplied by quantised activations.</summary>
    public static bool IsQuantized(WeightFormat format) => format is WeightFormat.Q8 or WeightFormat.Q4 or WeightFormat.Q4B or WeightFormat.Q4K;

    /// <summary>Blocks have a float minimum: w = scale * q + minimum.</summary>
    public static bool HasMinimum(WeightFormat format) => format is WeightFormat.Q4B or WeightFormat.Q4K;

    /// <summary>What the columns of a row must be a multiple of.</summary>
    public static int Multiple(WeightFormat format) => format == WeightFormat.Q4K ? SuperBlock : IsQuantized(format) ? Block : 1;

    /// <summary>Bytes of one row of <paramref name="cols"/> numbers, padding included.</summary>
    public static int RowBytes(WeightFormat format, int cols)
    {
        int raw = format switch
        {
            WeightFormat.F32 => cols * 4,
            WeightFormat.BF16 => cols * 2,
            _ => IntegerBytes(format, cols) + cols / Block * ParameterBytes(format),
        };
        return (raw + 15) & ~15;
    }

    /// <summary>Bytes of one panel of 16 rows.</summary>
    public static int PanelBytes(WeightFormat format, int cols) => format switch
    {
        WeightFormat.F32 or WeightFormat.BF16 => PanelRows * RowBytes(format, cols),
        _ => PanelRows * (IntegerBytes(format, cols) + cols / Block * ParameterBytes(format)),
    };

    /// <summary>Quantised formats: bytes of a row's integers; its parameters follow them.</summary>
    public static int IntegerBytes(WeightFormat format, int cols)
    {
        int multiple = Multiple(format);
        if (cols % multiple != 0) throw new ArgumentException($"{format} needs rows in blocks of {multiple}; {cols} columns do not divide", nameof(cols));
        return format switch
        {
            WeightFormat.Q8 => cols,
            WeightFormat.Q4 or WeightFormat.Q4B or WeightFormat.Q4K => cols / 2,
            _ => throw new ArgumentOutOfRangeException(nameof(format)),
        };
    }

    /// <summary>Quantised formats: bytes of parameters per block of 32 (of q4k an eighth of the super-block's).</summary>
    public static int ParameterBytes(WeightFormat format) => format == WeightFormat.Q4B ? 4 : 2;

    /// <summary>Quantised formats: how many bytes of a row's parameters stay together in a panel.</summary>
    public static int ParameterGroup(WeightFormat format) => HasMinimum(format) ? 4 : 2;

    public static int Panels(int rows) => (rows + PanelRows - 1) / PanelRows;

    public static long MatrixBytes(WeightFormat format, int rows, int cols) => (long)Panels(rows) * PanelBytes(format, cols);
}
