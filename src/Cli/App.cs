using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using FlashOrleans.Cli.Verbs;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli;

/// <summary>What every verb works with, and the one place where a command line becomes an exit code.</summary>
internal sealed class App(Screen screen, Interrupts interrupts)
{
    public Screen Screen { get; } = screen;
    public Interrupts Interrupts { get; } = interrupts;
    public PackageStore Store { get; } = PackageStore.Default();
    public Library Library => field ??= new Library(Store, Screen);

    public async Task<int> InvokeAsync(string[] args)
    {
        // A prompt that begins with @ is a prompt, not a file of arguments.
        var parse = Root().Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
        if (parse.Action is null or ParseErrorAction)
        {
            string verb = parse.CommandResult.Command is RootCommand ? "flash" : $"flash {parse.CommandResult.Command.Name}";
            string message = parse.UnmatchedTokens.Count > 0 ? $"'{parse.UnmatchedTokens[0]}' is not understood" : parse.Errors.Count > 0 ? parse.Errors[0].Message : "a verb is missing";
            Screen.Error.WriteLine($"{verb}: {message.ReplaceLineEndings(" ").TrimEnd('.')} (see {verb} --help)");
            return Failure.Usage;
        }
        try
        {
            // Signals are ours: the library would end the process two seconds after Ctrl-C, in the middle of a chat.
            return await parse.InvokeAsync(new InvocationConfiguration
            {
                EnableDefaultExceptionHandler = false,
                ProcessTerminationTimeout = null,
                Output = Screen.Out,
                Error = Screen.Error,
            });
        }
        catch (Exception e)
        {
            return Failure.Report(e, Screen, Interrupts);
        }
    }

    private RootCommand Root()
    {
        var root = new RootCommand("""
            FlashOrleans: language models whose weights stay on flash, computed by one Orleans grain per layer.

            Models live in $FLASH_HOME (default ~/.flash); a bundled model is imported on first use.
            Exit codes: 0 done, 1 failure, 2 wrong usage, 130 Ctrl-C.
            """)
        {
            RunVerb.Create(this),
            ImportVerb.Create(this),
            SynthVerb.Create(this),
            PullVerb.Create(this),
            ListVerb.Create(this),
            ShowVerb.Create(this),
            RemoveVerb.Create(this),
            VerifyVerb.Create(this),
            TokenizeVerb.Create(this),
            TemplateVerb.Create(this),
            LogitsVerb.Create(this),
            PerplexityVerb.Create(this),
            BenchVerb.Create(this),
            PlanVerb.Create(this),
            ServeVerb.Create(this),
            SessionsVerb.Create(this),
        };
        var help = root.Options.OfType<HelpOption>().Single();
        help.Action = new HelpWithExamples((HelpAction)help.Action!);
        return root;
    }

    /// <summary>The library's help, then the verb's examples.</summary>
    private sealed class HelpWithExamples(HelpAction plain) : SynchronousCommandLineAction
    {
        public override bool ClearsParseErrors => true;

        public override int Invoke(ParseResult parseResult)
        {
            int code = plain.Invoke(parseResult);
            var verb = parseResult.CommandResult.Command as Verb;
            string[] examples = verb?.Examples ?? ["flash run emberling \"Tell me a story about a fox and a lantern\"", "flash run emberling"];
            var output = parseResult.InvocationConfiguration.Output;
            if (verb is { Details.Length: > 0 }) output.WriteLine($"{verb.Details}\n");
            output.WriteLine("Examples:");
            foreach (string example in examples) output.WriteLine($"  {example}");
            output.WriteLine();
            return code;
        }
    }
}

/// <summary>A command with examples for its help, and details where a line is not enough.</summary>
internal sealed class Verb(string name, string description, string details, params string[] examples) : Command(name, description)
{
    public string Details { get; } = details;
    public string[] Examples { get; } = examples;
}
