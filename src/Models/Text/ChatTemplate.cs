using System.Text;
using System.Text.RegularExpressions;

namespace FlashOrleans.Models.Text;

/// <summary>One message of a conversation. Roles are what the model was trained with: system, user, assistant.</summary>
public sealed record ChatMessage(string Role, string Content);

/// <summary>
/// Renders conversations as ChatML token ids: <c>&lt;|im_start|&gt;role\ncontent&lt;|im_end|&gt;\n</c>. Roles and contents are encoded with special
/// tokens off, the markers are put between them as ids: no text can forge a turn. Only templates that do exactly this are recognised
/// (any spelling of the same loop, with or without a default system message); a template that does more is not
/// approximated. Immutable; any thread.
/// </summary>
public sealed partial class ChatTemplate
{
    private const string StartName = "<|im_start|>", EndName = "<|im_end|>";
    private readonly TextCodec _codec;
    private readonly int _start;
    private readonly string? _defaultSystem;

    private ChatTemplate(TextCodec codec, int start, int end, string? defaultSystem)
    {
        _codec = codec;
        _start = start;
        EndMarker = end;
        _defaultSystem = defaultSystem;
    }

    /// <summary>Built-in name of what was recognised.</summary>
    public string Name => "chatml";

    /// <summary>The token that ends a message.</summary>
    public int EndMarker { get; }

    /// <summary>Ids of a whole conversation; <paramref name="addGenerationPrompt"/> opens the assistant's answer.</summary>
    public int[] EncodeChat(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt)
    {
        ArgumentNullException.ThrowIfNull(messages);
        var ids = new List<int>();
        if (_defaultSystem is not null && messages is [{ Role: not "system" }, ..]) Add(ids, new("system", _defaultSystem));
        foreach (var message in messages) Add(ids, message);
        if (addGenerationPrompt) Open(ids);
        return ids.ToArray();
    }

    /// <summary>
    /// Ids to append to a session's tokens for the next message, after an answer that ended with <see cref="EndMarker"/> or without it (cut off by a length
    /// limit, cancelled, another stop token). <c>history ‖ EncodeContinuation(history, m)</c> equals <see cref="EncodeChat"/> of the whole conversation
    /// whenever the answer's tokens are the ones that encoding its text would give; a model may have spelled the same text with other tokens, and
    /// then the history is right and re-encoding would be wrong. A stop token other than the end marker stays in the history unless the caller drops it first.
    /// An empty history gives <see cref="EncodeChat"/> of the message.
    /// </summary>
    public int[] EncodeContinuation(ReadOnlySpan<int> history, ChatMessage message, bool addGenerationPrompt = true)
    {
        ArgumentNullException.ThrowIfNull(message);
        if (history.IsEmpty) return EncodeChat([message], addGenerationPrompt);
        var ids = new List<int>();
        if (history[^1] != EndMarker) ids.Add(EndMarker);
        _codec.EncodeInto("\n", parseSpecial: false, ids);
        Add(ids, message);
        if (addGenerationPrompt) Open(ids);
        return ids.ToArray();
    }

    /// <summary>The conversation as the template prints it, markers spelled out: to look at, not to encode.</summary>
    public string Render(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt)
    {
        ArgumentNullException.ThrowIfNull(messages);
        var text = new StringBuilder();
        if (_defaultSystem is not null && messages is [{ Role: not "system" }, ..]) Print(new("system", _defaultSystem));
        foreach (var message in messages) Print(message);
        if (addGenerationPrompt) text.Append(StartName).Append("assistant\n");
        return text.ToString();

        void Print(ChatMessage m) => text.Append(StartName).Append(m.Role).Append('\n').Append(m.Content).Append(EndName).Append('\n');
    }

    // Role and content are one text between two markers, so merges across the line break come out as when the whole prompt is encoded.
    private void Add(List<int> ids, ChatMessage message)
    {
        ids.Add(_start);
        _codec.EncodeInto($"{message.Role}\n{message.Content}", parseSpecial: false, ids);
        ids.Add(EndMarker);
        _codec.EncodeInto("\n", parseSpecial: false, ids);
    }

