using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using FlashOrleans.Abstractions;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;
using Microsoft.AspNetCore.Http;

namespace FlashOrleans.Silo.Http;

/// <summary>
/// Bodies of requests to plans. What would change an answer and is not done here is refused by name; what changes nothing, or is unknown, is passed over. Stateless; any thread.
/// </summary>
internal static class RequestReader
{
    public const int MaxChoices = 8, MaxStops = 4, MaxTopLogs = 20;
    public const string SessionHeader = "x-session-id", TurnHeader = "x-turn-id", LastEventHeader = "Last-Event-ID";

    // Fields whose presence asks for something else than text, or for text that is made in another way.
    private static readonly string[] s_refused =
    [
        "tools", "functions", "logit_bias", "audio", "prediction", "web_search_options", "grammar", "json_schema", "structured_outputs",
        "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend", "lora", "chat_template", "chat_template_kwargs", "suffix", "mm_processor_kwargs",
    ];

    // Fields that say nothing at these values.
    private static readonly (string Name, double Neutral)[] s_neutral =
    [
        ("presence_penalty", 0), ("frequency_penalty", 0), ("repeat_penalty", 1), ("repetition_penalty", 1), ("typical_p", 1), ("best_of", 1), ("min_tokens", 0),
    ];

    public static async Task<Plan> ChatAsync(HttpContext context, HttpOptions options, int mostChoices)
    {
        ChatRequest request = await ReadAsync(context, options, WireJson.Default.ChatRequest);
        if (request.Messages is not { Length: > 0 }) throw Wrong("messages", "messages must have at least one message");
        bool logs = request.Logprobs is { } asked && Switch(asked, "logprobs");
        if (request.TopLogprobs is { } top)
        {
            if (top is < 0 or > MaxTopLogs) throw Wrong("top_logprobs", $"top_logprobs is {top}; it must be between 0 and {MaxTopLogs}");
            if (!logs) throw Wrong("top_logprobs", "top_logprobs needs logprobs: true");
        }
        return Common(context, request, options, mostChoices) with
        {
            Messages = [.. request.Messages.Select(Message)],
            MaxTokens = MaxTokens(request.MaxCompletionTokens, "max_completion_tokens") ?? MaxTokens(request.MaxTokens, "max_tokens"),
            Logs = logs,
            TopLogs = request.TopLogprobs ?? 0,
            Prediction = Prediction(request.Prediction),
        };
    }

    public static async Task<Plan> TextAsync(HttpContext context, HttpOptions options, int mostChoices)
    {
        TextRequest request = await ReadAsync(context, options, WireJson.Default.TextRequest);
        Plan plan = Common(context, request, options, mostChoices);
        if (request.Rest?.GetValueOrDefault("echo").ValueKind == JsonValueKind.True) throw Wrong("echo", "echo is not supported");
        int? logs = null;
        if (request.Logprobs is { ValueKind: not JsonValueKind.Null } asked)
        {
            if (asked.ValueKind != JsonValueKind.Number || !asked.TryGetInt32(out int count) || count is < 0 or > MaxTopLogs)
                throw Wrong("logprobs", $"logprobs must be a number between 0 and {MaxTopLogs}");
            logs = count;
        }
        (string? text, int[]? tokens) = Prompt(request.Prompt);
        // 16 is what this older interface has when nothing is said.
        return plan with { Text = text, Tokens = tokens, MaxTokens = MaxTokens(request.MaxTokens, "max_tokens") ?? 16, Logs = logs is not null, TopLogs = logs ?? 0 };
    }

    /// <summary>The session a key means: the key itself when it is the id of one, so that other clients may meet it there, else one that follows from it. No user's text becomes the key of a grain.</summary>
    public static Guid SessionOf(string kind, string key) =>
        kind == "session" && Guid.TryParse(key, out Guid id) && id != Guid.Empty ? id : new Guid(SHA256.HashData(Encoding.UTF8.GetBytes($"{kind}\n{key}")).AsSpan(0, 16));

