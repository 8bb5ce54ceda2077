using System.Collections.Concurrent;

namespace FlashOrleans.Grains.Tests;

/// <summary>Counts the grain calls that a silo's grains received, and holds some: as an incoming filter before they get in, as an outgoing one before they leave.</summary>
internal sealed class CallGate : IIncomingGrainCallFilter, IOutgoingGrainCallFilter
{
    private readonly ConcurrentDictionary<string, int> _served = new();
    private readonly Lock _gate = new();
    private string? _method;
    private bool _closed;
    private Func<object?, bool> _which = static _ => true;
    private TaskCompletionSource _open = new(), _arrived = new();

    /// <summary>Calls of this method that were carried out ("ILayerGrain.Cancel").</summary>
    public int Served(string method) => _served.GetValueOrDefault(method);

    /// <summary>Holds calls of a method (null: of any) to the grains asked for.</summary>
    public void Close(string? method, Func<object?, bool>? grain = null)
    {
        lock (_gate)
        {
            _closed = true;
            _method = method;
            _which = grain ?? (static _ => true);
            _open = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            _arrived = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }

    /// <summary>Completes when a call waits at the gate.</summary>
    public Task Arrived() => _arrived.Task.WaitAsync(TimeSpan.FromMinutes(1));

    public void Open()
    {
        lock (_gate)
        {
            _closed = false;
            _open.TrySetResult();
        }
    }

    public async Task Invoke(IIncomingGrainCallContext context)
    {
        await PassAsync(context);
        await context.Invoke();
        _served.AddOrUpdate($"{context.InterfaceMethod?.DeclaringType?.Name}.{context.MethodName}", 1, static (_, n) => n + 1);
    }

    public async Task Invoke(IOutgoingGrainCallContext context)
    {
        await PassAsync(context);
        await context.Invoke();
    }

    private Task PassAsync(IGrainCallContext context)
    {
        lock (_gate)
        {
            if (!_closed || (_method is not null && context.MethodName != _method) || !_which(context.Grain)) return Task.CompletedTask;
            _arrived.TrySetResult();
            return _open.Task;
        }
    }
}
