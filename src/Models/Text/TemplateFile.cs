using System.Text;
using System.Text.Json;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Models.Templates;

namespace FlashOrleans.Models.Text;

/// <summary>
/// The source of a model's chat template and the special tokens it may name: <c>chat_template.jinja</c> if there is one, else <c>tokenizer_config.json</c>, where it is a string or a
/// list of named ones, of which "default" counts, and "tool_use" when there are tools. Needs no tokenizer.
/// </summary>
public sealed class TemplateFile
{
    public const string JinjaName = "chat_template.jinja", ConfigName = "tokenizer_config.json";

    private TemplateFile(string name, string? template, string? withTools, IReadOnlyDictionary<string, string> specialTokens) =>
        (Name, Default, WithTools, SpecialTokens) = (name, string.IsNullOrWhiteSpace(template) ? null : template, withTools, specialTokens);

    /// <summary>The file that the template is in.</summary>
    public string Name { get; }
    /// <summary>Null when the model has none.</summary>
    public string? Default { get; }
    public string? WithTools { get; }
    /// <summary>bos_token, eos_token and whatever else is named so.</summary>
    public IReadOnlyDictionary<string, string> SpecialTokens { get; }

    /// <summary>From the metadata of a GGUF file; null when the path is none.</summary>
    public static TemplateFile? FromGguf(string path)
    {
        if (!GgufFile.IsGguf(path)) return null;
        using GgufFile file = GgufFile.Open(path);
        return GgufConfig.Vocabulary(file.Metadata) is { } source ? Of(source) : new("tokenizer.chat_template", null, null, new Dictionary<string, string>());
    }

    /// <summary>From whatever holds the side files by name.</summary>
    public static TemplateFile FromFiles(Func<string, byte[]?> file)
    {
        ArgumentNullException.ThrowIfNull(file);
        if (file(VocabularySource.FileName) is { } vocabulary && file(ConfigName) is null) return Of(VocabularySource.Parse(vocabulary));
        return Read(SideFile.Parse(ConfigName, file(ConfigName)), file(JinjaName));
    }

    /// <summary>The prompt of a conversation, without a fall-back; <paramref name="over"/> replaces special tokens.</summary>
    public string Render(TemplateInput input, IReadOnlyDictionary<string, string>? over = null)
    {
        ArgumentNullException.ThrowIfNull(input);
        string source = (input.Tools is null ? null : WithTools) ?? Default ?? throw new TemplateException("there is no chat template");
        var tokens = new Dictionary<string, string>(SpecialTokens, StringComparer.Ordinal);
        foreach (var (name, token) in over ?? new Dictionary<string, string>()) tokens[name] = token;
        return JinjaTemplate.Parse(source).Render(input, tokens);
    }

    /// <summary>Of a GGUF file: its metadata name the template, and special tokens by their ids.</summary>
    internal static TemplateFile Of(VocabularySource source)
    {
        var tokens = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var (name, id) in (ReadOnlySpan<(string, int?)>)[("bos_token", source.Bos), ("eos_token", source.Eos), ("unk_token", source.Unknown), ("pad_token", source.Padding)])
            if (id is { } i && (uint)i < (uint)source.Tokens.Count) tokens[name] = source.Tokens[i];
        return new("tokenizer.chat_template", source.ChatTemplate, null, tokens);
    }

    internal static TemplateFile Read(JsonElement? config, byte[]? jinja)
    {
        var tokens = new Dictionary<string, string>(StringComparer.Ordinal);
        if (config is { } root)
            foreach (var property in root.EnumerateObject())
                if (property.Name.EndsWith("_token", StringComparison.Ordinal) && property.Value.ValueKind is JsonValueKind.String or JsonValueKind.Object
                    && SideFile.Token(root, property.Name) is { } token) tokens[property.Name] = token;
        // Invalid UTF-8 becomes U+FFFD: it can only stand in text.
        if (jinja is not null) return new(JinjaName, Encoding.UTF8.GetString(jinja).TrimStart('\uFEFF'), null, tokens);
        return new(ConfigName, SideFile.Template(config, "default"), SideFile.Template(config, "tool_use"), tokens);
    }
}
