using System.CommandLine;
using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Chat;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using FlashOrleans.Grains;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash run NAME [PROMPT]`: one answer, or a chat when a person sits at the terminal.</summary>
internal static class RunVerb
{
    public static Command Create(App app)
    {
        var prompt = new Argument<string?>("PROMPT") { Description = "What to say; absent: standard input if it is a pipe, else a chat", Arity = ArgumentArity.ZeroOrOne };
        var system = Flags.Text("--system", "TEXT", "A system message in front of the conversation");
        var raw = new Option<bool>("--raw") { Description = "Continue the prompt as plain text, without the model's chat template" };
        var most = Flags.Int("--max-tokens", "N", "Tokens of an answer at most (default 512)", 1);
        var json = Flags.Json();
        var verb = new Verb("run", "Talk to a model", "",
            "flash run emberling \"Tell me a story about a fox and a lantern\"", "flash run emberling", "echo \"Tell me a story\" | flash run emberling --seed 7 --window 10%", "flash run ./big.flash \"Hello\" --json", "flash run ./big.flash --budget 1.8GiB --context 4096");
        var model = new ModelFlags(verb);
        verb.Add(prompt);
        foreach (Option option in new Option[] { system, raw, most, json }) verb.Add(option);
        var sampling = new SamplingFlags(verb);
        var engine = new EngineFlags(verb, promises: true);
        var speculation = new SpeculationFlags(verb);
        verb.SetAction(async (parse, _) =>
        {
            string? text = parse.GetValue(prompt);
            bool chat = text is null && app.Screen.InIsTerminal;
            if (chat && parse.GetValue(json)) throw new UsageException("--json needs a prompt: flash run NAME PROMPT --json");
            text ??= chat ? null : await app.Screen.In.ReadToEndAsync(app.Interrupts.Stop);
            // Lines of a chat, if one of them is a command; else all of it is one prompt.
            bool lines = text is not null && parse.GetValue(prompt) is null && !parse.GetValue(json) && ChatLoop.HasCommand(text);
            if (text is not null && text.Trim().Length == 0) throw new UsageException("the prompt is empty: flash run NAME \"PROMPT\", or pipe text into it");

            string path = model.Path(app, parse);
            ChatSettings settings;
            using (var package = FlashPackage.Open(path))
            {
                if (package.Manifest.Provenance.SyntheticSeed is { } seed) app.Screen.Remark(SynthVerb.Noise(package.Name, seed));
                if (SynthVerb.Drawn(package.Manifest) is { } drawn) app.Screen.Remark(drawn);
                var codec = TextSource.CodecOf(package);
                if (codec.TemplateNote is { } note && !parse.GetValue(raw)) app.Screen.Remark(note);
                settings = new ChatSettings
                {
                    Sampling = sampling.Over(package, parse),
                    MaxTokens = parse.GetValue(most) ?? 512,
                    System = parse.GetValue(system),
                    // Without a template a model can only go on with a text.
                    Raw = parse.GetValue(raw) || codec.ChatTemplate is null,
                };
            }
            var (options, layer) = (speculation.Over(app, parse, engine.Engine(parse), path), engine.Layer(parse));
            await using var host = (GrainHost)await HostFlags.StartAsync(app, path, "grains", options, layer, grains: new GrainOptions { Speculate = speculation.Speculate(parse) });
            await using var conversation = new Conversation(host, settings);
            if (text is null) return await new ChatLoop(app, host, conversation, app.Screen.In).RunAsync();
            if (lines) return await new ChatLoop(app, host, conversation, new StringReader(text)).RunAsync();

            var answer = await conversation.SayAsync(text.TrimEnd('\r', '\n'), parse.GetValue(json) ? null : app.Screen.Out.Write, app.Interrupts.Stop);
            if (parse.GetValue(json)) app.Screen.Json(answer.ToJson());
            else Finish(app.Screen, answer);
            return app.Interrupts.ExitCode ?? 0;
        });
        return verb;
    }

    /// <summary>Ends the text and prints the one line of figures.</summary>
    public static void Finish(Screen screen, Answer answer)
    {
        screen.Out.WriteLine();
        screen.Remark(answer.Line);
    }
}
