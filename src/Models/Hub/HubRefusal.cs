using System.Net;

namespace FlashOrleans.Models.Hub;

/// <summary>Status codes that are no success, as one line: what, and what to do.</summary>
internal static class HubRefusal
{
    public static HubException Of(HttpResponseMessage message, string what, bool fromHub, bool redirected, HubOptions options)
    {
        int status = (int)message.StatusCode;
        string host = message.RequestMessage!.RequestUri!.Authority;
        string code = message.Headers.TryGetValues("X-Error-Code", out IEnumerable<string>? values) ? values.First() : "";
        switch (status)
        {
            case 408 or 425 or 429 or 500 or 502 or 503 or 504:
                TimeSpan? wait = Wait(message, options.Time);
                string busy = status == 429 ? $"{host} limits how often it is asked (429)" : $"{host} is busy ({status})";
                return new HubException(wait is { } w ? $"{busy} and asks to wait {w.TotalSeconds:0} s" : busy) { MayPass = true, RetryAfter = wait };
            // Where the hub redirects to, an address is signed for a while; the next attempt gets a fresh one.
            case 401 or 403 or 410 when redirected && !fromHub:
                return new HubException($"{what}: {host} refuses the address that it was redirected to ({status})") { MayPass = true };
            case 401 or 403 when !fromHub:
                return new HubException($"{what}: {host} refuses the file ({status})");
            case 401 or 403 when code == "GatedRepo" || (status == 403 && options.Token != null):
                return new HubException(options.Token == null
                    ? $"{what} is gated ({status}): accept its terms at {Page(what, options)} and set HF_TOKEN to a token of that account"
                    : $"{what} is gated ({status}) and the account of HF_TOKEN may not read it: accept its terms at {Page(what, options)}, and let the token read gated repositories");
            case 401 when options.Token != null:
                return new HubException($"{what}: {host} does not accept HF_TOKEN (401), or there is no such repository; check both");
            case 401 or 403:
                return new HubException($"{what}: there is no such repository, or it is private or gated ({status}); check the name, or set HF_TOKEN and accept its terms at {Page(what, options)}");
            case 404 when code == "RevisionNotFound":
                return new HubException($"{what}: there is no such revision (404)");
            case 404 when code == "EntryNotFound":
                return new HubException($"{what}: there is no such file (404)");
            case 404:
                return new HubException($"{what}: {host} does not have it (404); check the name");
            case 416:
                return new HubException($"{what}: {host} has a shorter file than it listed (416); run the command again");
            default:
                return new HubException($"{what}: {host} answers {status}, which is not understood");
        }
    }

    /// <summary>Seconds, or a date; never less than nothing.</summary>
    private static TimeSpan? Wait(HttpResponseMessage message, TimeProvider time)
    {
        TimeSpan? wait = message.Headers.RetryAfter switch
        {
            { Delta: { } delta } => delta,
            { Date: { } date } => date - time.GetUtcNow(),
            _ => null,
        };
        return wait < TimeSpan.Zero ? TimeSpan.Zero : wait;
    }

    private static string Page(string what, HubOptions options)
    {
        string[] parts = what.Split('/', ':');
        return parts.Length >= 2 && !what.Contains("://", StringComparison.Ordinal) ? $"{options.Endpoint.AbsoluteUri.TrimEnd('/')}/{parts[0]}/{parts[1]}" : options.Endpoint.AbsoluteUri;
    }
}
