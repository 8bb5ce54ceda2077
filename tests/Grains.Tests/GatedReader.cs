using FlashOrleans.Flash;

namespace FlashOrleans.Grains.Tests;

/// <summary>
/// The flash reader with a gate in front. Closed (<see cref="Close"/>) it keeps what is submitted, so that steps stay parked on their reads as long as a test likes.
/// Held (<see cref="Hold"/>) it stops the conductor's thread itself at every submission, until the test lets it do one more.
/// </summary>
internal sealed class GatedReader : IFlashReader, IDisposable
{
    private readonly FlashReader _inner = new(2);
    private readonly Lock _gate = new();
    private readonly List<ReadRequest> _kept = [];
    private readonly SemaphoreSlim _stopped = new(0), _permits = new(0);
    private TaskCompletionSource _parked = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private volatile bool _held;
    private bool _closed;

    public ReaderStats Stats => _inner.Stats;

    public bool TrySubmit(ReadRequest request)
    {
        if (_held)
        {
            _stopped.Release();
            _permits.Wait();
        }
        lock (_gate)
        {
            if (_closed)
            {
                _kept.Add(request);
                _parked.TrySetResult();
                return true;
            }
        }
        return _inner.TrySubmit(request);
    }

    public void Promote(ReadRequest request)
    {
        lock (_gate)
        {
            if (_kept.Contains(request)) return;
        }
        _inner.Promote(request);
    }

    public bool TryTakeBack(ReadRequest request)
    {
        lock (_gate)
        {
            if (_kept.Remove(request)) return true;
        }
        return _inner.TryTakeBack(request);
    }

    /// <summary>From now on reads do not come back.</summary>
    public void Close()
    {
        lock (_gate)
        {
            _closed = true;
            _parked = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }

    /// <summary>Completes when a read was kept since <see cref="Close"/>.</summary>
    public Task Parked() => _parked.Task.WaitAsync(TimeSpan.FromMinutes(1));

    public void Open()
    {
        lock (_gate)
        {
            _closed = false;
            foreach (ReadRequest request in _kept) Assert.True(_inner.TrySubmit(request));
            _kept.Clear();
        }
    }

    /// <summary>The conductor stops before its next read, and before every one after that.</summary>
    public void Hold() => _held = true;

    public async Task StoppedAsync() => Assert.True(await _stopped.WaitAsync(TimeSpan.FromMinutes(1)), "the conductor never submitted a read");

    /// <summary>One more submission.</summary>
    public void Step() => _permits.Release();

    public void LetGo()
    {
        _held = false;
        _permits.Release(1000);
    }

    public void Dispose()
    {
        LetGo();
        Open();
        _inner.Dispose();
    }
}
