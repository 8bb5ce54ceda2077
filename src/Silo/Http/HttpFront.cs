using System.Net;
using System.Security.Cryptography;
using System.Text;
using FlashOrleans.Client;
using FlashOrleans.Flash;
using FlashOrleans.Grains;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Diagnostics.HealthChecks;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using Orleans.Runtime;

namespace FlashOrleans.Silo.Http;

/// <summary>
/// The HTTP surface of a silo (docs/HTTP.md): OpenAI's completions and models, health, metrics. A web host of its own beside the silo's, so that it starts when the silo is there and ends before
/// the silo does; it talks to grains as any client. Requests run on pool threads and compute nothing. What goes wrong is an <see cref="ApiError"/>, once, in <see cref="GuardAsync"/>.
/// </summary>
internal sealed class HttpFront : IAsyncDisposable
{
    private const string Anything = "/{**rest}";
    private static readonly TimeSpan s_lastConnections = TimeSpan.FromSeconds(3);
    private readonly HttpOptions _options;
    private readonly PackageStore _store;
    private readonly HttpInstruments _instruments;
    private readonly Generator _generator;
    private readonly FlashClient _client;
    private readonly SessionStore _sessions;
    private readonly SessionLook _look;
    private readonly ILogger _logger;
    private readonly WebApplication _app;
    private readonly byte[]? _key;

