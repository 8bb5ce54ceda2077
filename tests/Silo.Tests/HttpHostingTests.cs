using System.Text;
using System.Text.Json;
using FlashOrleans.Engine;
using FlashOrleans.Grains;
using FlashOrleans.Silo.Http;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Time.Testing;

namespace FlashOrleans.Silo.Tests;

/// <summary>The HTTP surface from its start to its end.</summary>
public sealed class HttpHostingTests(EmberlingFolder models)
{
    [Fact]
    public async Task A_silo_that_was_not_asked_for_HTTP_has_none()
    {
        await using FlashSilo silo = await FlashSilo.StartAsync(new FlashSiloOptions { ModelsDirectory = models.Folder });
        Assert.Null(silo.HttpEndpoint);
    }

    [Fact]
    public async Task A_taken_port_is_one_clear_line_and_no_silo_stays()
    {
        await using FlashSilo first = await FlashSilo.StartAsync(HttpSilo.Options(models));
        var error = await Assert.ThrowsAsync<FlashSiloException>(() => FlashSilo.StartAsync(HttpSilo.Options(models, new HttpOptions { Port = first.HttpEndpoint!.Port })));
        Assert.Contains($"port {first.HttpEndpoint!.Port} on 127.0.0.1 is in use", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_silo_that_stops_is_not_ready_takes_nobody_new_and_waits_for_who_is_there()
    {
        FlashSilo silo = await FlashSilo.StartAsync(HttpSilo.Options(models));
        using HttpClient http = HttpSilo.Of(silo);
        Assert.Contains("\"ready\"", await http.GetStringAsync("/health/ready"), StringComparison.Ordinal);
        using HttpRequestMessage request = Wire.Request(Wire.Chat, Wire.Body("\"max_tokens\": 60, \"ignore_eos\": true, \"stream\": true"));
        using HttpResponseMessage response = await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        Admission.Ticket running = await silo.Http!.Admission.EnterAsync("a", 1, default);

        Task stopping = silo.DisposeAsync().AsTask();
        using (HttpResponseMessage ready = await http.GetAsync("/health/ready"), live = await http.GetAsync("/health/live"))
        {
            Assert.Equal((503, 200), ((int)ready.StatusCode, (int)live.StatusCode));
            Assert.Contains("stopping", await ready.Content.ReadAsStringAsync(), StringComparison.Ordinal);
        }
        var (status, error, refused) = await http.FailAsync(Wire.Chat, Wire.Body());
        using (refused)
        {
            Assert.Equal((503, "server_stopping"), ((int)status, error.GetProperty("code").GetString()));
            Assert.NotNull(refused.Headers.RetryAfter?.Delta);
        }
        JsonElement[] events = Wire.Events((await response.Content.ReadAsStringAsync()).Split("\n\n", StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal("length", Wire.Finish(events[^1]));
        Assert.False(stopping.IsCompleted);
        running.Dispose();
        await stopping;
    }

    [Fact]
    public async Task When_the_patience_is_over_what_still_runs_is_cut()
    {
        var time = new FakeTimeProvider();
        using var admission = new Admission(1, 1, TimeSpan.FromMinutes(10), time);
        using IDisposable running = await admission.EnterAsync("a", 1, default);
        Task<Admission.Ticket> waiting = admission.EnterAsync("b", 1, default);
        Assert.Equal((1, 1), (admission.Running, admission.Waiting));
        Task draining = admission.DrainAsync(TimeSpan.FromSeconds(20));
        // Who waits is told at once.
        Assert.Equal(503, (await Assert.ThrowsAsync<ApiException>(() => waiting)).Error.Status);
        time.Advance(TimeSpan.FromSeconds(19));
        Assert.False(draining.IsCompleted || admission.Cut.IsCancellationRequested);
        time.Advance(TimeSpan.FromSeconds(1));
        await draining;
        Assert.True(admission.Cut.IsCancellationRequested);
    }

    [Fact]
    public async Task An_answer_that_is_cut_says_so_in_its_stream()
    {
        var time = new FakeTimeProvider();
        var options = new HttpOptions { Time = time };
        FlashSilo silo = await FlashSilo.StartAsync(HttpSilo.Options(models, options));
        using HttpClient http = HttpSilo.Of(silo);
        // Answers that fill a whole context, so that they are still at it when the time is over.
        using HttpRequestMessage request = Wire.Request(Wire.Chat, Wire.Body("\"ignore_eos\": true, \"n\": 8, \"stream\": true"));
        using HttpResponseMessage response = await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        Task stopping = silo.DisposeAsync().AsTask();
        while (!stopping.IsCompleted && !silo.Http!.Admission.Cut.IsCancellationRequested) time.Advance(options.DrainTimeout);
        string[] lines = (await response.Content.ReadAsStringAsync()).Split("\n\n", StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal("data: [DONE]", lines[^1]);
        Assert.Contains("server_stopping", lines[^2], StringComparison.Ordinal);
        await stopping;
    }

    [Fact]
    public async Task A_stream_that_says_nothing_pings_and_an_event_puts_the_next_ping_off()
    {
        var time = new FakeTimeProvider();
        var context = new DefaultHttpContext();
        using var body = new MemoryStream();
        context.Response.Body = body;
        var every = TimeSpan.FromSeconds(10);
        using var events = new EventStream(context.Response, time, every);
        string Sent() => Encoding.UTF8.GetString(body.ToArray());

        var first = new TaskCompletionSource<bool>();
        Task<bool> waiting = events.NextAsync(new ValueTask<bool>(first.Task)).AsTask();
        time.Advance(every - TimeSpan.FromSeconds(1));
        Assert.False(events.Begun);
        time.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal(": ping\n\n", Sent());
        time.Advance(every);
        Assert.Equal(": ping\n\n: ping\n\n", Sent());
        first.SetResult(true);
        Assert.True(await waiting);
        Assert.Equal("text/event-stream", context.Response.ContentType);

        time.Advance(TimeSpan.FromSeconds(6));
        events.WriteDone();
        await events.FlushAsync();
        string before = Sent();
        var second = new TaskCompletionSource<bool>();
        waiting = events.NextAsync(new ValueTask<bool>(second.Task)).AsTask();
        time.Advance(TimeSpan.FromSeconds(9));
        Assert.Equal(before, Sent());
        time.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal(before + ": ping\n\n", Sent());
        second.SetResult(false);
        Assert.False(await waiting);
    }

    [Fact]
    public async Task A_request_that_waits_for_its_turn_is_pinged()
    {
        var time = new FakeTimeProvider();
        var options = new HttpOptions { MaxRunning = 1, Time = time };
        await using FlashSilo silo = await FlashSilo.StartAsync(HttpSilo.Options(models, options));
        using HttpClient http = HttpSilo.Of(silo);
        Admission.Ticket running = await silo.Http!.Admission.EnterAsync("a", 1, default);
        using HttpRequestMessage request = Wire.Request(Wire.Chat, Wire.Body("\"max_tokens\": 3, \"stream\": true"));
        Task<HttpResponseMessage> asked = http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        // Its body is read, under the same clock; from then on only pings are due.
        while (silo.Http!.Admission.Waiting == 0) await Task.Yield();
        while (!asked.IsCompleted)
        {
            time.Advance(options.PingInterval);
            await Task.Yield();
        }
        using HttpResponseMessage response = await asked;
        running.Dispose();
        string body = await response.Content.ReadAsStringAsync();
        Assert.StartsWith(": ping: queued behind 0\n\n", body, StringComparison.Ordinal);
        Assert.EndsWith("data: [DONE]\n\n", body, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Who_comes_back_to_a_turn_that_has_begun_does_not_queue_behind_others()
    {
        var options = new HttpOptions { MaxRunning = 1, MaxWaiting = 1 };
        await using FlashSilo silo = await FlashSilo.StartAsync(HttpSilo.Options(models, options));
        using HttpClient http = HttpSilo.Of(silo);
        (string, string)[] headers = [("x-session-id", Guid.NewGuid().ToString()), ("x-turn-id", Guid.NewGuid().ToString())];
        string body = Wire.Body("\"max_tokens\": 200, \"ignore_eos\": true, \"stream\": true");
        string? last = null;
        using (HttpRequestMessage request = Wire.Request(Wire.Chat, body, headers))
        using (HttpResponseMessage response = await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead))
        {
            using var lines = new StreamReader(await response.Content.ReadAsStreamAsync());
            while (last is null)
                if ((await lines.ReadLineAsync())!.Split("id: ") is ["", var id]) last = id;
        }
        // Its place is another's, and there is no room to wait.
        using Admission.Ticket running = await silo.Http!.Admission.EnterAsync("a", 1, default);
        using Admission.Ticket waiting = silo.Http!.Admission.Enter("b", 1);
        string[] rest = await http.StreamAsync(Wire.Chat, body, [.. headers, ("Last-Event-ID", last!)]);
        Assert.EndsWith("[DONE]", rest[^1], StringComparison.Ordinal);
        Assert.Contains("\"finish_reason\":\"length\"", rest[^2] + rest[^3], StringComparison.Ordinal);
    }

    [Fact]
    public void Ready_is_who_has_nothing_to_load_and_a_model_that_is_whole()
    {
        static LayerStatus Layer(string package, int layer, bool ready, string? error = null) => new("m", package, layer, ready, error, ready ? new LayerStats() : null);
        HealthStatus Of(params LayerStatus[] layers) => ReadyCheck.Check(layers, stopping: false).Status;
        Assert.Equal(HealthStatus.Healthy, Of());
        Assert.Equal(HealthStatus.Healthy, Of(Layer("a", 0, true), Layer("a", 1, true)));
        Assert.Equal(HealthStatus.Unhealthy, Of(Layer("a", 0, true), Layer("a", 1, false)));
        Assert.Equal(HealthStatus.Unhealthy, Of(Layer("a", 0, true), Layer("a", 1, false, "damaged")));
        // One model's damage is not the others'.
        Assert.Equal(HealthStatus.Degraded, Of(Layer("a", 0, false, "damaged"), Layer("b", 0, true)));
        Assert.Equal(HealthStatus.Unhealthy, ReadyCheck.Check([], stopping: true).Status);
    }
}
