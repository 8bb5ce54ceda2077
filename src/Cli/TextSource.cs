using System.CommandLine;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Cli;

/// <summary>
/// Whose text side a verb works with when it needs no weights: a package by name or path, or, without importing it, a checkpoint folder. How many ids
/// it takes, too: a model's table may be larger than its vocabulary.
/// </summary>
internal sealed record TextSource(string Name, TextCodec Codec, int VocabSize)
{
    public static TextSource Open(App app, ParseResult parse, ModelFlags model)
    {
        string name = model.Name(parse);
        if (Bare(name) is { } codec) return new(name, codec, codec.VocabSize);
        using var package = model.Open(app, parse);
        return new(package.Name, CodecOf(package), package.Config.VocabSize);
    }

    public static TextCodec CodecOf(FlashPackage package) => TextCodec.FromFiles(package.SideFile)
        ?? throw new CliException($"{package.Name} has no {string.Join(" or ", TextCodec.FileNames)}: it takes token ids only (flash logits {package.Name} --tokens 1,2,3)");

    /// <summary>The tokenizer of what is no package. A kind of file that holds one is added here.</summary>
    private static TextCodec? Bare(string path)
    {
        if (File.Exists(path))
        {
            return TextCodec.FromGguf(path) ?? throw new CliException($"{path} holds no tokenizer");
        }
        if (!Directory.Exists(path) || File.Exists(Path.Combine(path, PackageLayout.ManifestPath))) return null;
        return TextCodec.FromFolder(path) ?? throw new CliException($"{path} is a folder without {string.Join(" or ", TextCodec.FileNames)}");
    }
}
