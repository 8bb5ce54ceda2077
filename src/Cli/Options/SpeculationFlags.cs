using System.CommandLine;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Silo;

namespace FlashOrleans.Cli.Options;

/// <summary>--speculate and --draft: whether what follows is guessed, and by which model beside the session's own tokens.</summary>
internal sealed class SpeculationFlags
{
    private readonly Option<string>? _speculate;
    private readonly Option<string?> _draft = Flags.Text("--draft", "NAME", "A small model with the same vocabulary that guesses what follows; it stays in memory");

    /// <param name="command">Gets the options.</param>
    /// <param name="speculate">False: the verb has a --speculate of its own.</param>
    public SpeculationFlags(Command command, bool speculate = true)
    {
        if (speculate) command.Add(_speculate = Flags.Choice("--speculate", "Guess what follows and verify several tokens in one step, where it pays: from the session's own tokens (lookup), also with --draft's model (auto). The text is the same", "auto", "lookup", "off"));
        command.Add(_draft);
    }

    public Speculation Speculate(ParseResult parse) => Enum.Parse<Speculation>(parse.GetValue(_speculate!)!, ignoreCase: true);

    public bool HasDraft(ParseResult parse) => parse.GetValue(_draft) != null;

    /// <summary>The options with the model that drafts, if one is named; its vocabulary is compared with that of every package it would draft for, before anything is loaded.</summary>
    public EngineOptions Over(App app, ParseResult parse, EngineOptions engine, params IEnumerable<string> packages)
    {
        if (parse.GetValue(_draft) is not { } name) return engine;
        return SiloDraft.Over(engine, name, app.Library.Resolve(name, null, app.Interrupts.Stop), packages);
    }
}