    private HttpFront(HttpOptions options, FlashSiloOptions silo, FlashClient client, IServiceProvider services)
    {
        _options = options = options with { OneUser = silo.SharePrefixes ?? System.Net.IPAddress.IsLoopback(options.Address) };
        _key = options.ApiKey is { Length: > 0 } key ? Hash(key) : null;
        _store = PackageStore.InFolder(silo.ModelsDirectory);
        var host = services.GetRequiredService<LayerHost>();
        _client = client;
        _sessions = services.GetRequiredService<SessionStore>();
        _look = services.GetRequiredService<SessionLook>();
        Admission = new Admission(options.MaxRunning ?? silo.Engine.Budget?.Sessions ?? 64, options.MaxWaiting, options.MaxWait, options.Time);
        _instruments = new HttpInstruments(host, Admission, services.GetRequiredService<ILocalSiloDetails>().SiloAddress.Endpoint.ToString());

        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        FlashSilo.Log(builder.Logging, silo.Verbose);
        // What goes wrong with a request is told to whoever sent it, and what goes wrong at the start is an exception; many lines of it say no more.
        builder.Logging.AddFilter("Microsoft", silo.Verbose ? LogLevel.Information : LogLevel.Critical);
        builder.WebHost.UseKestrelCore().ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.MaxRequestBodySize = options.MaxBodyBytes;
            kestrel.Limits.RequestHeadersTimeout = TimeSpan.FromSeconds(15);
            kestrel.Limits.MaxConcurrentConnections = Admission.Limit + options.MaxWaiting + 256;
            kestrel.Listen(options.Address, options.Port);
        });
        // Signals are the silo's: it ends this one first.
        builder.Services.AddSingleton<IHostLifetime, NoSignals>();
        builder.Services.AddRouting();
        builder.Services.AddHealthChecks().AddCheck("layers", new ReadyCheck(host, Admission, services.GetRequiredService<IHostApplicationLifetime>()));
        builder.Services.AddOpenTelemetry()
            .ConfigureResource(static resource => resource.AddService("flashorleans", autoGenerateServiceInstanceId: false))
            .WithMetrics(static metrics => metrics.AddMeter(HttpInstruments.MeterName).AddPrometheusExporter(static o => o.ScrapeResponseCacheDurationMilliseconds = 0));
        _app = builder.Build();
        _logger = _app.Services.GetRequiredService<ILoggerFactory>().CreateLogger("FlashOrleans.Http");
        _generator = new Generator(client, host, Admission, _instruments, _logger, options.Time);
        Map();
    }

    /// <summary>Where it listens.</summary>
    public IPEndPoint Endpoint { get; private set; } = null!;
    internal Admission Admission { get; }

    public static async Task<HttpFront> StartAsync(HttpOptions options, FlashSiloOptions silo, FlashClient client, IServiceProvider services, CancellationToken cancellationToken)
    {
        var front = new HttpFront(options, silo, client, services);
        try
        {
            await front._app.StartAsync(cancellationToken);
        }
        catch
        {
            await front.DisposeAsync();
            throw;
        }
        string address = front._app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.First();
        front.Endpoint = new IPEndPoint(options.Address, BindingAddress.Parse(address).Port);
        return front;
    }

    /// <summary>Not ready from now on; lets running answers come to their end, as long as the options say, then stops listening.</summary>
    public async ValueTask DisposeAsync()
    {
        await Admission.DrainAsync(_options.DrainTimeout);
        using (var patience = new CancellationTokenSource(s_lastConnections)) await _app.StopAsync(patience.Token);
        await _app.DisposeAsync();
        _instruments.Dispose();
        Admission.Dispose();
    }

    private void Map()
    {
        _app.Use(GuardAsync);
        _app.MapPost("/v1/chat/completions", async (HttpContext context) =>
        {
            var job = new Job(await RequestReader.ChatAsync(context, _options, Admission.Limit));
            await AnswerAsync(context, job, new ChatReplies(job, _options.Time.GetUtcNow()));
        });
        _app.MapPost("/v1/completions", async (HttpContext context) =>
        {
            var job = new Job(await RequestReader.TextAsync(context, _options, Admission.Limit));
            await AnswerAsync(context, job, new TextReplies(job, _options.Time.GetUtcNow()));
        });
        SessionRoutes.Map(_app, _client, _sessions, _look);
        _app.MapGet("/v1/models", (HttpContext context) =>
            WireJson.WriteAsync(context.Response, new ModelList("list", [.. _store.List().Where(static p => p.Manifest is not null).Select(Model)]), WireJson.Shared.ModelList));
        _app.MapGet("/v1/models/{id}", (HttpContext context) =>
        {
            string? id = (string?)context.Request.RouteValues["id"];
            PackageInfo package = _store.List().FirstOrDefault(p => p.Name == id && p.Manifest is not null) ?? throw new ApiException(ApiError.NoModel(id));
            return WireJson.WriteAsync(context.Response, Model(package), WireJson.Shared.ModelOut);
        });
        // The process answers: that is all there is to it.
        _app.MapHealthChecks("/health/live", new HealthCheckOptions { Predicate = static _ => false, ResponseWriter = WriteAsync });
        _app.MapHealthChecks("/health/ready", new HealthCheckOptions { ResponseWriter = WriteAsync });
        _app.MapPrometheusScrapingEndpoint("/metrics");
        _app.Map(Anything, static (HttpContext context) =>
            throw new ApiException(new ApiError(StatusCodes.Status404NotFound, $"there is no {context.Request.Method} {context.Request.Path}; docs/HTTP.md has what there is", Code: "unknown_url")));

        static Task WriteAsync(HttpContext context, HealthReport report) => WireJson.WriteAsync(context.Response, new HealthReply(
            report.Status == HealthStatus.Unhealthy ? "not ready" : "ready",
            [.. report.Entries.Values.SelectMany(static e => e.Description?.Split('\n') ?? [])]), WireJson.Shared.HealthReply);
    }

    private async Task AnswerAsync(HttpContext context, Job job, Reply reply)
    {
        if (job.Plan is { Session: { } session, AnySession: false }) context.Response.Headers[RequestReader.SessionHeader] = session.ToString();
        if (job.Plan.TurnId is { } turn) context.Response.Headers[RequestReader.TurnHeader] = turn.ToString();
        if (!job.Plan.Stream)
        {
            await foreach (Piece piece in _generator.RunAsync(job, context.RequestAborted)) reply.Keep(piece);
            await reply.WriteAsync(context.Response);
            return;
        }
        using var events = new EventStream(context.Response, _options.Time, _options.PingInterval) { Comment = job.Comment };
        await using var pieces = _generator.RunAsync(job, context.RequestAborted).GetAsyncEnumerator(context.RequestAborted);
        try
        {
            while (await events.NextAsync(pieces.MoveNextAsync()))
            {
                reply.Write(events, pieces.Current);
                await events.FlushAsync();
            }
            reply.WriteEnd(events);
        }
        catch (Exception e) when (events.Begun && !context.RequestAborted.IsCancellationRequested)
        {
            // The status is gone: the stream itself has to say it.
            events.Write(Explain(e, context).Reply, WireJson.Shared.ErrorReply);
            events.WriteDone();
        }
        await events.FlushAsync();
    }

    /// <summary>Around every request: the key, the one place where exceptions become answers, and the count of them.</summary>
    private async Task GuardAsync(HttpContext context, RequestDelegate next)
    {
        int status = 0;
        try
        {
            if (_key is not null && context.Request.Path.StartsWithSegments("/v1")) CheckKey(context.Request);
            await next(context);
        }
        catch (Exception e) when (context.RequestAborted.IsCancellationRequested || IsGone(e))
        {
            // Nobody is there to be told.
            status = StatusCodes.Status499ClientClosedRequest;
        }
        catch (Exception e)
        {
            ApiError error = Explain(e, context);
            if (context.Response.HasStarted) context.Abort();
            else await error.WriteAsync(context.Response);
        }
        string? route = (context.GetEndpoint() as RouteEndpoint)?.RoutePattern.RawText;
        _instruments.Request(route is null or Anything ? "other" : route, status != 0 ? status : context.Response.StatusCode);
    }

    /// <summary>The connection ended within a body; <see cref="HttpContext.RequestAborted"/> says so too, but perhaps a moment later.</summary>
    private static bool IsGone(Exception e) => e is ConnectionResetException or ConnectionAbortedException or BadHttpRequestException { Message: "Unexpected end of request content." };

    private ApiError Explain(Exception e, HttpContext context)
    {
        if (ApiError.From(e) is { } known) return known;
        _logger.LogError(e, "{Method} {Path} failed", context.Request.Method, context.Request.Path);
        return ApiError.Unknown;
    }

    private void CheckKey(HttpRequest request)
    {
        const string scheme = "Bearer ";
        string given = request.Headers.Authorization.ToString();
        if (given.StartsWith(scheme, StringComparison.OrdinalIgnoreCase) && CryptographicOperations.FixedTimeEquals(Hash(given[scheme.Length..].Trim()), _key)) return;
        throw new ApiException(new ApiError(StatusCodes.Status401Unauthorized, given.Length == 0 ? "an API key is needed: Authorization: Bearer KEY" : "the API key is wrong", Code: "invalid_api_key"));
    }

    // Of one length, so that comparing takes one time.
    private static byte[] Hash(string key) => SHA256.HashData(Encoding.UTF8.GetBytes(key));

    private static ModelOut Model(PackageInfo package) => new(package.Name, "model",
        new DateTimeOffset(File.GetLastWriteTimeUtc(Path.Combine(package.Path, PackageLayout.ManifestPath))).ToUnixTimeSeconds(), "flashorleans", package.Manifest!.Model.MaxPositions);

    private sealed class NoSignals : IHostLifetime
    {
        public Task WaitForStartAsync(CancellationToken cancellationToken) => Task.CompletedTask;
        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
    }
}