    private static async Task<T> ReadAsync<T>(HttpContext context, HttpOptions options, JsonTypeInfo<T> type)
    {
        using var late = new CancellationTokenSource(options.BodyTimeout, options.Time);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(late.Token, context.RequestAborted);
        try
        {
            return await JsonSerializer.DeserializeAsync(context.Request.BodyReader, type, either.Token) ?? throw Wrong(null, "the body is empty: send a JSON object");
        }
        catch (JsonException e)
        {
            string? field = e.Path is ['$', '.', .. var path] ? path : null;
            throw Wrong(field, field is null
                ? $"the body is not the JSON expected here (line {(e.LineNumber ?? 0) + 1}, byte {e.BytePositionInLine})"
                : $"{field} has a value of the wrong type, or outside of its range");
        }
        catch (OperationCanceledException) when (late.IsCancellationRequested && !context.RequestAborted.IsCancellationRequested)
        {
            throw new ApiException(ApiError.TooSlow);
        }
    }

    private static Plan Common(HttpContext context, CompletionRequest request, HttpOptions options, int mostChoices)
    {
        Refuse(request.Rest ?? []);
        // A name, never a path: a package elsewhere on this machine is none of a client's business.
        if (string.IsNullOrEmpty(request.Model)) throw Wrong("model", "model is missing");
        if (!PackageStore.IsValidName(request.Model)) throw new ApiException(ApiError.NoModel(request.Model));
        int choices = request.N ?? 1;
        int most = Math.Min(MaxChoices, mostChoices);
        if (choices < 1 || choices > most) throw Wrong("n", $"n is {choices}; it must be between 1 and {most}");
        Between("temperature", request.Temperature, 0, SamplingAdvice.MaxTemperature);
        Between("min_p", request.MinP, 0, 1);
        if (request.TopP is { } topP && !(topP > 0 && topP <= 1)) throw Wrong("top_p", string.Create(CultureInfo.InvariantCulture, $"top_p is {topP}; it must be above 0 and at most 1"));
        if (request.StopTokenIds is { Length: > 64 }) throw Wrong("stop_token_ids", "at most 64 stop_token_ids are taken");
        bool stream = request.Stream ?? false;
        if (request.StreamOptions is not null && !stream) throw Wrong("stream_options", "stream_options needs stream: true");
        (Guid? session, bool any) = Session(context.Request, request);
        string? user = request.User is { Length: > 0 } named ? Short(named, "user") : null;
        return new Plan
        {
            Model = request.Model,
            Temperature = request.Temperature,
            TopP = request.TopP,
            // Others' clients say -1 for all.
            TopK = request.TopK is { } k ? k >= -1 ? Math.Max(k, 0) : throw Wrong("top_k", $"top_k is {k}; it must be 0 or more") : null,
            MinP = request.MinP,
            Seed = request.Seed,
            Speculate = request.Speculate switch
            {
                null => Speculation.Default,
                "off" => Speculation.Off,
                "lookup" => Speculation.Lookup,
                "auto" => Speculation.Auto,
                { } other => throw Wrong("speculate", $"speculate is '{other}'; it must be off, lookup or auto"),
            },
            Shift = request.ContextShift ?? false,
            Choices = choices,
            Stops = Stops(request.Stop),
            StopTokens = request.StopTokenIds ?? [],
            IgnoreEos = request.IgnoreEos ?? false,
            Stream = stream,
            IncludeUsage = request.StreamOptions?.IncludeUsage ?? false,
            User = user is not null ? $"user:{user}" : session is { } key ? $"session:{key}" : $"request:{Guid.NewGuid()}",
            Session = session,
            AnySession = any,
            // Who names nobody is alone with that request, where others may ask too.
            Scope = user is not null ? $"user:{user}" : options.OneUser ? "local" : session is { } id ? $"session:{id}" : $"request:{Guid.NewGuid()}",
            TurnId = Turn(context.Request, session is not null && !any, choices),
            From = From(context.Request),
        };
    }

    private static Guid? Turn(HttpRequest http, bool ownSession, int choices)
    {
        string? id = http.Headers[TurnHeader];
        if (string.IsNullOrEmpty(id)) return null;
        if (!Guid.TryParse(id, out Guid turn) || turn == Guid.Empty) throw Wrong(TurnHeader, $"{TurnHeader} must be a UUID that the client makes for each answer");
        if (!ownSession) throw Wrong(TurnHeader, $"{TurnHeader} needs {SessionHeader}: the session that the answer is kept in");
        return choices == 1 ? turn : throw Wrong("n", $"with {TurnHeader} n must be 1");
    }

