using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Silo;

/// <summary>The model of --draft, checked before anything is loaded: one that guesses for another must have the same tokens.</summary>
public static class SiloDraft
{
    /// <summary>The options with the model that drafts for at least one of the packages; else a <see cref="FlashSiloException"/> that says why for none.</summary>
    /// <param name="engine">The options without it.</param>
    /// <param name="name">As it was asked for.</param>
    /// <param name="path">Its package.</param>
    /// <param name="packages">Paths of those it would draft for; its own is passed over.</param>
    public static EngineOptions Over(EngineOptions engine, string name, string path, IEnumerable<string> packages)
    {
        ArgumentNullException.ThrowIfNull(engine);
        ArgumentNullException.ThrowIfNull(packages);
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
        if (!any) throw new FlashSiloException(why ?? $"--draft {name}: there is no other model here that it could draft for");
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
