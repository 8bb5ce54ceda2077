using System.Collections.Concurrent;

namespace FlashOrleans.Grains;

/// <summary>
/// A thread of the host's own for what blocks or computes outside the engine: one opens packages, another runs tokenizers, so that a large package
/// being checked does not hold up turns on others. One piece of work at a time, in order. Grain turns await its tasks, whose continuations
/// come back to the grain's scheduler.
/// </summary>
internal sealed class LoaderThread : IDisposable
{
    private readonly BlockingCollection<Action> _work = [];
    private readonly Thread _thread;

    public LoaderThread(string name)
    {
        _thread = new Thread(Loop) { IsBackground = true, Name = name };
        _thread.Start();
    }

    public Task<T> RunAsync<T>(Func<T> work)
    {
        var done = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        try
        {
            _work.Add(() =>
            {
                try { done.SetResult(work()); }
                catch (Exception e) { done.SetException(e); }
            });
        }
        catch (InvalidOperationException)
        {
            done.SetException(new ObjectDisposedException("the layer host"));
        }
        return done.Task;
    }

    public void Dispose()
    {
        _work.CompleteAdding();
        if (Environment.CurrentManagedThreadId != _thread.ManagedThreadId) _thread.Join();
        _work.Dispose();
    }

    private void Loop()
    {
        foreach (Action work in _work.GetConsumingEnumerable()) work();
    }
}
