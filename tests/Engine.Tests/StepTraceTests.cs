using System.Text.Json;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>The trace of what layers did when.</summary>
public sealed class StepTraceTests
{
    [Fact]
    public void A_run_over_flash_leaves_spans_of_every_kind_in_valid_JSON_that_do_not_end_before_they_start()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        var trace = new StepTrace(4096);
        using var engine = new LocalEngine(tiny.Package, new() { Trace = trace }, new() { Window = 0.05 });
        trace.Start();
        ExactnessTests.Run(engine, ExactnessTests.Prompt(12, 200, seed: 9), 8, 1, 200);
        trace.Stop();
        using var text = new StringWriter();
        trace.Write(text, TimeProvider.System);
        using var json = JsonDocument.Parse(text.ToString());
        var spans = json.RootElement.GetProperty("traceEvents").EnumerateArray().ToArray();
        Assert.Equal(["attention", "feed-forward", "head", "hop", "look-ahead", "prefetch", "waits for flash"], spans.Select(s => s.GetProperty("name").GetString()!).Distinct().Order(StringComparer.Ordinal));
        Assert.All(spans, s => Assert.True(s.GetProperty("dur").GetDouble() >= 0 && s.GetProperty("ts").GetDouble() >= 0));
        Assert.Equal(0, trace.Lost);
    }

    [Fact]
    public void What_finds_no_room_is_counted_and_nothing_is_recorded_before_the_start()
    {
        var trace = new StepTrace(2);
        trace.Add(TraceKind.Head, 0, 1, 2);
        trace.Start();
        for (int i = 0; i < 5; i++) trace.Add(TraceKind.Head, 0, 1, 2);
        Assert.Equal(3, trace.Lost);
        using var text = new StringWriter();
        trace.Write(text, TimeProvider.System);
        Assert.Equal(2, JsonDocument.Parse(text.ToString()).RootElement.GetProperty("traceEvents").GetArrayLength());
    }
}
