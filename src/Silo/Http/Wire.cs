using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Http;

namespace FlashOrleans.Silo.Http;

// OpenAI's JSON, as far as it is understood here (docs/HTTP.md). Names are snake case on the wire.

/// <summary>What both kinds of completion have in common.</summary>
internal abstract class CompletionRequest
{
    public string? Model { get; set; }
    public int? MaxTokens { get; set; }
    public float? Temperature { get; set; }
    public float? TopP { get; set; }
    public int? TopK { get; set; }
    public float? MinP { get; set; }
    public int? N { get; set; }
    /// <summary>A string or up to four.</summary>
    public JsonElement? Stop { get; set; }
    public int[]? StopTokenIds { get; set; }
    public bool? IgnoreEos { get; set; }
    public long? Seed { get; set; }
    public string? Speculate { get; set; }
    public bool? ContextShift { get; set; }
    public bool? Stream { get; set; }
    public StreamOptions? StreamOptions { get; set; }
    public string? PromptCacheKey { get; set; }
    public string? User { get; set; }
    public Dictionary<string, JsonElement>? Metadata { get; set; }
    /// <summary>A switch in chats, a number in plain completions.</summary>
    public JsonElement? Logprobs { get; set; }
    [JsonExtensionData] public Dictionary<string, JsonElement>? Rest { get; set; }
}

internal sealed class ChatRequest : CompletionRequest
{
    public MessageIn[]? Messages { get; set; }
    public int? MaxCompletionTokens { get; set; }
    public int? TopLogprobs { get; set; }
    /// <summary>What the answer will probably be: a type, and content as in messages.</summary>
    public JsonElement? Prediction { get; set; }
}

internal sealed class TextRequest : CompletionRequest
{
    /// <summary>A string, one string in an array, or token ids.</summary>
    public JsonElement? Prompt { get; set; }
}

internal sealed class MessageIn
{
    public string? Role { get; set; }
    /// <summary>A string or text parts.</summary>
    public JsonElement? Content { get; set; }
    [JsonExtensionData] public Dictionary<string, JsonElement>? Rest { get; set; }
}

internal sealed class StreamOptions
{
    public bool? IncludeUsage { get; set; }
}

internal sealed record Usage(int PromptTokens, int CompletionTokens, int TotalTokens, PromptDetails PromptTokensDetails, CompletionDetails CompletionTokensDetails);

internal sealed record PromptDetails(int CachedTokens);

internal sealed record CompletionDetails(int ReasoningTokens, int AcceptedPredictionTokens, int RejectedPredictionTokens);

internal sealed record TokenLog(string Token, float Logprob, int[] Bytes, TopLog[] TopLogprobs);

internal sealed record TopLog(string Token, float Logprob, int[] Bytes);

internal sealed record ChatLogs(IReadOnlyList<TokenLog> Content);

internal sealed record Delta
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] public string? Role { get; init; }
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] public string? Content { get; init; }
}

internal sealed record ChatChunkChoice(int Index, Delta Delta, ChatLogs? Logprobs, string? FinishReason);

internal record ChatChunk(string Id, string Object, long Created, string Model, string SystemFingerprint, ChatChunkChoice[] Choices);

/// <summary>Where usage was asked for every chunk has it, null until the last.</summary>
internal sealed record ChatUsageChunk(string Id, string Object, long Created, string Model, string SystemFingerprint, ChatChunkChoice[] Choices, Usage? Usage)
    : ChatChunk(Id, Object, Created, Model, SystemFingerprint, Choices);

internal sealed record MessageOut(string Role, string Content, string? Refusal);

internal sealed record ChatChoice(int Index, MessageOut Message, ChatLogs? Logprobs, string FinishReason);

internal sealed record ChatReply(string Id, string Object, long Created, string Model, string SystemFingerprint, ChatChoice[] Choices, Usage Usage);

internal sealed record TextLogs(IReadOnlyList<string> Tokens, IReadOnlyList<float> TokenLogprobs, IReadOnlyList<Dictionary<string, float>> TopLogprobs, IReadOnlyList<int> TextOffset);

internal sealed record TextChoice(int Index, string Text, TextLogs? Logprobs, string? FinishReason);

internal record TextChunk(string Id, string Object, long Created, string Model, string SystemFingerprint, TextChoice[] Choices);

internal sealed record TextUsageChunk(string Id, string Object, long Created, string Model, string SystemFingerprint, TextChoice[] Choices, Usage? Usage)
    : TextChunk(Id, Object, Created, Model, SystemFingerprint, Choices);

internal sealed record ModelOut(string Id, string Object, long Created, string OwnedBy, int MaxModelLen);

internal sealed record ModelList(string Object, ModelOut[] Data);

/// <summary>The last turn is over or, in a stored session, goes on when a request with its <c>x-turn-id</c> asks for it.</summary>
internal sealed record SessionTurnOut(Guid Id, bool Over);

/// <summary>Tokens whose keys and values the first layer has, here and on this silo's disk.</summary>
internal sealed record SessionKvOut(int Memory, int Disk);

internal sealed record SessionOut(Guid Id, string Object, string Model, string? User, int Tokens, long CreatedAt, long LastUsedAt, SessionTurnOut LastTurn, SessionKvOut? Kv);

internal sealed record SessionList(string Object, SessionOut[] Data, bool HasMore);

internal sealed record SessionDeleted(Guid Id, string Object, bool Deleted);

internal sealed record ErrorBody(string Message, string Type, string? Param, string? Code);

internal sealed record ErrorReply(ErrorBody Error);

internal sealed record HealthReply(string Status, string[] Reasons);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower)]
[JsonSerializable(typeof(ChatRequest)), JsonSerializable(typeof(TextRequest))]
[JsonSerializable(typeof(ChatChunk)), JsonSerializable(typeof(ChatUsageChunk)), JsonSerializable(typeof(ChatReply))]
[JsonSerializable(typeof(TextChunk)), JsonSerializable(typeof(TextUsageChunk))]
[JsonSerializable(typeof(SessionOut)), JsonSerializable(typeof(SessionList)), JsonSerializable(typeof(SessionDeleted))]
[JsonSerializable(typeof(ModelOut)), JsonSerializable(typeof(ModelList)), JsonSerializable(typeof(ErrorReply)), JsonSerializable(typeof(HealthReply))]
internal sealed partial class WireJson : JsonSerializerContext
{
    // Text is text: only what JSON itself demands is escaped.
    public static WireJson Shared { get; } = new(new JsonSerializerOptions { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping });

    public static async Task WriteAsync<T>(HttpResponse response, T value, JsonTypeInfo<T> type)
    {
        byte[] body = JsonSerializer.SerializeToUtf8Bytes(value, type);
        response.ContentType = "application/json";
        response.ContentLength = body.Length;
        await response.Body.WriteAsync(body, response.HttpContext.RequestAborted);
    }
}