    /// <summary>Only what this server itself sent as an event's id, and only where that means something.</summary>
    private static int From(HttpRequest http)
    {
        string? last = http.Headers[LastEventHeader];
        if (string.IsNullOrEmpty(last) || string.IsNullOrEmpty(http.Headers[TurnHeader])) return 0;
        return int.TryParse(last, NumberStyles.None, CultureInfo.InvariantCulture, out int index) && index < int.MaxValue ? index + 1 : throw Wrong(LastEventHeader, $"{LastEventHeader} must be the id of an event of this answer");
    }

    private static (Guid? Session, bool Any) Session(HttpRequest http, CompletionRequest request)
    {
        string? id = http.Headers[SessionHeader];
        string param = SessionHeader;
        if (string.IsNullOrEmpty(id) && request.Metadata?.TryGetValue("session_id", out JsonElement named) == true && named.ValueKind == JsonValueKind.String)
            (id, param) = (named.GetString(), "metadata.session_id");
        if (!string.IsNullOrEmpty(id)) return (SessionOf("session", Short(id, param)), false);
        // A key for a cache may be shared by many conversations: by model, so that at least they do not take turns in one session.
        return string.IsNullOrEmpty(request.PromptCacheKey) ? (null, false) : (SessionOf("cache", $"{request.Model}\n{Short(request.PromptCacheKey, "prompt_cache_key")}"), true);
    }

    private static string Short(string key, string param) => key.Length <= 256 ? key : throw Wrong(param, $"{param} has {key.Length} characters; at most 256 are taken");

    private static void Refuse(Dictionary<string, JsonElement> rest)
    {
        foreach (string name in s_refused)
        {
            if (rest.TryGetValue(name, out JsonElement value) && !Empty(value)) throw Unsupported(name);
        }
        foreach ((string name, double neutral) in s_neutral)
        {
            if (!rest.TryGetValue(name, out JsonElement value) || value.ValueKind == JsonValueKind.Null) continue;
            if (value.ValueKind != JsonValueKind.Number || value.GetDouble() != neutral)
                throw Wrong(name, string.Create(CultureInfo.InvariantCulture, $"{name} is not supported: only {neutral}, which changes nothing"), "unsupported_parameter");
        }
        if (rest.TryGetValue("response_format", out JsonElement format) && format.ValueKind != JsonValueKind.Null
            && !(format.ValueKind == JsonValueKind.Object && format.TryGetProperty("type", out JsonElement type) && type.ValueKind == JsonValueKind.String && type.ValueEquals("text")))
            throw Wrong("response_format", "response_format is not supported: only {\"type\": \"text\"}", "unsupported_parameter");
        if (rest.TryGetValue("tool_choice", out JsonElement choice) && !(choice.ValueKind == JsonValueKind.Null || (choice.ValueKind == JsonValueKind.String && (choice.ValueEquals("none") || choice.ValueEquals("auto")))))
            throw Unsupported("tool_choice");
        if (rest.TryGetValue("modalities", out JsonElement kinds) && !Empty(kinds)
            && !(kinds.ValueKind == JsonValueKind.Array && kinds.EnumerateArray().All(static k => k.ValueKind == JsonValueKind.String && k.ValueEquals("text"))))
            throw Unsupported("modalities");
    }

    private static bool Empty(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Null or JsonValueKind.Undefined or JsonValueKind.False => true,
        JsonValueKind.Array => value.GetArrayLength() == 0,
        JsonValueKind.Object => value.GetPropertyCount() == 0,
        JsonValueKind.String => value.ValueEquals(""),
        _ => false,
    };

    private static ChatTurn Message(MessageIn? message, int index)
    {
        string at = $"messages[{index}]";
        if (message is null) throw Wrong(at, $"{at} is null");
        foreach (string name in new[] { "tool_calls", "function_call", "audio" })
        {
            if (message.Rest?.TryGetValue(name, out JsonElement value) == true && !Empty(value)) throw Unsupported($"{at}.{name}");
        }
        string role = message.Role switch
        {
            "system" or "developer" => "system",
            "user" or "assistant" => message.Role,
            null => throw Wrong($"{at}.role", $"{at}.role is missing"),
            _ => throw Wrong($"{at}.role", $"{at}.role is not supported: system, developer, user and assistant are", "unsupported_value"),
        };
        return new ChatTurn(role, Content(message.Content, $"{at}.content"));
    }

