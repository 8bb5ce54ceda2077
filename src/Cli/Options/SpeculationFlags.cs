using System.CommandLine;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

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
        string path = app.Library.Resolve(name, null, app.Interrupts.Stop);
        var draft = DraftModel.At(path);
        string? why = null;
        bool any = false;
        foreach (string package in packages)
        {
            if (FlashPackage.ReadManifest(package).Hash == draft.Manifest.Hash) continue;
            string? wrong = Differs(package, path);
            if (wrong is null) any = true;
            else why ??= wrong;
        }
        if (!any) throw new CliException(why ?? $"--draft {name}: there is no other model here that it could draft for");
        return engine with { Draft = draft };
    }

    /// <summary>Why one cannot draft for the other, in one line; null when it can.</summary>
    private static string? Differs(string package, string draft)
    {
        using FlashPackage target = FlashPackage.Open(package), small = FlashPackage.Open(draft);
        string names = $"--draft: {small.Name} cannot draft for {target.Name}";
        TextCodec? text = TextCodec.FromFiles(target.SideFile), other = TextCodec.FromFiles(small.SideFile);
        if ((text is null) != (other is null)) return $"{names}: only one of them has a tokenizer";
        if (text is null || other is null) return target.Config.VocabSize == small.Config.VocabSize ? null : $"{names}: vocabularies of {small.Config.VocabSize} and {target.Config.VocabSize} tokens";
        if (text.VocabSize != other.VocabSize) return $"{names}: their tokenizers have {other.VocabSize} and {text.VocabSize} tokens";
        for (int id = 0; id < text.VocabSize; id++)
        {
            if (!text.TokenBytes(id).AsSpan().SequenceEqual(other.TokenBytes(id))) return $"{names}: token {id} is another text in each of them";
        }
        return null;
    }
}
