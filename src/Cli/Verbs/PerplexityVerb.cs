using System.CommandLine;
using System.Globalization;
using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Cli.Options;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash perplexity NAME --file F`: how well the model foretells a text.</summary>
internal static class PerplexityVerb
{
    public static Command Create(App app)
    {
        var file = Flags.Text("--file", "F", "UTF-8 text");
        file.Required = true;
        var windows = new Option<string[]>("--window")
        {
            HelpName = "N|SHARE",
            Description = "A whole number: tokens per window of the text (default 512, at most the model's context). A share such as 25%: the neurons in memory, as in other verbs. May be given twice",
            Arity = ArgumentArity.OneOrMore,
        };
        windows.Validators.Add(static result =>
        {
            foreach (var token in result.Tokens)
                if (Length(token.Value) is null && !Units.TryShare(token.Value, out _)) result.AddError($"--window: '{token.Value}' is neither a number of tokens of at least 2 nor a share such as 25%");
        });
        var against = Flags.Text("--against", "OTHER", "Also how far the model's distributions are from those of OTHER, usually the same model with --quant f32");
        var json = Flags.Json();
        var verb = new Verb("perplexity", "Measure the perplexity of a text", """
            The whole file is tokenised (special tokens are plain text, nothing is added) and cut into windows of --window tokens, each fed alone from an
            empty cache; the rest of the file is not used (a text shorter than one window is one window). The first token of each window is not
            scored; nll is the mean negative log-likelihood (nats) of all others, perplexity is exp(nll).
            --against: KL(OTHER || NAME) in nats over the whole vocabulary at every position that is scored, and how often both have the same best token.
            Both run on the engine alone, with the same options.
            """,
            "flash perplexity emberling --file story.txt --json", "flash perplexity emberling --quant f32 --file story.txt --window 256 --path engine", "flash perplexity emberling --file story.txt --against emberling-f32")
        { file, windows, against, json };
        var model = new ModelFlags(verb);
        var hosts = new HostFlags(verb, window: false);
        verb.SetAction(async (parse, _) =>
        {
            string path = model.Path(app, parse);
            string[] given = parse.GetValue(windows) ?? [];
            double? share = given.Where(static w => Length(w) is null).Select(static w => Units.TryShare(w, out double s) ? s : (double?)null).LastOrDefault();
            int[] ids;
            int window;
            using (var package = FlashPackage.Open(path))
            {
                ids = TextSource.CodecOf(package).Encode(Read(parse.GetValue(file)!), parseSpecial: false);
                window = given.Select(Length).LastOrDefault(static n => n != null) ?? Math.Min(512, package.Config.MaxPositions);
                if (window > package.Config.MaxPositions) throw new UsageException($"--window {window} is more than the model's {package.Config.MaxPositions} positions");
            }
            if (ids.Length < 2) throw new CliException($"{parse.GetValue(file)}: {ids.Length} tokens are too few to score; two are the least");
            if (parse.GetValue(against) is { } other)
            {
                Compare(app, parse, hosts, path, app.Library.Resolve(other, null, app.Interrupts.Stop), ids, Math.Min(window, ids.Length), share, File.ReadAllText(parse.GetValue(file)!), parse.GetValue(json));
                return;
            }
            await using var host = await hosts.StartAsync(app, parse, path, Math.Min(window, ids.Length), share);
            var (scored, nll) = await ScoreAsync(app, host, ids, Math.Min(window, ids.Length));
            if (parse.GetValue(json)) app.Screen.Json(new { tokens = scored, nll, perplexity = Math.Exp(nll) });
            else app.Screen.Out.WriteLine($"perplexity {Units.Number(Math.Exp(nll), "0.0000")}, nll {Units.Number(nll, "0.000000")} over {scored} tokens");
        });
        return verb;
    }

    private static async Task<(int Scored, double MeanNll)> ScoreAsync(App app, IModelHost host, int[] ids, int window)
    {
        int windows = ids.Length / window, scored = 0;
        double sum = 0;
        for (int w = 0; w < windows; w++)
        {
            app.Screen.Progress($"scoring: window {w + 1} of {windows}{(scored > 0 ? $", perplexity {Units.Number(Math.Exp(sum / scored), "0.000")}" : "")}");
            await using var session = host.OpenSession();
            var turn = new TurnRequest { Model = host.Model, Tokens = ids[(w * window)..((w + 1) * window)], MaxTokens = 0, Score = true, StopTokens = [] };
            float[]? nll = null;
            await foreach (var chunk in Checked.SendAsync(session, turn, app.Interrupts.Stop)) nll = chunk.InputNll ?? nll;
            if (nll is null || nll.Length != window) throw new CliException($"the model scored {nll?.Length ?? 0} of {window} tokens of window {w + 1}");
            // The last one has no successor inside the window.
            for (int i = 0; i < window - 1; i++) sum += nll[i];
            scored += window - 1;
        }
        app.Screen.EndLine();
        return (scored, sum / scored);
    }

    private static void Compare(App app, ParseResult parse, HostFlags hosts, string path, string other, int[] ids, int window, double? share, string text, bool json)
    {
        using var package = FlashPackage.Open(path);
        using var reference = FlashPackage.Open(other);
        DemandSameVocabulary(package, reference, ids, text);
        if (window > reference.Config.MaxPositions) throw new UsageException($"--window {window} is more than the {reference.Config.MaxPositions} positions of {reference.Name}");
        using var ours = hosts.Engine(parse, package, share);
        using var theirs = hosts.Engine(parse, reference, share);
        var divergence = new Divergence();
        int windows = ids.Length / window;
        for (int w = 0; w < windows; w++)
        {
            app.Screen.Progress($"comparing: window {w + 1} of {windows}{(w > 0 ? $", mean KL {Units.Number(divergence.Mean, "0.000000")}" : "")}");
            divergence.Run(theirs, ours, ids.AsSpan(w * window, window), cancel: app.Interrupts.Stop);
        }
        app.Screen.EndLine();
        var d = divergence;
        if (json)
        {
            app.Screen.Json(new
            {
                tokens = d.Scored,
                d.Nll,
                perplexity = Math.Exp(d.Nll),
                against = new { reference.Name, nll = d.ReferenceNll, perplexity = Math.Exp(d.ReferenceNll), klMean = d.Mean, kl95 = d.At95, klMax = d.Most, d.SameBest },
            });
            return;
        }
        app.Screen.Out.WriteLine($"{package.Name}: perplexity {Units.Number(Math.Exp(d.Nll), "0.0000")}, nll {Units.Number(d.Nll, "0.000000")} over {d.Scored} tokens");
        app.Screen.Out.WriteLine($"{reference.Name}: perplexity {Units.Number(Math.Exp(d.ReferenceNll), "0.0000")}, nll {Units.Number(d.ReferenceNll, "0.000000")}");
        app.Screen.Out.WriteLine($"KL({reference.Name} || {package.Name}): mean {Units.Number(d.Mean, "0.000000")}, 95 % below {Units.Number(d.At95, "0.000000")}, largest {Units.Number(d.Most, "0.000000")}; same best token {Units.Percent(d.SameBest)}");
    }

    /// <summary>Distributions can be compared only over the same tokens.</summary>
    private static void DemandSameVocabulary(FlashPackage package, FlashPackage other, int[] ids, string text)
    {
        if (package.Config.VocabSize != other.Config.VocabSize)
            throw new CliException($"{package.Name} has a vocabulary of {package.Config.VocabSize} tokens and {other.Name} one of {other.Config.VocabSize}: only models with the same vocabulary can be compared");
        if (!TextSource.CodecOf(other).Encode(text, parseSpecial: false).SequenceEqual(ids))
            throw new CliException($"{package.Name} and {other.Name} cut this text into different tokens: only models with the same vocabulary can be compared");
    }

    private static int? Length(string text) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int tokens) && tokens >= 2 ? tokens : null;

    private static string Read(string file)
    {
        if (!File.Exists(file)) throw new CliException($"{file}: there is no such file");
        return File.ReadAllText(file);
    }
}
