using FlashOrleans.Flash;

namespace FlashOrleans.Models.Hub;

/// <summary>Where a finished download meets the importer: the only place that knows what can be imported of what can be pulled.</summary>
public static class PulledModel
{
    /// <summary>Asked when everything but the weights is there: what no import could use is not downloaded.</summary>
    internal static void CheckConfig(PullPlan plan, bool lean)
    {
        if (plan.IsGguf) return;
        try
        {
            ModelConfig config = ConfigReader.Read(plan.Folder);
            if (lean) _ = Importer.LeanOf(plan.Folder, config);
        }
        catch (ModelFormatException e) when (e.Path != null && e.Message.StartsWith(plan.Folder, StringComparison.Ordinal))
        {
            // By the name that the user knows: the file itself is gone in a moment.
            throw new ModelFormatException($"{plan.Reference}{e.Message[plan.Folder.Length..].Replace('\\', '/')}", e);
        }
    }

    public static ImportResult Import(PullPlan plan, string packagePath, ImportOptions options, IProgress<ImportProgress>? progress, CancellationToken cancel)
    {
        ArgumentNullException.ThrowIfNull(plan);
        return Importer.Import(plan.Checkpoint, packagePath, options, progress, cancel);
    }

    /// <summary>About what the package will need, on the safe side: the source is taken for 16 bits a number, and ReLU models store their deciding rows twice.</summary>
    public static long PackageBytes(PullPlan plan, string quant)
    {
        ArgumentNullException.ThrowIfNull(plan);
        double share = quant switch
        {
            // Of a quantised source the down matrices take twice the room.
            "auto" or "keep" when plan.IsGguf => 1.6,
            _ when plan.IsGguf => 8,
            "q4" => 0.45,
            "bf16" => 1.35,
            "f32" => 2.7,
            _ => 0.85,
        };
        return (long)(plan.Bytes * share);
    }
}
