using FlashOrleans.Models.Templates;

namespace FlashOrleans.Models.Text;

/// <summary>One message of a conversation. Roles are what the model was trained with: system, user, assistant.</summary>
public sealed record ChatMessage(string Role, string Content);

/// <summary>
/// Conversations as token ids, by the model's own template. What the template wrote may name special tokens; what came from a message is encoded with
/// special tokens off, whatever the template does with it (docs/adr/0010-chat-templates.md): no text can forge a turn. Immutable; any
/// thread. A conversation that the template refuses is a <see cref="TemplateException"/>.
/// </summary>
public sealed class ChatTemplate
{
    public const string BuiltIn = "chatml";
    private const string StartName = "<|im_start|>", EndName = "<|im_end|>";
    private const string ChatMl = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    private readonly TextCodec _codec;
    private readonly JinjaTemplate _template;
    private readonly JinjaTemplate? _withTools;
    private readonly IReadOnlyDictionary<string, string> _specialTokens;

    private ChatTemplate(TextCodec codec, string name, JinjaTemplate template, JinjaTemplate? withTools, IReadOnlyDictionary<string, string> specialTokens)
    {
        (_codec, Name, _template, _withTools, _specialTokens) = (codec, name, template, withTools, specialTokens);
        EndMarker = FindEndMarker();
    }

    /// <summary>The file that the template is from, or <see cref="BuiltIn"/>.</summary>
    public string Name { get; }

    /// <summary>The special token that ends an answer in a conversation; -1 when the template puts none there.</summary>
    public int EndMarker { get; }

    /// <summary>Ids of a whole conversation; <paramref name="addGenerationPrompt"/> opens the assistant's answer.</summary>
    public int[] EncodeChat(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt)
    {
        ArgumentNullException.ThrowIfNull(messages);
        return _codec.Encode(RenderText(messages, addGenerationPrompt));
    }

    /// <summary><see cref="EncodeMore"/> of one message.</summary>
    public int[] EncodeContinuation(ReadOnlySpan<int> history, ChatMessage message, bool addGenerationPrompt = true) => EncodeMore(history, [message], addGenerationPrompt);

    /// <summary>
    /// Ids to append to a session's tokens for the next messages, after an answer that ended with <see cref="EndMarker"/> or without it (cut off by a length
    /// limit, cancelled, another stop token). They are what the template prints behind an answer: rendered behind one that stands for all that was said before. The history itself is
    /// kept as it was computed; where a template prints the past differently once there is more (thoughts dropped, a system message moved), only sending
    /// the whole conversation gives that. A stop token other than the end marker stays in the history unless the caller drops it first.
    /// An empty history gives <see cref="EncodeChat"/>.
    /// </summary>
    public int[] EncodeMore(ReadOnlySpan<int> history, IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt = true)
    {
        ArgumentNullException.ThrowIfNull(messages);
        if (history.IsEmpty) return EncodeChat(messages, addGenerationPrompt);
        int[] ids = BehindAnswer(messages, addGenerationPrompt);
        return EndMarker >= 0 && history[^1] == EndMarker && EndOf(ids) is var end && end >= 0 ? ids[(end + 1)..] : ids;
    }

    /// <summary>The conversation as the template prints it, special tokens spelled out: to look at, not to encode.</summary>
    public string Render(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt)
    {
        ArgumentNullException.ThrowIfNull(messages);
        return RenderText(messages, addGenerationPrompt).Chars;
    }

    /// <summary>The same with all that a conversation can have.</summary>
    public string Render(TemplateInput input)
    {
        ArgumentNullException.ThrowIfNull(input);
        return (input.Tools is null ? _template : _withTools ?? _template).Render(input, _specialTokens);
    }

    /// <summary>The model's template, or the built-in one when it cannot be parsed and the model knows the built-in one's tokens; then, or when there is none at all, a note says why.</summary>
    internal static ChatTemplate? Create(TextCodec codec, TemplateFile file, out string? note)
    {
        note = null;
        if (file.Default is null) return null;
        try
        {
            return new(codec, file.Name, JinjaTemplate.Parse(file.Default), file.WithTools is null ? null : JinjaTemplate.Parse(file.WithTools), file.SpecialTokens);
        }
        catch (TemplateException e)
        {
            bool known = codec.TokenId(StartName) is { } start && codec.TokenId(EndName) is { } end && codec.IsSpecial(start) && codec.IsSpecial(end);
            note = $"the chat template of {file.Name} cannot be used ({e.Message}); "
                + (known ? $"the built-in template {BuiltIn} is used instead" : $"the built-in template {BuiltIn} does not fit this model's tokens: it only continues text");
            return known ? new(codec, BuiltIn, JinjaTemplate.Parse(ChatMl), null, file.SpecialTokens) : null;
        }
    }

    private TextValue RenderText(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt)
    {
        var list = new List<Value>(messages.Count);
        long size = 0;
        foreach (var (role, content) in messages)
        {
            list.Add(new MapValue().With("role", ValueReader.Role(role)).With("content", new TextValue(content, foreign: true)));
            size += role.Length + content.Length;
        }
        return _template.RenderText(new ListValue(list), addGenerationPrompt, _specialTokens, size);
    }

    /// <summary>What follows an answer when these messages come after it.</summary>
    private int[] BehindAnswer(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt)
    {
        string answer = "\uE000answer\uE001";
        for (int i = 0; messages.Any(m => m.Content.Contains(answer, StringComparison.Ordinal) || m.Role.Contains(answer, StringComparison.Ordinal)); i++) answer = $"\uE000answer {i}\uE001";
        var text = RenderText([new("user", "question"), new("assistant", answer), .. messages], addGenerationPrompt);
        int at = text.Chars.IndexOf(answer, StringComparison.Ordinal);
        if (at < 0 || text.Chars.IndexOf(answer, at + 1, StringComparison.Ordinal) >= 0)
            throw new TemplateException("the template does not print an earlier answer once and unchanged: a conversation cannot be continued with it, only sent as a whole");
        return _codec.Encode(text.From(at + answer.Length));
    }

    /// <summary>Where the end marker is, if nothing but white space stands before it.</summary>
    private int EndOf(int[] ids)
    {
        int end = Array.IndexOf(ids, EndMarker);
        return end >= 0 && string.IsNullOrWhiteSpace(_codec.Decode(ids.AsSpan(0, end), skipSpecial: false)) ? end : -1;
    }

    /// <summary>The first special token behind an answer; some templates print it only when a message follows.</summary>
    private int FindEndMarker()
    {
        foreach (ChatMessage[] next in new ChatMessage[][] { [], [new("user", "question")] })
        {
            try
            {
                int[] ids = BehindAnswer(next, addGenerationPrompt: false);
                int end = Array.FindIndex(ids, _codec.IsSpecial);
                if (end >= 0 && string.IsNullOrWhiteSpace(_codec.Decode(ids.AsSpan(0, end), skipSpecial: false))) return ids[end];
            }
            catch (TemplateException)
            {
                // It refuses this conversation; that says nothing about others.
            }
        }
        return -1;
    }
}