    private static string Content(JsonElement? content, string at)
    {
        if (content is { ValueKind: JsonValueKind.String } plain) return plain.GetString()!;
        if (content is not { ValueKind: JsonValueKind.Array } parts) throw Wrong(at, $"{at} must be a string, or an array of text parts");
        var text = new StringBuilder();
        int index = 0;
        foreach (JsonElement part in parts.EnumerateArray())
        {
            string here = $"{at}[{index++}]";
            string? type = part.ValueKind == JsonValueKind.Object && part.TryGetProperty("type", out JsonElement t) && t.ValueKind == JsonValueKind.String ? t.GetString() : null;
            if (type != "text") throw Wrong($"{here}.type", $"{here}.type is {(type is null ? "missing" : "not supported")}: only text parts are read", "unsupported_value");
            if (!part.TryGetProperty("text", out JsonElement words) || words.ValueKind != JsonValueKind.String) throw Wrong($"{here}.text", $"{here}.text must be a string");
            if (index > 1) text.Append('\n');
            text.Append(words.GetString());
        }
        return text.ToString();
    }

    private static string? Prediction(JsonElement? prediction)
    {
        if (prediction is not { ValueKind: not JsonValueKind.Null } value) return null;
        if (value.ValueKind != JsonValueKind.Object) throw Wrong("prediction", "prediction must be an object with type and content");
        if (!value.TryGetProperty("type", out JsonElement type) || type.ValueKind != JsonValueKind.String || !type.ValueEquals("content"))
            throw Wrong("prediction.type", "prediction.type must be content", "unsupported_value");
        return Content(value.TryGetProperty("content", out JsonElement content) ? content : null, "prediction.content");
    }

    private static string[] Stops(JsonElement? stop)
    {
        if (stop is not { ValueKind: not JsonValueKind.Null } value) return [];
        string[] stops = value.ValueKind switch
        {
            JsonValueKind.String => [value.GetString()!],
            JsonValueKind.Array when value.EnumerateArray().All(static s => s.ValueKind == JsonValueKind.String) => [.. value.EnumerateArray().Select(static s => s.GetString()!)],
            _ => throw Wrong("stop", "stop must be a string or an array of strings"),
        };
        if (stops.Length > MaxStops) throw Wrong("stop", $"stop has {stops.Length} strings; at most {MaxStops} are taken");
        if (stops.Any(static s => s.Length is 0 or > TurnRequest.MaxStopLength)) throw Wrong("stop", $"a stop string has 1 to {TurnRequest.MaxStopLength} characters");
        return stops;
    }

    private static (string? Text, int[]? Tokens) Prompt(JsonElement? prompt)
    {
        if (prompt is { ValueKind: JsonValueKind.String } text) return (text.GetString(), null);
        if (prompt is { ValueKind: JsonValueKind.Array } array && array.GetArrayLength() is > 0 and var length)
        {
            if (length == 1 && array[0].ValueKind == JsonValueKind.String) return (array[0].GetString(), null);
            int[] tokens = new int[length];
            int i = 0;
            foreach (JsonElement item in array.EnumerateArray())
            {
                if (item.ValueKind != JsonValueKind.Number || !item.TryGetInt32(out tokens[i++])) throw Wrong("prompt", "prompt must be one string, or an array of token ids; several prompts are several requests");
            }
            return (null, tokens);
        }
        throw Wrong("prompt", "prompt must be a string, or an array of token ids");
    }

    private static int? MaxTokens(int? value, string name) => value is null or >= 1 ? value : throw Wrong(name, $"{name} is {value}; it must be at least 1");

    private static bool Switch(JsonElement value, string name) => value.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False or JsonValueKind.Null => false,
        _ => throw Wrong(name, $"{name} must be true or false"),
    };

    private static void Between(string name, float? value, float least, float most)
    {
        if (value is { } number && !(number >= least && number <= most))
            throw Wrong(name, string.Create(CultureInfo.InvariantCulture, $"{name} is {number}; it must be between {least} and {most}"));
    }

    private static ApiException Unsupported(string name) => Wrong(name, $"{name} is not supported by this server", "unsupported_parameter");

    private static ApiException Wrong(string? param, string message, string? code = null) => new(ApiError.Wrong(param, message, code));
}
