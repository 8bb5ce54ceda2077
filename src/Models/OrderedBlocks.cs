using System.Runtime.ExceptionServices;

namespace FlashOrleans.Models;

/// <summary>
/// Blocks made side by side and taken one after another: a worker makes block k in its own scratch, waits until all before it were taken, has it taken, and goes on with
/// the next one that nobody has. So reading, computing and writing overlap, one worker more than there are processors keeps them busy while one waits for the device, and
/// memory is a scratch per worker. <typeparamref name="TScratch"/> outlives a run and is used again. One caller at a time, which waits; the first exception ends the run and is thrown there.
/// </summary>
internal sealed class OrderedBlocks<TScratch>(Func<TScratch> create)
{
    private readonly Worker[] _workers = [.. Enumerable.Range(0, Environment.ProcessorCount + 1).Select(_ => new Worker(create))];

    /// <param name="count">Blocks 0 … count − 1.</param>
    /// <param name="make">Any worker's thread: fills the scratch with a block.</param>
    /// <param name="take">A worker's thread, one at a time, in order.</param>
    /// <param name="cancel">Ends the run between two blocks.</param>
    public void Run(int count, Action<int, TScratch> make, Action<int, TScratch> take, CancellationToken cancel)
    {
        if (count == 1)
        {
            cancel.ThrowIfCancellationRequested();
            make(0, _workers[0].Scratch);
            take(0, _workers[0].Scratch);
            return;
        }
        var run = new RunState(count, make, take, cancel);
        Thread[] threads = [.. _workers.Take(count).Select(worker => new Thread(() => run.Work(worker.Scratch)) { IsBackground = true, Name = "flash-import" })];
        foreach (Thread thread in threads) thread.Start();
        foreach (Thread thread in threads) thread.Join();
        run.Failure?.Throw();
    }

    /// <summary>A scratch is made when it is first needed: small models need one.</summary>
    private sealed class Worker(Func<TScratch> create)
    {
        private TScratch? _scratch;
        public TScratch Scratch => _scratch ??= create();
    }

    private sealed class RunState(int count, Action<int, TScratch> make, Action<int, TScratch> take, CancellationToken cancel)
    {
        private readonly object _gate = new();
        private int _next, _taken;

        public ExceptionDispatchInfo? Failure { get; private set; }

        public void Work(TScratch scratch)
        {
            try
            {
                int block;
                while ((block = Interlocked.Increment(ref _next) - 1) < count)
                {
                    cancel.ThrowIfCancellationRequested();
                    make(block, scratch);
                    // Every block before this one is in the hands of a worker that runs: the turn comes, or the run has failed.
                    lock (_gate)
                    {
                        while (_taken != block && Failure == null) Monitor.Wait(_gate);
                        if (Failure != null) return;
                    }
                    take(block, scratch);
                    lock (_gate)
                    {
                        _taken++;
                        Monitor.PulseAll(_gate);
                    }
                }
            }
            catch (Exception e)
            {
                lock (_gate)
                {
                    Failure ??= ExceptionDispatchInfo.Capture(e);
                    _next = count;
                    Monitor.PulseAll(_gate);
                }
            }
        }
    }
}

/// <summary>An array that grows to the largest length that was asked for, and stays. What is in it is anything.</summary>
internal sealed class Scratch<T>
{
    private T[] _items = [];

    public T[] Of(int length) => _items.Length >= length ? _items : _items = new T[length];
}

/// <summary>Work of a thread of its own, stopped and waited for when it is disposed; its exception is thrown where its result is asked for.</summary>
internal sealed class BackgroundWork<T> : IDisposable
{
    private readonly CancellationTokenSource _stop;
    private readonly Task<T> _task;

    public BackgroundWork(Func<CancellationToken, T> work, CancellationToken cancel)
    {
        _stop = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        _task = Task.Factory.StartNew(() => work(_stop.Token), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    public T Result => _task.GetAwaiter().GetResult();

    public void Dispose()
    {
        _stop.Cancel();
        // Whatever it ended with, nobody asks any more.
        Task.WhenAny(_task).Wait();
        _ = _task.Exception;
        _stop.Dispose();
    }
}
