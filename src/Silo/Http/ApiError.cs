using System.Globalization;
using System.Text.Json;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using Microsoft.AspNetCore.Http;
using Orleans.Runtime;

namespace FlashOrleans.Silo.Http;

/// <summary>An error as OpenAI's clients expect it: a status and one line that says what and what to do, with the field it is about and a code for programs.</summary>
internal sealed record ApiError(int Status, string Message, string Type = ApiError.Invalid, string? Param = null, string? Code = null)
{
    public const string Invalid = "invalid_request_error", Server = "server_error";

    /// <summary>Seconds after which trying again makes sense.</summary>
    public int? RetryAfter { get; init; }

    public static ApiError Wrong(string? param, string message, string? code = null) => new(StatusCodes.Status400BadRequest, message, Invalid, param, code);

    public static ApiError NoModel(string? name) => new(StatusCodes.Status404NotFound, $"the model '{Flat(name)}' does not exist; GET /v1/models lists what does", Invalid, "model", "model_not_found");

    public static ApiError Stopping { get; } = new(StatusCodes.Status503ServiceUnavailable, "the server is stopping; ask again in a moment", Server, Code: "server_stopping") { RetryAfter = 5 };

    /// <summary>What an exception means to a client; null when it is nobody's fault that is known.</summary>
    public static ApiError? From(Exception error) => error switch
    {
        ApiException e => e.Error,
        ModelNotFoundException => new(StatusCodes.Status404NotFound, Flat(error.Message), Invalid, "model", "model_not_found"),
        SessionBusyException => new(StatusCodes.Status409Conflict, Flat(error.Message), Invalid, "session_id", "session_busy") { RetryAfter = 1 },
        TurnRejectedException { TooLong: true } => Wrong("messages", Flat(error.Message), "context_length_exceeded"),
        TurnRejectedException => Wrong(null, Flat(error.Message)),
        BadHttpRequestException { StatusCode: StatusCodes.Status413PayloadTooLarge } => new(StatusCodes.Status413PayloadTooLarge, "the body is too large", Invalid, Code: "request_too_large"),
        BadHttpRequestException { StatusCode: StatusCodes.Status408RequestTimeout } => TooSlow,
        BadHttpRequestException e => new(e.StatusCode, Flat(e.Message)),
        SessionStoreException => new(StatusCodes.Status503ServiceUnavailable, Flat(error.Message), Server, Code: "store_failed") { RetryAfter = 5 },
        Orleans.Storage.InconsistentStateException or FlashConnectionException or LayerUnavailableException or OrleansMessageRejectionException or TimeoutException =>
            new(StatusCodes.Status503ServiceUnavailable, Flat(error.Message), Server, Code: "unavailable") { RetryAfter = 5 },
        _ => null,
    };

    public static ApiError TooSlow { get; } = new(StatusCodes.Status408RequestTimeout, "the body did not come in time", Invalid, Code: "request_timeout");

    /// <summary>What is left for what nobody foresaw; the log has more.</summary>
    public static ApiError Unknown { get; } = new(StatusCodes.Status500InternalServerError, "the server failed; its log says why", Server, Code: "internal_error");

    public ErrorReply Reply => new(new ErrorBody(Message, Type, Param, Code));

    public async Task WriteAsync(HttpResponse response)
    {
        response.StatusCode = Status;
        if (RetryAfter is { } seconds) response.Headers.RetryAfter = seconds.ToString(CultureInfo.InvariantCulture);
        if (Status == StatusCodes.Status401Unauthorized) response.Headers.WWWAuthenticate = "Bearer";
        await WireJson.WriteAsync(response, Reply, WireJson.Shared.ErrorReply);
    }

    private static string Flat(string? text) => (text ?? "").ReplaceLineEndings(" ");
}

/// <summary>Ends a request with an error.</summary>
internal sealed class ApiException(ApiError error) : Exception(error.Message)
{
    public ApiError Error { get; } = error;
}
