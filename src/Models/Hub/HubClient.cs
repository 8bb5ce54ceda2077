using System.Net;
using System.Net.Http.Headers;

namespace FlashOrleans.Models.Hub;

/// <summary>
/// Requests to the hub, one attempt each. Redirects are followed here and not by the HTTP library, because three things must be right on the way: the token goes
/// to the hub's own origin and to no other, an https address never becomes http, and what the hub says of a file (X-Linked-…) stands on the redirect. Whatever is
/// not a success leaves as a <see cref="HubException"/>. Any thread; lives as long as a pull.
/// </summary>
internal sealed class HubClient : IDisposable
{
    private const int MostRedirects = 8;
    private readonly HubOptions _options;
    private readonly HttpClient _http;

    public HubClient(HubOptions options)
    {
        _options = options;
        _http = new HttpClient(new SocketsHttpHandler
        {
            AllowAutoRedirect = false,
            UseCookies = false,
            AutomaticDecompression = DecompressionMethods.None,
            ConnectTimeout = TimeSpan.FromSeconds(20),
            // What is left of a body that is not wanted: a new connection costs less than reading it.
            MaxResponseDrainSize = 0,
        })
        { Timeout = Timeout.InfiniteTimeSpan };
        _http.DefaultRequestHeaders.UserAgent.Add(new ProductInfoHeaderValue("flash", typeof(HubClient).Assembly.GetName().Version?.ToString(3) ?? "0"));
    }

    public void Dispose() => _http.Dispose();

    /// <summary>GET; with a range [from, to) if one is given. The caller sees 200 or 206.</summary>
    /// <param name="what">The repository or file that an error names.</param>
    public async Task<HubResponse> GetAsync(string what, Uri url, (long From, long To)? range, CancellationToken cancel)
    {
        var silence = new HubSilence(_options, cancel);
        HttpResponseMessage? message = null;
        try
        {
            long? linkedSize = null;
            string? linkedETag = null;
            int hop = 0;
            for (; ; hop++)
            {
                using (var request = new HttpRequestMessage(HttpMethod.Get, url))
                {
                    if (range is { } r) request.Headers.Range = new RangeHeaderValue(r.From, r.To - 1);
                    if (_options.Token != null && IsHub(url)) request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", _options.Token);
                    silence.Restart();
                    message = await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, silence.Token);
                }
                linkedSize ??= Header(message, "X-Linked-Size") is { } size && long.TryParse(size, out long bytes) ? bytes : null;
                linkedETag ??= Header(message, "X-Linked-ETag")?.Trim('"');
                if ((int)message.StatusCode is not (301 or 302 or 303 or 307 or 308)) break;
                url = Follow(what, url, message.Headers.Location, hop);
                message.Dispose();
                message = null;
            }
            if (message.StatusCode is not (HttpStatusCode.OK or HttpStatusCode.PartialContent))
                throw HubRefusal.Of(message, what, IsHub(url), redirected: hop > 0, _options);
            var response = new HubResponse(message, silence) { LinkedSize = linkedSize, LinkedETag = linkedETag };
            message = null;
            return response;
        }
        catch (Exception e)
        {
            message?.Dispose();
            HubException? cut = IsOfTheNetwork(e) ? Cut(url, e, silence) : null;
            silence.Dispose();
            if (cut != null) throw cut;
            throw;
        }
    }

    /// <summary>The same scheme, host and port as the endpoint: where the token may go.</summary>
    public bool IsHub(Uri url) => Uri.Compare(url, _options.Endpoint, UriComponents.SchemeAndServer, UriFormat.UriEscaped, StringComparison.OrdinalIgnoreCase) == 0;

    public static bool IsOfTheNetwork(Exception e) => e is HttpRequestException or IOException or OperationCanceledException;

    /// <summary>The connection failed: how, in a word. A cancellation that was asked for is thrown as one.</summary>
    public static HubException Cut(Uri url, Exception e, HubSilence silence)
    {
        silence.ThrowIfAsked();
        string host = url.IsDefaultPort ? url.Host : url.Authority;
        string how = e switch
        {
            OperationCanceledException => $"{host} said nothing for {silence.Most.TotalSeconds:0} s",
            HttpRequestException { HttpRequestError: HttpRequestError.NameResolutionError } => $"{host} is not known here; is there a network?",
            HttpRequestException { HttpRequestError: HttpRequestError.ConnectionError } => $"{host} cannot be reached: {e.Message}",
            HttpRequestException { HttpRequestError: HttpRequestError.SecureConnectionError } => $"no secure connection to {host}: {(e.InnerException ?? e).Message}",
            _ => $"the connection to {host} was cut",
        };
        return new HubException(how, e) { MayPass = true };
    }

    private static Uri Follow(string what, Uri from, Uri? location, int hop)
    {
        if (hop == MostRedirects) throw new HubException($"{what}: {from.Host} redirects in a circle");
        if (location == null || !Uri.TryCreate(from, location, out Uri? to) || to.Scheme is not ("http" or "https")) throw new HubException($"{what}: {from.Host} redirects to nowhere");
        if (from.Scheme == "https" && to.Scheme != "https") throw new HubException($"{what}: {from.Host} redirects to {to.Host} without encryption; refused");
        return to;
    }

    private static string? Header(HttpResponseMessage message, string name) => message.Headers.TryGetValues(name, out IEnumerable<string>? values) ? values.First() : null;
}
