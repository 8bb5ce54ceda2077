using System.CommandLine;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash verify NAME`: reads every byte of a package and compares it with the checksums.</summary>
internal static class VerifyVerb
{
    public static Command Create(App app)
    {
        var json = Flags.Json();
        var verb = new Verb("verify", "Check every byte of a package against its checksums", "", "flash verify emberling", "flash verify /data/big.flash --json") { json };
        var model = new ModelFlags(verb);
        verb.SetAction(parse =>
        {
            string path = model.Path(app, parse);
            string name = Path.GetFileNameWithoutExtension(path);
            var manifest = PackageVerifier.Verify(path, (done, total) =>
            {
                app.Interrupts.Stop.ThrowIfCancellationRequested();
                app.Screen.Progress($"verifying {name}: {100 * done / Math.Max(total, 1)} %");
            });
            app.Screen.EndLine();
            if (parse.GetValue(json)) app.Screen.Json(new { manifest.Name, Path = path, manifest.Hash, manifest.Bytes, Ok = true });
            else app.Screen.Out.WriteLine($"{manifest.Name}: {manifest.Files.Count + manifest.SideFiles.Count + 1} files, {Units.Bytes(manifest.Bytes)}, every checksum is right");
        });
        return verb;
    }
}
