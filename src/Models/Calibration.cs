using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models;

/// <summary>
/// A written package is run on a short text before it gets its name: how many feed-forward neurons are exactly zero, and, since nothing in a checkpoint but a name tells a gated
/// ReLU from SiLU, which of the two foretells the text better. One layer is in memory at a time (<see cref="LayerByLayer"/>), so that this fits wherever the import did. The import's thread.
/// The figures are the same on every run: they are part of the package's hash.
/// </summary>
internal static class Calibration
{
    /// <summary>Multiply-adds of one run: a model of seven billion weights sees 142 tokens.</summary>
    private const double Work = 1e12;
    private const int LeastTokens = 64, MostTokens = 512;
    /// <summary>A study of the neurons may take longer: it was asked for, and its figures are no better than its text is long.</summary>
    private const double StudyWork = 4e12;
    private const int MostStudied = 4096;
    /// <summary>What an import may hold is a gigabyte; a quarter is for everything else.</summary>
    public const long MostMemory = 768L << 20;
    /// <summary>The other activation must be better by this much per token, and by this many standard errors.</summary>
    private const double ClearNats = 0.1, ClearErrors = 3;

    /// <summary>What was measured, or null and why not; a note where the configuration names the wrong activation.</summary>
    public static (Measured? Measured, string? Note) Run(FlashPackage package, Action<string> progress, CancellationToken cancel)
    {
        ModelConfig c = package.Config;
        if (c.MaxPositions < 2) return (null, null);
        long memory = LayerByLayer.MemoryFor(package);
        if (memory > MostMemory)
            return (null, $"zeros were not measured: the largest layer takes {memory >> 20} MiB of memory, an import has {MostMemory >> 20} for it");
        (int[] tokens, bool isText) = Tokens(package, Text(), Work, MostTokens);
        try
        {
            LayerByLayer own = Run(package, tokens, null, "measuring", progress, cancel);
            var measured = new Measured { Tokens = tokens.Length, Zeros = [.. own.Zeros.Select(static z => Math.Round(z, 6))] };
            if (!isText) return (measured, null);
            if (!own.Nll.All(float.IsFinite)) return (measured, "on the calibration text the model's logits are not numbers: the checkpoint may be damaged");
            measured = measured with { Nll = Mean(own) };
            // Another activation needs every row of every neuron.
            if (package.Manifest.Lean || !c.Gated || c.Activation is not (Activation.Relu or Activation.Silu)) return (measured, null);
            Activation tried = c.Activation == Activation.Relu ? Activation.Silu : Activation.Relu;
            LayerByLayer other = Run(package, tokens, tried, $"measuring with {Name(tried)}", progress, cancel);
            if (!other.Nll.All(float.IsFinite)) return (measured, null);
            measured = measured with { Other = tried, OtherNll = Mean(other), OtherFits = IsClearlyBetter(other.Nll, own.Nll) };
            return (measured, measured.OtherFits ? Verdict(measured, c.Activation) : null);
        }
        catch (StepFaultException e)
        {
            return (null, $"zeros were not measured: {e.Message}");
        }
    }

    /// <summary>One line that names both figures and the way out; of a package where <see cref="Measured.OtherFits"/> holds.</summary>
    public static string Verdict(Measured m, Activation own) => string.Create(System.Globalization.CultureInfo.InvariantCulture,
        $"a text of {m.Tokens} tokens is foretold much better with {Name(m.Other!.Value)} (nll {m.OtherNll:0.00}) than with {Name(own)} (nll {m.Nll:0.00}): the configuration seems to name the wrong activation; import again with --activation {Name(m.Other.Value)}");

    /// <summary>Paired over the tokens: by how much, and whether that is more than chance.</summary>
    internal static bool IsClearlyBetter(IReadOnlyList<float> nll, IReadOnlyList<float> than)
    {
        double[] gain = [.. nll.Zip(than, static (a, b) => (double)b - a)];
        double mean = gain.Average(), error = Math.Sqrt(gain.Sum(g => (g - mean) * (g - mean)) / Math.Max(gain.Length - 1, 1) / gain.Length);
        return mean > ClearNats && mean > ClearErrors * error;
    }

    private static string Name(Activation activation) => activation.ToString().ToLowerInvariant();

    // Rounded, so that processors whose last bits differ still write the same package.
    private static double Mean(LayerByLayer run) => Math.Round(run.Nll.Average(static n => (double)n), 4);

    private static LayerByLayer Run(FlashPackage package, int[] tokens, Activation? activation, string step, Action<string> progress, CancellationToken cancel) =>
        LayerByLayer.Run(package, tokens, activation, layer => progress($"{step}, layer {layer + 1} of {package.Config.Layers}"), cancel);

    /// <summary>For a study of the neurons: as many tokens of a text as a study may take, in pieces that fit the model's context; and whether they are text.</summary>
    public static (IReadOnlyList<int[]> Texts, bool IsText) StudyTexts(FlashPackage package, string? text)
    {
        (int[] tokens, bool isText) = Tokens(package, text ?? Text(), StudyWork, MostStudied, whole: true);
        return ([.. tokens.Chunk(Math.Min(MostTokens, package.Config.MaxPositions)).Where(static piece => piece.Length > 1)], isText);
    }

    /// <summary>The text's tokens; where the model cannot read text, ids drawn from its vocabulary, always the same ones.</summary>
    private static (int[] Tokens, bool IsText) Tokens(FlashPackage package, string text, double work, int most, bool whole = false)
    {
        ModelConfig c = package.Config;
        double weights = (double)c.VocabSize * c.EmbeddingWidth
            + c.Layers * (double)c.HiddenSize * (c.QkvRows + c.Heads * c.HeadDim + (double)c.RowsPerNeuron * (c.Experts is { } e ? e.Active * e.Size : c.FfnSize));
        int count = Math.Min((int)Math.Clamp(work / weights, LeastTokens, most), whole ? int.MaxValue : c.MaxPositions);
        int[] ids = Codec(package)?.Encode(text, parseSpecial: false, addSpecial: true) ?? [];
        if (ids.Length >= 2 && ids.All(id => (uint)id < (uint)c.VocabSize)) return (ids[..Math.Min(count, ids.Length)], true);
        var random = new Random(1);
        return ([.. Enumerable.Range(0, count).Select(_ => random.Next(c.VocabSize))], false);
    }

    private static TextCodec? Codec(FlashPackage package)
    {
        try
        {
            return TextCodec.FromFiles(package.SideFile);
        }
        catch (ModelFormatException)
        {
            // Said already, by the import's notes.
            return null;
        }
    }

    private static string Text()
    {
        using Stream stream = typeof(Calibration).Assembly.GetManifestResourceStream("FlashOrleans.Models.calibration.txt")!;
        using var reader = new StreamReader(stream);
        return reader.ReadToEnd();
    }
}
