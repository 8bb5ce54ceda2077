namespace FlashOrleans.Models.Gguf;

/// <summary>How a tensor's numbers are stored, with the numbers that the file uses.</summary>
internal enum GgufType : uint
{
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q8_1 = 9,
    Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, Q8_K = 15,
    IQ2_XXS = 16, IQ2_XS = 17, IQ3_XXS = 18, IQ1_S = 19, IQ4_NL = 20, IQ3_S = 21, IQ2_S = 22, IQ4_XS = 23,
    I8 = 24, I16 = 25, I32 = 26, I64 = 27, F64 = 28, IQ1_M = 29, BF16 = 30, TQ1_0 = 34, TQ2_0 = 35, MXFP4 = 39, NVFP4 = 40,
}

/// <summary>Sizes of the storage types: a row is a whole number of blocks, each <c>Values</c> numbers in <c>Bytes</c> bytes.</summary>
internal static class GgufTypes
{
    /// <summary>Values and bytes of one block; (0, 0) for a type that this version cannot read.</summary>
    public static (int Values, int Bytes) Block(GgufType type) => type switch
    {
        GgufType.F32 or GgufType.I32 => (1, 4),
        GgufType.F16 or GgufType.BF16 or GgufType.I16 => (1, 2),
        GgufType.F64 or GgufType.I64 => (1, 8),
        GgufType.I8 => (1, 1),
        GgufType.Q4_0 or GgufType.IQ4_NL => (32, 18),
        GgufType.Q4_1 => (32, 20),
        GgufType.Q5_0 => (32, 22),
        GgufType.Q5_1 => (32, 24),
        GgufType.Q8_0 => (32, 34),
        GgufType.Q2_K => (256, 84),
        GgufType.Q3_K or GgufType.IQ3_S => (256, 110),
        GgufType.Q4_K => (256, 144),
        GgufType.Q5_K => (256, 176),
        GgufType.Q6_K => (256, 210),
        GgufType.Q8_K => (256, 292),
        GgufType.IQ1_S => (256, 50),
        GgufType.IQ1_M => (256, 56),
        GgufType.IQ2_XXS or GgufType.TQ2_0 => (256, 66),
        GgufType.IQ2_XS => (256, 74),
        GgufType.IQ2_S => (256, 82),
        GgufType.IQ3_XXS => (256, 98),
        GgufType.IQ4_XS => (256, 136),
        GgufType.TQ1_0 => (256, 54),
        GgufType.MXFP4 => (32, 17),
        GgufType.NVFP4 => (64, 36),
        _ => (0, 0),
    };

    /// <summary>False for whole numbers and float64: indices and the like, which are only read as bytes.</summary>
    public static bool IsWeight(GgufType type) => Block(type).Bytes > 0 && type is not (GgufType.I8 or GgufType.I16 or GgufType.I32 or GgufType.I64 or GgufType.F64);

    /// <summary>Why a type number cannot be read, and the way out.</summary>
    public static string Refusal(uint type) => type switch
    {
        4 or 5 => $"type {type} (Q4_{type - 2}), which was removed from the format; use a file made with a newer converter",
        31 or 32 or 33 or 36 or 37 or 38 => $"type {type} (weights repacked for one processor), which was removed from the format; use the plain Q4_0 or IQ4_NL file of the model",
        9 => "type 9 (Q8_1), which only holds intermediate results, never weights",
        41 => "type 41 (Q1_0), which this version does not read; use another quantisation of the model",
        _ => $"the unknown type {type}; the file is damaged or newer than this version",
    };
}
