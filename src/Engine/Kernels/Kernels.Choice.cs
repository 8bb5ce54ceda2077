namespace FlashOrleans.Engine;

/// <summary>Which instruction set computes: chosen once at start, by name.</summary>
internal abstract unsafe partial class Kernels
{
    /// <summary>The environment variable that answers "auto".</summary>
    public const string Variable = "FLASH_KERNELS";

    // Slowest first; the last supported one is "auto". A variant with VNNI gets its line here
    // when .NET has the 512-bit instructions.
    private static readonly (string Name, bool Supported, Func<Kernels> Create)[] s_table =
    [
        ("scalar", true, static () => new ScalarKernels()),
        ("avx2", Avx2Kernels.IsSupported, static () => new Avx2Kernels()),
        ("avx512", Avx512Kernels.IsSupported, static () => new Avx512Kernels()),
    ];

    /// <summary>The variants this machine can run, slowest first.</summary>
    public static IReadOnlyList<string> Available { get; } = [.. s_table.Where(static k => k.Supported).Select(static k => k.Name)];

    /// <summary>"scalar", "avx2", "avx512", or "auto": the environment variable FLASH_KERNELS when set, else the best this machine has.</summary>
    public static Kernels Choose(string name) => Choose(name, Environment.GetEnvironmentVariable(Variable));

    internal static Kernels Choose(string name, string? wanted)
    {
        string origin = "kernels";
        if (name == "auto")
        {
            origin = string.IsNullOrEmpty(wanted) || wanted == "auto" ? "auto" : Variable;
            name = origin == Variable ? wanted! : Available[^1];
        }
        foreach ((string known, bool supported, Func<Kernels> create) in s_table)
            if (known == name)
                return supported ? create() : throw new ArgumentException($"{origin}: this machine cannot run '{name}'; choose one of auto, {string.Join(", ", Available)}", nameof(name));
        throw new ArgumentException($"{origin}: '{name}' is unknown; choose one of auto, {string.Join(", ", Available)}", nameof(name));
    }
}
