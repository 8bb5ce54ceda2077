using FlashOrleans.Abstractions;
using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

// The step loop. At most one step is in flight; its outcome or failure comes back as a one-way call and drives the next. One recovery
// rule (SessionTimeline): go back to where the layers agree, or submit again under a newer epoch. A watchdog covers what was lost on the way: it asks every
// host before it believes so, because slow is not lost.
internal sealed partial class SessionGrain
{
    private const double EwmaShare = 0.2;
    private static readonly TimeSpan s_maxRetryDelay = TimeSpan.FromSeconds(1);
    private readonly OutgoingCalls _outgoing = new();
    private readonly Action<ReadOnlyMemory<Slot>, Exception> _sendFailed;
    private ITimer? _clock, _retry;
    private long _submitted, _doubted, _ticked, _stood;
    private double _usualStep;
    private bool _asking, _waitingToRetry;
    private int _attempts, _misses;
    private long _steps, _replays, _resubmits, _stale, _stillHeld;

    public ValueTask Deliver(StepOutcome outcome)
    {
        StepResult result = Steps.FromWire(_id, outcome);
        if (IsDraft(outcome.Step))
        {
            Guessed(result);
            return default;
        }
        if (!_timeline.Accept(result))
        {
            _stale++;
            return default;
        }
        double took = _time.GetElapsedTime(_submitted).TotalSeconds;
        _usualStep = _usualStep == 0 ? took : _usualStep + EwmaShare * (took - _usualStep);
        _attempts = _misses = 0;
        Verified(result, took);
        if (_turn is not { Over: false } turn) return default;
        if (outcome.Nll is { } nll) turn.Score(outcome.End, nll);
        if (outcome.Token >= 0)
        {
            // What stands behind the end of an answer is no part of it.
            for (int i = 0; i < result.Sampled && !turn.Over; i++) Take(turn, Steps.At(outcome, i), drafted: i < result.Sampled - 1);
            StoreTokens();
        }
        else if (_timeline.Computed == _timeline.Length)
            turn.End(FinishReason.Length, outcome: outcome);
        if (turn.Over) Ended();
        else Advance();
        return default;
    }

    /// <summary>One more token of the answer: history and chunk; who calls has it stored.</summary>
    private void Take(Turn turn, StepOutcome token, bool drafted)
    {
        Met(turn, token.Token, drafted);
        _timeline.Append([token.Token]);
        turn.Add(token.Token, token, contextFull: _timeline.Length > _model!.MaxPositions);
    }

    public ValueTask Fault(StepFailure failure)
    {
        Apply(failure);
        return default;
    }

    private void Apply(StepFailure failure)
    {
        if (IsDraft(failure.Step))
        {
            NotGuessed(Steps.FromWire(_id, failure));
            return;
        }
        if (!_timeline.Accept(Steps.FromWire(_id, failure)))
        {
            _stale++;
            return;
        }
        switch (failure.Kind)
        {
            // Every layer may miss once on its own before one of them has to answer again.
            case FailureKind.KvMiss when ++_misses <= 2 * _layers.Length + _options.MaxAttempts:
                _replays++;
                Recover();
                break;
            case FailureKind.Unavailable when ++_attempts <= _options.MaxAttempts:
                RetryLater();
                break;
            case FailureKind.Unavailable:
                Finish(FinishReason.Failed, $"gave up after {_options.MaxAttempts} attempts: {failure.Message}");
                break;
            // Alone the step may ask for nothing that is broken.
            case FailureKind.Flash or FailureKind.Rejected when _timeline.Drafted > 0:
                _undrafted = true;
                Advance();
                break;
            default:
                Finish(FinishReason.Failed, failure.Message);
                break;
        }
    }

    /// <summary>Submits the next step if there is a turn, nothing is in flight and its reader keeps up.</summary>
    private void Advance()
    {
        if (_lost || _turn is not { Over: false } turn || _timeline.InFlight || _waitingToRetry || _recovering || turn.Unread >= _options.MaxUnread || AsksModel(turn)) return;
        SlotFlags flags = (turn.Request.MaxTokens > 0 ? SlotFlags.Sample : SlotFlags.None) | (turn.Request.Score ? SlotFlags.Score : SlotFlags.None);
        int chunk = Chunk(turn.Request.PrefillChunk > 0 ? turn.Request.PrefillChunk : _options.PrefillChunk,
            _host.Options.Engine.MaxWaveRows, _model!.HiddenSize, _host.ManySilos);
        Wave wave = _timeline.Submit(chunk, TurnInput.Sampling(turn.Request.Sampling, turn.Record.Seed), flags, turn.Request.TopLogits, NextDrafts(turn));
        _submitted = _doubted = _time.GetTimestamp();
        _steps++;
        _outgoing.Add(wave).Send(_layers[0], _sendFailed);
    }

