using System.CommandLine;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Hub;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash pull NAME`: a model of the hub is downloaded, imported, and the download removed.</summary>
internal static class PullVerb
{
    private const string Details = """
        The download lies in $FLASH_HOME/downloads until it is imported; a pull that was interrupted goes on where it stopped.
        HF_TOKEN is the token for gated and private models, HF_ENDPOINT another hub than https://huggingface.co.
        """;

    public static Command Create(App app)
    {
        var model = new Argument<string>("NAME") { Description = "owner/model, hf.co/owner/model, owner/model:Q4_K_M, owner/model:file.gguf, or the address of a .gguf file" };
        var name = Flags.Text("--name", "NAME", "Name in $FLASH_HOME (default: the model's, without its owner)");
        var quant = ModelFlags.QuantOfImport();
        var bundles = ImportVerb.Bundles();
        var keep = new Option<bool>("--keep") { Description = "Keep the downloaded files after importing them" };
        var json = Flags.Json();
        var verb = new Verb("pull", "Download a model from the Hugging Face hub and import it", Details, "flash pull SparseLLM/ReluLLaMA-7B --name relu --quant q4", "flash pull facebook/opt-125m --keep")
        {
            model, name, quant, bundles, keep, json,
        };
        verb.SetAction(async (parse, _) =>
        {
            if (!HubReference.TryParse(parse.GetRequiredValue(model), out HubReference? reference, out string fault)) throw new UsageException(fault);
            string target = parse.GetValue(name) ?? reference.ModelName;
            if (!PackageStore.IsValidName(target))
                throw new UsageException($"'{target}' cannot be a model's name: letters, digits, '.', '_', '-'; the first a letter or digit, not ending in {PackageStore.Extension}");
            var options = new ImportOptions { Name = target, Quant = parse.GetValue(quant)!, Lean = parse.GetValue(bundles) == PackageLayout.LeanBundles };
            await PullAsync(app, reference, options, parse.GetValue(keep), parse.GetValue(json));
        });
        return verb;
    }

    private static async Task PullAsync(App app, HubReference reference, ImportOptions options, bool keep, bool json)
    {
        string target = options.Name!;
        CancellationToken stop = app.Interrupts.Stop;
        using var pull = new HubPull(HubOptions.FromEnvironment(), new PullLine(reference.ToString(), app.Screen));
        PullPlan plan = await pull.PlanAsync(reference, Path.Combine(app.Store.Home, "downloads"), stop);
        using PullFolder folder = await DownloadAsync(app, pull, plan, options);
        app.Screen.EndLine();
        if (plan.Unverified.Count > 0) app.Screen.Remark($"not verified, its server gives no checksum: {string.Join(", ", plan.Unverified)}");
        ImportResult result;
        try
        {
            result = PulledModel.Import(plan, app.Store.Target(target), options, new ImportLine(target, app.Screen), stop);
        }
        catch (Exception e) when (e is ModelFormatException or FlashException)
        {
            throw new CliException($"{e.Message}; the download stays in {folder.Path}");
        }
        app.Screen.EndLine();
        if (!keep) folder.Remove();
        if (json)
        {
            app.Screen.Json(new
            {
                result.Name,
                result.Path,
                result.Hash,
                Quant = ImportVerb.Text(result.Formats),
                Source = reference.ToString(),
                Files = plan.Paths,
                DownloadBytes = plan.Bytes,
                Download = keep ? folder.Path : null,
                result.Bytes,
                result.Errors,
                result.Notes,
            });
            return;
        }
        foreach (string note in result.Notes) app.Screen.Remark(note);
        if (keep) app.Screen.Remark($"the download stays in {folder.Path}");
        app.Screen.Out.WriteLine($"{result.Name}: {ImportVerb.Text(result.Formats)}, {Units.Bytes(plan.Bytes)} of {reference} became {Units.Bytes(result.Bytes)} in {result.Path}");
    }

    private static async Task<PullFolder> DownloadAsync(App app, HubPull pull, PullPlan plan, ImportOptions options)
    {
        try
        {
            return await pull.DownloadAsync(plan, PulledModel.PackageBytes(plan, options.Quant), options.Lean, app.Interrupts.Stop);
        }
        catch (OperationCanceledException) when (app.Interrupts.Stop.IsCancellationRequested)
        {
            app.Screen.Remark($"stopped; what has arrived stays in {plan.Folder}, and the same command goes on from there");
            throw;
        }
    }
}

/// <summary>A pull's progress as one line on stderr.</summary>
internal sealed class PullLine(string name, Screen screen) : IProgress<PullProgress>
{
    public void Report(PullProgress value)
    {
        if (value.Total == 0) screen.Progress($"{name}, {value.Step}");
        else screen.Progress($"{name}, {value.Step}: {Units.Bytes(value.Done)} of {Units.Bytes(value.Total)}{(value.BytesPerSecond > 0 ? $", {Units.Bytes(value.BytesPerSecond)}/s" : "")}");
    }
}
