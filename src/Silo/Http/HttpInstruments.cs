using System.Diagnostics.Metrics;
using FlashOrleans.Abstractions;
using FlashOrleans.Grains;

namespace FlashOrleans.Silo.Http;

/// <summary>
/// Everything /metrics shows: what requests experience, counted as they go by, and what layers and flash of this silo did, asked for when somebody looks. Names are vLLM's with our prefix
/// where there is such a thing. Labels are bounded: model, layer, route, status. Any thread.
/// </summary>
internal sealed class HttpInstruments : IDisposable
{
    public const string MeterName = "FlashOrleans";

    // Steps of 1-2-5: a token of a small model takes a millisecond, the first of a large one minutes.
    private static readonly InstrumentAdvice<double> s_seconds = new()
    {
        HistogramBucketBoundaries = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200],
    };

    private readonly Meter _meter;
    private readonly LayerHost _host;
    private readonly Histogram<double> _firstToken, _betweenTokens, _request;
    private readonly Counter<long> _prompt, _cached, _generated, _drafted, _accepted, _success, _http;

    public HttpInstruments(LayerHost host, Admission admission, string silo)
    {
        _host = host;
        // The silo is the meter's own tag: several silos of one process keep apart.
        _meter = new Meter(new MeterOptions(MeterName) { Tags = [new("silo", silo)] });
        _firstToken = _meter.CreateHistogram("flashorleans.time_to_first_token", "s", "From the arrival of a request, queue included, to its first token", null, s_seconds);
        _betweenTokens = _meter.CreateHistogram("flashorleans.inter_token_latency", "s", "Between one token of an answer and the next", null, s_seconds);
        _request = _meter.CreateHistogram("flashorleans.e2e_request_latency", "s", "From the arrival of a request, queue included, to its end", null, s_seconds);
        _prompt = _meter.CreateCounter<long>("flashorleans.prompt_tokens", null, "Tokens of prompts");
        _cached = _meter.CreateCounter<long>("flashorleans.prompt_tokens_cached", null, "Of them, those that a session had computed before");
        _generated = _meter.CreateCounter<long>("flashorleans.generation_tokens", null, "Tokens of answers");
        _drafted = _meter.CreateCounter<long>("flashorleans.draft_tokens", null, "Guesses of what follows that were verified");
        _accepted = _meter.CreateCounter<long>("flashorleans.draft_tokens_accepted", null, "Of them, those that became tokens of answers");
        _success = _meter.CreateCounter<long>("flashorleans.request_success", null, "Answers that came to their end, by why they ended");
        _http = _meter.CreateCounter<long>("flashorleans.http_requests", null, "Requests by route and status");
        _meter.CreateObservableGauge("flashorleans.num_requests_running", () => admission.Running, null, "Answers in the making");
        _meter.CreateObservableGauge("flashorleans.num_requests_waiting", () => admission.Waiting, null, "Requests that wait to be let in");

        Layers("window_hits", null, "Needed units that the window held", static s => s.UnitsHit);
        Layers("window_misses", null, "Needed units that it did not hold", static s => s.UnitsNeeded - s.UnitsHit);
        LayerGauges("window_hit_ratio", "Share of needed units that the window held, since the layer came", static s => s.UnitsNeeded == 0 ? 0 : (double)s.UnitsHit / s.UnitsNeeded);
        LayerGauges("window_occupancy", "Share of the window's slots that hold a unit", static s => s.WindowSlots == 0 ? 0 : (double)s.WindowUsed / s.WindowSlots);
        LayerGauges("window_size_bytes", "Memory of the window", static s => s.WindowBytes);
        LayerGauges("kv_size_bytes", "Memory of keys and values", static s => s.KvBytes);
        LayerGauges("kv_sessions", "Sessions that hold keys and values", static s => s.KvSessions);
        LayerGauges("kv_held_bytes", "Keys and values that sessions hold", static s => s.KvHeldBytes);
        LayerGauges("kv_cached_bytes", "Keys and values that no session holds and that stay while there is room", static s => s.KvCachedBytes);
        LayerGauges("kv_saved_bytes", "Keys and values on disk", static s => s.KvSavedBytes);
        Layers("demand_read", "By", "Bytes read because a step waited for them", static s => s.DemandBytes);
        Layers("prefetch_read", "By", "Bytes read ahead", static s => s.PrefetchBytes);
        Layers("prefetch_units", null, "Units read ahead", static s => s.PrefetchIssued);
        Layers("prefetch_useful", null, "Of them, those that a step then used", static s => s.PrefetchUseful);
        Layers("prefetch_wasted", null, "Of them, those that left the window unused", static s => s.PrefetchWasted);
        Layers("steps", null, "Steps computed", static s => s.Waves);
        Layers("rows", null, "Tokens computed", static s => s.Rows);
        Seconds("flash_stall", "Time that steps waited for flash with nothing left to compute", static s => s.FlashWaitNanos);
        Seconds("compute", "Time that steps computed", static s => s.ComputeNanos);
        _meter.CreateObservableGauge("flashorleans.layer_ready", () => host.Status.Select(static l => new Measurement<int>(l.Ready ? 1 : 0, Tags(l))), null, "1 once the layer is in memory");

        _meter.CreateObservableCounter("flashorleans.flash_read", () => host.Report().FlashBytes, "By", "Bytes read from flash, all layers");
        _meter.CreateObservableCounter("flashorleans.flash_reads", () => host.Report().FlashReads, null, "Reads from flash, all layers");
        _meter.CreateObservableCounter("flashorleans.flash_faults", () => host.Report().FlashFaults, null, "Reads that failed");
        _meter.CreateObservableCounter("flashorleans.kv_disk_written", () => host.Conductor.KvDiskBytes.Written, "By", "Bytes of keys and values written to disk");
        _meter.CreateObservableCounter("flashorleans.kv_disk_read", () => host.Conductor.KvDiskBytes.Read, "By", "Bytes of keys and values brought back from disk");
        _meter.CreateObservableGauge("flashorleans.num_sessions", () => host.Active.Sessions, null, "Sessions in memory");
        _meter.CreateObservableGauge("flashorleans.num_turns", () => host.Active.Turns, null, "Turns under way in them");
        _meter.CreateObservableGauge("flashorleans.num_steps", () => host.Status.Count(static l => l.Stats is { Busy: true }), null, "Layers with a step that is being computed or waits for flash");
        _meter.CreateObservableGauge("flashorleans.num_waves", () => host.Report().WavesHeld, null, "Waves that layers hold, 0 when nothing is asked for");
        _meter.CreateObservableGauge("flashorleans.native_memory_bytes", () => host.Report().NativeBytes, null, "Native memory held: weights, windows, keys and values, buffers");
    }

    public void Token(string model, bool first, TimeSpan since) => (first ? _firstToken : _betweenTokens).Record(since.TotalSeconds, new KeyValuePair<string, object?>("model", model));

    /// <summary>An answer came to its end; of several to one question the first counts the prompt.</summary>
    public void Ended(string model, FinishReason why, TurnUsage usage, bool first)
    {
        var tag = new KeyValuePair<string, object?>("model", model);
        if (first) _prompt.Add(usage.PromptTokens, tag);
        if (first) _cached.Add(usage.CachedTokens, tag);
        _generated.Add(usage.GeneratedTokens, tag);
        _drafted.Add(usage.DraftedTokens, tag);
        _accepted.Add(usage.AcceptedTokens, tag);
        _success.Add(1, tag, new("finished_reason", why == FinishReason.Stop ? "stop" : "length"));
    }

    public void Finished(string model, TimeSpan took) => _request.Record(took.TotalSeconds, new KeyValuePair<string, object?>("model", model));

    public void Request(string route, int status) => _http.Add(1, new("route", route), new KeyValuePair<string, object?>("status", status));

    public void Dispose() => _meter.Dispose();

    private void Layers(string name, string? unit, string what, Func<Engine.LayerStats, long> value) =>
        _meter.CreateObservableCounter($"flashorleans.layer_{name}", () => Measure(value), unit, what);

    private void LayerGauges(string name, string what, Func<Engine.LayerStats, double> value) =>
        _meter.CreateObservableGauge($"flashorleans.layer_{name}", () => Measure(value), null, what);

    private void Seconds(string name, string what, Func<Engine.LayerStats, long> nanos) =>
        _meter.CreateObservableCounter($"flashorleans.layer_{name}", () => Measure(s => nanos(s) * 1e-9), "s", what);

    private IEnumerable<Measurement<T>> Measure<T>(Func<Engine.LayerStats, T> value) where T : struct
    {
        foreach (LayerStatus layer in _host.Status)
        {
            if (layer.Stats is { } stats) yield return new Measurement<T>(value(stats), Tags(layer));
        }
    }

    private static KeyValuePair<string, object?>[] Tags(LayerStatus layer) => [new("model", layer.Model), new("layer", layer.Layer)];
}
