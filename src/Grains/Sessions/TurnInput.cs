using System.Security.Cryptography;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Models.Templates;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Grains;

/// <summary>What a request means for a session's history: checks it and makes the whole history as token ids. Loader thread (a tokenizer computes); every
/// refusal is one <see cref="TurnRejectedException"/> that says what to do.</summary>
internal static class TurnInput
{
    /// <summary>What needs no model to be seen. Any thread.</summary>
    public static void Check(TurnRequest request)
    {
        int inputs = (request.Text is null ? 0 : 1) + (request.Messages is null ? 0 : 1) + (request.Tokens is null ? 0 : 1);
        if (inputs != 1) throw Rejected($"a turn has exactly one of text, messages and tokens; this one has {inputs}");
        if (request.TurnId == Guid.Empty) throw Rejected("a turn needs an id");
        if (string.IsNullOrWhiteSpace(request.Model)) throw Rejected("a turn needs a model");
        if (request.MaxTokens < 0) throw Rejected($"max tokens is {request.MaxTokens}; it must be 0 or more");
        if (request.PrefillChunk < 0) throw Rejected($"prefill chunk is {request.PrefillChunk}; it must be positive, or 0 for the silo's");
        if (request.TopLogits < 0) throw Rejected($"top logits is {request.TopLogits}; it must be 0 or more");
        if (request.Drafts < 0) throw Rejected($"drafts is {request.Drafts}; it must be 0 or more");
        if (request.StopStrings is { } stops)
        {
            if (stops.Length > TurnRequest.MaxStopStrings) throw Rejected($"there are {stops.Length} stop strings; at most {TurnRequest.MaxStopStrings} are taken");
            if (stops.Any(static stop => stop is not { Length: > 0 and <= TurnRequest.MaxStopLength })) throw Rejected($"a stop string has 1 to {TurnRequest.MaxStopLength} characters");
        }
        SamplingOptions s = request.Sampling;
        if (!float.IsFinite(s.Temperature) || s.Temperature < 0) throw Rejected($"temperature is {s.Temperature}; it must be 0 or more");
        if (!(s.TopP > 0 && s.TopP <= 1)) throw Rejected($"top_p is {s.TopP}; it must be above 0 and at most 1");
        if (!(s.MinP >= 0 && s.MinP <= 1)) throw Rejected($"min_p is {s.MinP}; it must be between 0 and 1");
        if (s.TopK < 0) throw Rejected($"top_k is {s.TopK}; it must be 0 or more");
    }

    /// <summary>The history that the turn starts from.</summary>
    public static int[] History(TurnRequest request, int[] held, ModelInfo model, TextCodec? text)
    {
        int[] before = request.Input == InputMode.Replace ? [] : held;
        int[] history = request switch
        {
            { Tokens: { } tokens } => [.. before, .. tokens],
            _ when text is null => throw Rejected($"model {model.Name} has no tokenizer: send token ids"),
            { Text: { } raw } => [.. before, .. text.Encode(raw, parseSpecial: false, addSpecial: before.Length == 0)],
            _ => Chat(request.Messages!, before, model, text),
        };
        if (history.Length == before.Length && request.Tokens is not { Length: 0 }) throw Rejected("the input of the turn is empty");
        if (history.Length == 0) throw Rejected("the session is empty and so is the input of the turn");
        if (request.Shift) history = Shift(history, () => Prefix(request, history, before, text), model.MaxPositions, request.MaxTokens);
        if (history.Length > model.MaxPositions)
            throw new TurnRejectedException($"{history.Length} tokens do not fit the context of model {model.Name}, which has {model.MaxPositions} positions; send less or start a new session") { TooLong = true };
        foreach (int token in history)
        {
            if ((uint)token >= (uint)model.VocabSize) throw Rejected($"token id {token} is outside the vocabulary of model {model.Name} (0 to {model.VocabSize - 1})");
        }
        if (request.Prediction is { } expected && expected.Any(token => (uint)token >= (uint)model.VocabSize)) throw Rejected($"the prediction has a token id outside the vocabulary of model {model.Name}");
        if (request.TopLogits > model.VocabSize) throw Rejected($"top logits is {request.TopLogits}; model {model.Name} has {model.VocabSize} tokens");
        return history;
    }