    /// <summary>Input tokens per step: as asked for, but no more rows than a step of the engine may have, nor, where waves may cross the network, than fit one message.</summary>
    internal static int Chunk(int wanted, int maxWaveRows, int hiddenSize, bool manySilos)
    {
        int chunk = Math.Min(wanted, maxWaveRows);
        return manySilos ? Math.Min(chunk, WaveSplitter.RowsThatFit(hiddenSize)) : chunk;
    }

    /// <summary>The turn just ended: nothing of it may go on anywhere.</summary>
    private void Ended()
    {
        StopClock();
        StopAsking();
        GiveUpStep();
        SettleInLayers();
        StoreEnd();
    }

    private void GiveUpStep()
    {
        if (!_timeline.InFlight) return;
        foreach (ILayerGrain layer in _layers) Ignore(layer.Cancel(_id, _timeline.Epoch, _timeline.Step));
        _timeline.Abandon(_timeline.Epoch + 1);
    }

    private void SendFailed(ReadOnlyMemory<Slot> slots, Exception error)
    {
        Slot slot = slots.Span[0];
        Apply(Steps.ToWire(new SlotFault(_id, slot.Epoch, slot.Step, FaultKind.Unavailable, $"layer 0: {error.Message}")));
    }

    private void RetryLater()
    {
        _timeline.Abandon(_timeline.Epoch + 1);
        _waitingToRetry = true;
        TimeSpan delay = _options.RetryDelay * Math.Pow(2, Math.Min(_attempts - 1, 16));
        _retry?.Dispose();
        _retry = _time.CreateTimer(Post, (Action)Retry, delay < s_maxRetryDelay ? delay : s_maxRetryDelay, Timeout.InfiniteTimeSpan);
    }

    private void Retry()
    {
        _waitingToRetry = false;
        Advance();
    }

    private void StartClock()
    {
        StopClock();
        TimeSpan period = TimeSpan.FromMilliseconds(Math.Clamp(_options.WatchdogMinDelay.TotalMilliseconds / 2, 5, 250));
        _ticked = _time.GetTimestamp();
        _stood = 0;
        _clock = _time.CreateTimer(Post, (Action)Tick, period, period);
        _host.Entered(turns: 1);
    }

    private void StopClock()
    {
        if (_clock is not null) _host.Entered(turns: -1);
        _clock?.Dispose();
        _retry?.Dispose();
        _clock = _retry = null;
        _waitingToRetry = false;
    }

    // Timers fire on pool threads; what they do belongs to the grain's scheduler.
    private void Post(object? action) => _ = Task.Factory.StartNew((Action)action!, CancellationToken.None, TaskCreationOptions.None, _scheduler);

    private void Tick()
    {
        if (_turn is not { Over: false } turn) return;
        // A process that stood still cannot tell who was silent: readers have a moment to say that they are there.
        long now = _time.GetTimestamp();
        if (_time.GetElapsedTime(_ticked, now) >= _options.ReaderLease / 2) _stood = now;
        _ticked = now;
        if (turn.Abandoned(_options.ReaderLease) && (_stood == 0 || _time.GetElapsedTime(_stood, now) >= _options.ReaderLease / 15)) Finish(FinishReason.Abandoned);
        else if (AskedTooLong()) NotGuessed();
        else if (_timeline.InFlight && !_asking && _time.GetElapsedTime(_doubted) >= Patience()) Ignore(AskAsync());
    }

    private TimeSpan Patience()
    {
        TimeSpan usual = TimeSpan.FromSeconds(8 * _usualStep);
        return usual > _options.WatchdogMinDelay ? usual : _options.WatchdogMinDelay;
    }

    /// <summary>Asks every layer's host whether it holds the step. In ascending order: a wave only moves forward, and whoever hands it on still
    /// holds it until the next one has it, so a step that nobody held in turn was lost, or its outcome is here already.</summary>
    private async Task AskAsync()
    {
        (int epoch, long step) = (_timeline.Epoch, _timeline.Step);
        _asking = true;
        try
        {
            bool? held = _outgoing.Holds(_id, epoch, step);
            for (int k = 0; k < _layers.Length && held == false; k++) held = await HoldsAsync(_layers[k]);
            if (!_timeline.InFlight || _timeline.Epoch != epoch || _timeline.Step != step) return;
            if (held != false)
            {
                if (held == true) _stillHeld++;
                _doubted = _time.GetTimestamp();
                return;
            }
            _resubmits++;
            _timeline.Abandon(epoch + 1);
            Advance();
        }
        finally
        {
            _asking = false;
        }

        // Null: it did not say, so it is asked again.
        async Task<bool?> HoldsAsync(ILayerGrain layer)
        {
            try
            {
                return await layer.Holds(_id, epoch, step);
            }
            catch (TimeoutException)
            {
                // A host too busy to answer may well hold it. One that is dead is declared so before long, and then the answer is another.
                return null;
            }
            catch (Exception)
            {
                // A layer or silo that is gone holds nothing that could still arrive.
                return false;
            }
        }
    }

    private static void Ignore(Task sent)
    {
        if (!sent.IsCompletedSuccessfully) _ = sent.ContinueWith(static t => _ = t.Exception, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
    }
}
