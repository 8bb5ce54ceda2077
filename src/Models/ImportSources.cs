using System.Security.Cryptography;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models;

/// <summary>
/// What of a checkpoint an import carries along or writes down, its weights apart: the files of its text side, what is to be said about them, checksums, origin. The import's threads; a file that
/// cannot be read is a <see cref="ModelFormatException"/>.
/// </summary>
internal static class ImportSources
{
    /// <summary>Files carried along unread: what a tokenizer, a chat template and the choice of tokens need.</summary>
    private static readonly string[] s_sideFiles =
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"];

    public static List<(string Name, byte[] Bytes)> SideFiles(Checkpoint checkpoint)
    {
        if (!checkpoint.IsFolder) return checkpoint.Vocabulary is { } vocabulary ? [(VocabularySource.FileName, vocabulary.ToJson())] : [];
        return [.. s_sideFiles.Select(name => (Name: name, Path: Path.Combine(checkpoint.Path, name))).Where(f => File.Exists(f.Path)).Select(f => (f.Name, ReadSmall(f.Path)))];
    }

    /// <summary>What the user should know about the model's text side: it has none, this version cannot read it, or another chat template is used.</summary>
    public static IEnumerable<string> TextNotes(List<(string Name, byte[] Bytes)> files)
    {
        TextCodec? codec;
        try
        {
            codec = TextCodec.FromFiles(name => files.FirstOrDefault(f => f.Name == name).Bytes);
        }
        catch (ModelFormatException e)
        {
            return [$"the tokenizer cannot be used ({e.Message}): the model can only be used with token ids"];
        }
        if (codec is null) return ["the checkpoint has no tokenizer: the model can only be used with token ids"];
        return codec.TemplateNote is { } note ? [note] : [];
    }

    /// <summary>The source's files with their checksums, read beside the import itself.</summary>
    public static List<SourceFile> Checksums(Checkpoint checkpoint, PredictorSource? predictors, CancellationToken cancel)
    {
        IEnumerable<string> paths = (!checkpoint.IsFolder ? [] : s_sideFiles.Prepend("config.json").Select(f => Path.Combine(checkpoint.Path, f)).Where(File.Exists)).Concat(checkpoint.Files).Concat(predictors?.Files ?? []);
        var files = new List<SourceFile>();
        byte[] buffer = new byte[1 << 20];
        foreach (string path in paths)
        {
            try
            {
                using FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0, FileOptions.SequentialScan);
                using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
                for (int n; (n = file.Read(buffer)) > 0; hash.AppendData(buffer, 0, n)) cancel.ThrowIfCancellationRequested();
                files.Add(new SourceFile(Path.GetFileName(path), file.Length, Convert.ToHexStringLower(hash.GetHashAndReset())));
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new ModelFormatException(path, $"cannot be read: {e.Message}", e);
            }
        }
        return files;
    }

    public static Provenance Origin(Checkpoint checkpoint, IReadOnlyList<SourceFile> files) => new()
    {
        // The folder's name, not its path: a package may travel.
        Source = Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(checkpoint.Path))),
        Files = files,
        Tool = $"flash {typeof(Importer).Assembly.GetName().Version?.ToString(3)}",
        SyntheticSeed = checkpoint.SyntheticSeed,
    };

    private static byte[] ReadSmall(string path)
    {
        const long most = 64 << 20;
        try
        {
            long length = new FileInfo(path).Length;
            if (length > most) throw new ModelFormatException(path, $"{length} bytes are too many for a file of its kind");
            return File.ReadAllBytes(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ModelFormatException(path, $"cannot be read: {e.Message}", e);
        }
    }
}