    /// <summary>The tokens of what the answer will probably be, where the request says that in words; more than an answer can have are of no use.</summary>
    public static int[]? Expected(TurnRequest request, ModelInfo model, TextCodec? text)
    {
        if (request.PredictionText is not { Length: > 0 } words) return null;
        if (text is null) throw Rejected($"model {model.Name} has no tokenizer: send a prediction as token ids");
        int[] tokens = text.Encode(words, parseSpecial: false);
        return tokens.Length <= model.MaxPositions ? tokens : tokens[..model.MaxPositions];
    }

    /// <summary>
    /// A history that leaves no room for an answer loses its oldest tokens behind a prefix, in steps of half of what a context holds behind it: so that what is kept stays the same from turn to turn, and
    /// computed, until another half has to go. An answer has room when it may have as many tokens as were asked for, or a quarter of the context. Where the prefix leaves too little nothing is dropped.
    /// </summary>
    internal static int[] Shift(int[] history, Func<int> prefix, int positions, int answer)
    {
        int room = Math.Clamp(answer, 1, Math.Max(1, positions / 4));
        int excess = history.Length + room - positions;
        if (excess <= 0) return history;
        int kept = prefix(), half = (positions - kept) / 2;
        if (half <= room) return history;
        int drop = (excess + half - 1) / half * half;
        return [.. history.AsSpan(0, kept), .. history.AsSpan(kept + drop)];
    }

    /// <summary>Tokens that stay when others are dropped: the system's messages with the head of what follows them, or what begins every text.</summary>
    private static int Prefix(TurnRequest request, int[] history, int[] before, TextCodec? text)
    {
        if (text is null) return 0;
        int[] begins = text.Encode("", parseSpecial: false, addSpecial: true);
        if (before.Length == 0 && request.Messages is { } messages)
        {
            try
            {
                begins = text.ChatTemplate!.EncodeMore([], [.. messages.TakeWhile(static m => m.Role == "system").Select(static m => new ChatMessage(m.Role, m.Content)), new ChatMessage("user", "")], addGenerationPrompt: false);
            }
            catch (TemplateException)
            {
                // One that takes no empty message: what begins every text is enough.
            }
        }
        return begins.AsSpan().CommonPrefixLength(history);
    }

    public static Sampling Sampling(SamplingOptions options, ulong seed) => new()
    {
        Temperature = options.Temperature,
        TopP = options.TopP,
        MinP = options.MinP,
        TopK = options.TopK,
        Seed = seed,
    };

    /// <summary>A user as layers know one.</summary>
    public static uint UserOf(TurnRequest request, Guid session) =>
        BitConverter.ToUInt32(SHA256.HashData(request.User is { Length: > 0 } user ? System.Text.Encoding.UTF8.GetBytes(user) : session.ToByteArray()));

    public static ulong DrawSeed() => BitConverter.ToUInt64(RandomNumberGenerator.GetBytes(sizeof(ulong)));

    private static int[] Chat(ChatTurn[] messages, int[] before, ModelInfo model, TextCodec text)
    {
        if (messages.Length == 0) throw Rejected("the input of the turn is empty");
        ChatTemplate template = text.ChatTemplate ?? throw Rejected($"model {model.Name} has no chat template that can be used here: send text");
        ChatMessage[] chat = Array.ConvertAll(messages, static m => new ChatMessage(m.Role, m.Content));
        // An answer may have ended with another stop token than the one that ends a message.
        int end = before.Length;
        if (end > 0 && before[^1] != template.EndMarker && text.StopTokens.Contains(before[^1])) end--;
        try
        {
            return [.. before.AsSpan(0, end), .. template.EncodeMore(before.AsSpan(0, end), chat)];
        }
        catch (TemplateException e)
        {
            throw Rejected($"the chat template of model {model.Name}: {e.Message}");
        }
    }

    private static TurnRejectedException Rejected(string why) => new(why);
}
