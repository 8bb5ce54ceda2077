using FlashOrleans.Grains;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Hosting;

namespace FlashOrleans.Silo.Http;

/// <summary>
/// Whether this silo should get requests: it is not stopping, none of its layers is being loaded, and of the models it has layers of at least one is whole here. A model whose layers
/// cannot be loaded is named, but takes no other model's requests away. A silo without layers is ready: the first request brings them. Any thread.
/// </summary>
internal sealed class ReadyCheck(LayerHost host, Admission admission, IHostApplicationLifetime silo) : IHealthCheck
{
    public Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default) =>
        Task.FromResult(Check(host.Status, admission.Closed || silo.ApplicationStopping.IsCancellationRequested));

    internal static HealthCheckResult Check(IReadOnlyList<LayerStatus> layers, bool stopping)
    {
        if (stopping) return HealthCheckResult.Unhealthy("the silo is stopping");
        string[] failed = [.. layers.Where(static l => l.Error is not null).OrderBy(static l => l.Layer).Select(static l => $"layer {l.Layer} of {l.Package}: {l.Error}")];
        string[] loading = [.. layers.Where(static l => l.Error is null && !l.Ready).GroupBy(static l => l.Package).Select(static p => $"{p.Count()} layers of {p.Key} are being loaded")];
        bool any = layers.Count == 0 || layers.GroupBy(static l => l.Package).Any(static p => p.All(static l => l.Ready));
        string why = string.Join('\n', [.. loading, .. failed]);
        return loading.Length > 0 || !any ? HealthCheckResult.Unhealthy(why) : failed.Length > 0 ? HealthCheckResult.Degraded(why) : HealthCheckResult.Healthy();
    }
}
