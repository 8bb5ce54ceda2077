using System.Collections.Concurrent;

namespace FlashOrleans.Grains.Tests;

/// <summary>Counts the grain calls that a silo's grains received, and holds those of one method before they get in.</summary>
internal sealed class CallGate : IIncomingGrainCallFilter
{
    private readonly ConcurrentDictionary<string, int> _served = new();
    private readonly Lock _gate = new();
    private string? _method;
    private Func<object?, bool> _which = static _ => true;
    private TaskCompletionSource _open = new(), _arrived = new();

    /// <summary>Calls of this method that were carried out.</summary>
    public int Served(string method) => _served.GetValueOrDefault(method);

    public void Close(string method, Func<object?, bool>? grain = null)
    {
        lock (_gate)
        {
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
            _method = null;
            _open.TrySetResult();
        }
    }

    public async Task Invoke(IIncomingGrainCallContext context)
    {
        string method = context.MethodName ?? "";
        Task open = Task.CompletedTask;
        lock (_gate)
        {
            if (method == _method && _which(context.Grain))
            {
                open = _open.Task;
                _arrived.TrySetResult();
            }
        }
        await open;
        await context.Invoke();
        _served.AddOrUpdate(method, 1, static (_, n) => n + 1);
    }
}