    private void Open(List<int> ids)
    {
        ids.Add(_start);
        _codec.EncodeInto("assistant\n", parseSpecial: false, ids);
    }

    internal static ChatTemplate? Detect(TextCodec codec, string? template)
    {
        if (template is null || template.Length > 10_000) return null;
        var match = ChatMl().Match(Canonical(template));
        if (!match.Success || codec.TokenId(StartName) is not { } start || codec.TokenId(EndName) is not { } end) return null;
        if (!codec.IsSpecial(start) || !codec.IsSpecial(end)) return null;
        string? system = match.Groups["system"] is { Success: true } g ? g.Value.Replace("\\n", "\n", StringComparison.Ordinal) : null;
        return system is not null && system.Contains('\\', StringComparison.Ordinal) ? null : new(codec, start, end, system);
    }

    /// <summary>One spelling for templates that mean the same: white space that Jinja drops (trim_blocks, lstrip_blocks, minus signs) is gone, inside tags all of it;
    /// strings are in single quotes and joined where they are added; members are in brackets.</summary>
    private static string Canonical(string template)
    {
        string text = template.EndsWith('\n') ? template[..^1] : template;
        text = BeforeTag().Replace(text, "{$1");
        text = AfterTag().Replace(text, "$1}");
        text = IndentBeforeBlock().Replace(text, "{%");
        text = LineAfterBlock().Replace(text, "%}");
        text = Tag().Replace(text, static tag =>
        {
            string inside = InTag().Replace(tag.Value, static part => part.Groups["s"] is { Success: true } s
                ? $"'{s.Value.Replace("'", "\\'", StringComparison.Ordinal)}'"
                : part.Groups["t"] is { Success: true } t ? $"'{t.Value}'" : "");
            inside = inside.Replace("message.role", "message['role']", StringComparison.Ordinal)
                .Replace("message.content", "message['content']", StringComparison.Ordinal)
                .Replace("messages[0].role", "messages[0]['role']", StringComparison.Ordinal)
                .Replace('~', '+');
            return inside.Replace("'+'", "", StringComparison.Ordinal);
        });
        return text;
    }

    [GeneratedRegex("""\s*\{([%{])-""")]
    private static partial Regex BeforeTag();

    [GeneratedRegex("""-([%}])\}\s*""")]
    private static partial Regex AfterTag();

    [GeneratedRegex("""%\}\r?\n""")]
    private static partial Regex LineAfterBlock();

    [GeneratedRegex("""(?<=^|\n)[ \t]+\{%""")]
    private static partial Regex IndentBeforeBlock();

    [GeneratedRegex("""\{[%{].*?[%}]\}""", RegexOptions.Singleline)]
    private static partial Regex Tag();

    // Double-quoted string, single-quoted string, or white space outside both.
    [GeneratedRegex(""" "(?<s>[^"\\]*(?:\\.[^"\\]*)*)" | '(?<t>[^'\\]*(?:\\.[^'\\]*)*)' | \s+ """, RegexOptions.IgnorePatternWhitespace)]
    private static partial Regex InTag();

    [GeneratedRegex("""
        ^
        (?:\{%ifnotadd_generation_promptisdefined%\}\{%setadd_generation_prompt=false%\}\{%endif%\})?
        \{%formessageinmessages%\}
        (?:\{%if(?:loop\.firstand)messages\[0\]\['role'\]!='system'%\}\{\{'<\|im_start\|>system\\n(?<system>[^'<{}]*)<\|im_end\|>\\n'\}\}\{%endif%\})?
        \{\{'<\|im_start\|>'\+message\['role'\]\+'\\n'\+message\['content'\]\+'<\|im_end\|>\\n'\}\}
        \{%endfor%\}
        \{%ifadd_generation_prompt%\}\{\{'<\|im_start\|>assistant\\n'\}\}\{%endif%\}
        $
        """, RegexOptions.IgnorePatternWhitespace)]
    private static partial Regex ChatMl();
}
