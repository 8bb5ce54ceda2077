using System.Runtime.CompilerServices;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Text;
using Microsoft.Extensions.Logging;
using Orleans.Placement;
using Orleans.Runtime;
using Orleans.Storage;

namespace FlashOrleans.Grains;

/// <summary>
/// A conversation as a grain. This file: identity, turns and their readers; <c>SessionGrain.Steps.cs</c>: the step loop, recovery and the watchdog.
/// Everything runs in turns of this grain, which compute nothing: tokenizing and opening packages happen on the host's loader thread, steps
/// in the layers. State is written when the grain activates (its epoch, so that what an earlier activation left under way is
/// old) and at the start and end of a turn. No method waits for a step: <see cref="Deliver"/> drives the loop.
/// </summary>
[GrainType("session"), PreferLocalPlacement]
internal sealed partial class SessionGrain : Grain, ISessionGrain
{
    private static readonly TimeSpan s_readPatience = TimeSpan.FromSeconds(2);
    private readonly LayerHost _host;
    private readonly IPersistentState<SessionState> _state;
    private readonly ILogger<SessionGrain> _logger;
    private readonly GrainOptions _options;
    private readonly TimeProvider _time;
    private TaskScheduler _scheduler = null!;
    private SessionTimeline _timeline = null!;
    private Guid _id;
    private ModelInfo? _model;
    private ILayerGrain[] _layers = [];
    private Turn? _turn;
    private Task? _restoring;
    private Task _writes = Task.CompletedTask;
    private Guid _starting, _cancelledStart;

    public SessionGrain(LayerHost host, [PersistentState("session", GrainsHosting.SessionStorage)] IPersistentState<SessionState> state, ILogger<SessionGrain> logger)
    {
        _host = host;
        _state = state;
        _logger = logger;
        _options = host.Grains;
        _time = host.Time;
        _sendFailed = SendFailed;
    }

    private SessionState State => _state.State;

    public override async Task OnActivateAsync(CancellationToken cancellationToken)
    {
        _id = this.GetPrimaryKey();
        _scheduler = TaskScheduler.Current;
        State.Epoch = NextEpoch(State.Epoch);
        await _state.WriteStateAsync(cancellationToken);
        _timeline = new SessionTimeline(_id, State.Epoch, start: State.Start != 0 ? State.Start : TokenChain.Start);
        _timeline.Append([.. State.Tokens]);
    }

    public override async Task OnDeactivateAsync(DeactivationReason reason, CancellationToken cancellationToken)
    {
        StopClock();
        // A turn that is over was written when it ended. Storage in memory leaves with the last silo, and a turn that went further than its record runs again.
        if (_turn is { Over: false } && (reason.ReasonCode != DeactivationReasonCode.ShuttingDown || _host.ManySilos)) Save();
        await _writes;
    }

    public async Task<TurnAccepted> StartTurn(TurnRequest request)
    {
        long started = _time.GetTimestamp();
        TurnInput.Check(request);
        if (await FindAsync(request.TurnId) is { } known) return Accepted(known, attached: true);
        if (_turn is { Over: false }) throw new SessionBusyException(_id, _turn.Id);
        _starting = request.TurnId;
        try
        {
            ModelInfo model = await GrainFactory.GetGrain<IModelGrain>(request.Model).Info();
            bool switched = State.Package.Length > 0 && State.Package != model.Package;
            if (switched && _timeline.Length > 0 && request.Input == InputMode.Append)
                throw new TurnRejectedException($"session {_id} holds tokens of another package than {model.Name}; open a new session or replace the history");
            (TextCodec? text, int[] history) = await ReadAsync(request, model, _timeline.Tokens.ToArray());
            ulong seed = request.Sampling.Seed ?? TurnInput.DrawSeed();

            await FindDraftModelAsync(model);

            // Before the new record is written: the lengths that tokens were computed for are still in the old one.
            if (!switched) Bind(model);
            Enter(request);
            int common = switched ? 0 : _timeline.Tokens.CommonPrefixLength(history);
            int cached = Math.Min(Math.Min(_timeline.Computed, common), history.Length - 1);
            var record = new TurnRecord { Request = request, Seed = seed, PromptTokens = history.Length, CachedTokens = cached };
            await WriteAsync(model.Package, history, _timeline.Lengths[..Math.Min(common, _timeline.Lengths.Length)].ToArray(), record);

            if (switched) CloseInLayers();
            Bind(model);
            _timeline.Truncate(common);
            _timeline.Append(history.AsSpan(common));
            _kept = Math.Min(_kept, common);
            Begin(new Turn(record, Stops(record), text, _time, started));
            if (_cancelledStart == request.TurnId) Finish(FinishReason.Cancelled);
            return Accepted(_turn!, attached: false);
        }
        finally
        {
            _starting = Guid.Empty;
            _cancelledStart = Guid.Empty;
        }
    }

    public async IAsyncEnumerable<TokenChunk> Read(Guid turnId, int fromIndex, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(fromIndex);
        Turn turn = await FindAsync(turnId) ?? throw new TurnRejectedException($"session {_id} does not know turn {turnId}; start it");
        if (turn.Over && fromIndex >= turn.Chunks.Count)
            throw new TurnRejectedException($"turn {turnId} is over and has {turn.Chunks.Count} chunks; there is none at index {fromIndex}");
        turn.Enter(fromIndex);
        Advance();
        bool stays = false;
        try
        {
            int next = fromIndex;
            while (true)
            {
                while (next < turn.Chunks.Count)
                {
                    TokenChunk chunk = turn.Chunks[next++];
                    turn.Taken(next);
                    Advance();
                    yield return chunk;
                }
                if (turn.Over) yield break;
                // A grain with a waiting reader cannot leave memory, so a silent stream ends now and then and the client asks again.
                stays = !await turn.ChangedAsync(s_readPatience, cancellationToken);
                if (stays) yield break;
            }
        }
        finally
        {
            bool left = turn.Leave(_options.ReaderLease / 2);
            if (left && !stays && !turn.Over && turn.Request.CancelOnDisconnect && ReferenceEquals(turn, _turn)) Finish(FinishReason.Cancelled);
        }
    }

    public Task Cancel(Guid turnId)
    {
        if (_turn is { Over: false } turn && turn.Id == turnId) Finish(FinishReason.Cancelled);
        else if (_starting == turnId) _cancelledStart = turnId;
        return Task.CompletedTask;
    }

    public Task Leave(Guid turnId)
    {
        if (_turn is { Over: false, Readers: 0, Request.CancelOnDisconnect: true } turn && turn.Id == turnId) Finish(FinishReason.Cancelled);
        else if (_starting == turnId) _cancelledStart = turnId;
        return Task.CompletedTask;
    }

    public async Task Close()
    {
        if (_turn is { Over: false }) Finish(FinishReason.Cancelled);
        if (_model is null && State.Package.Length > 0) await BindStoredAsync();
        CloseInLayers();
        await _writes;
        int epoch = NextEpoch(_timeline.Epoch);
        await _state.ClearStateAsync();
        State.Epoch = epoch;
        _timeline = new SessionTimeline(_id, epoch);
        _turn = null;
        _model = null;
        _drafter = null;
        _layers = [];
    }

    public Task<int[]> Tokens() => Task.FromResult(_timeline.Tokens.ToArray());

    public Task<SessionReport> Report() => Task.FromResult(new SessionReport
    {
        Epoch = _timeline.Epoch,
        Length = _timeline.Length,
        Computed = _timeline.Computed,
        TurnId = _turn?.Id ?? Guid.Empty,
        Running = _turn is { Over: false },
        Finish = _turn?.Record.Finish ?? FinishReason.None,
        Unread = _turn?.Unread ?? 0,
        Readers = _turn?.Readers ?? 0,
        Steps = _steps,
        Replays = _replays,
        Resubmits = _resubmits,
        Stale = _stale,
        StillHeld = _stillHeld,
        Generated = _turn?.Generated ?? 0,
        Drafted = _drafted,
        Accepted = _accepted,
    });

    private static TurnAccepted Accepted(Turn turn, bool attached) => new()
    {
        TurnId = turn.Id,
        Attached = attached,
        PromptTokens = turn.Record.PromptTokens,
        CachedTokens = turn.Record.CachedTokens,
        Seed = turn.Record.Seed,
        Package = turn.Package,
    };

    /// <summary>The turn with this id: in memory, or brought back from the record that an earlier activation wrote.</summary>
    private async Task<Turn?> FindAsync(Guid turnId)
    {
        if (_turn is null && State.Turn is { } record && record.Request.TurnId == turnId)
        {
            try
            {
                await (_restoring ??= RestoreAsync(record));
            }
            finally
            {
                _restoring = null;
            }
        }
        return _turn?.Id == turnId ? _turn : null;
    }

    private async Task RestoreAsync(TurnRecord record)
    {
        long started = _time.GetTimestamp();
        ModelInfo model = await GrainFactory.GetGrain<IModelGrain>(record.Request.Model).Info();
        if (model.Package != State.Package)
            throw new TurnRejectedException($"turn {record.Request.TurnId} was made with another package than model {model.Name} is now; send a new turn");
        TextCodec? text = model.HasTokenizer ? await _host.Catalog.TextAsync(model.Package) : null;
        await FindDraftModelAsync(model);
        Bind(model);
        var turn = new Turn(record with { Finish = FinishReason.None, Error = null }, Stops(record), text, _time, started);
        for (int i = record.PromptTokens; i < _timeline.Length; i++)
            turn.Add(_timeline.Tokens[i], outcome: null, contextFull: i + 1 > model.MaxPositions);
        if (record.Finish != FinishReason.None && !turn.Over) turn.End(record.Finish, record.Error);
        Begin(turn);
    }

    /// <summary>Text to tokens on the loader thread.</summary>
    private async Task<(TextCodec?, int[])> ReadAsync(TurnRequest request, ModelInfo model, int[] held)
    {
        try
        {
            TextCodec? text = model.HasTokenizer ? await _host.Catalog.TextAsync(model.Package) : null;
            return (text, await _host.RunAsync(() => TurnInput.History(request, held, model, text)));
        }
        catch (Exception e) when (e is FlashException or ModelFormatException)
        {
            throw new TurnRejectedException(e.Message);
        }
    }

    private int[] Stops(TurnRecord record) => record.Request.StopTokens ?? _model?.EosTokens ?? [];

    private void Begin(Turn turn)
    {
        turn.Package = _model!.Package;
        _turn = turn;
        _timeline.User = TurnInput.UserOf(turn.Request, _id);
        _attempts = _misses = 0;
        BeginDrafts(turn);
        if (turn.Over) return;
        StartClock();
        Recover(first: true);
    }

    private void Finish(FinishReason reason, string? error = null)
    {
        if (_turn is not { Over: false } turn) return;
        turn.End(reason, error);
        Ended();
    }

    private void Bind(ModelInfo model)
    {
        if (_model?.Package == model.Package) return;
        _model = model;
        _timeline.Rotate(
            model.RopeLimit == 0 ? null : new RopeConfig { Scaling = model.RopePerLength ? RopeScaling.Dynamic : RopeScaling.LongRope, OriginalPositions = model.RopeLimit },
            State.Package == model.Package ? State.Lengths : []);
        _layers = [.. Enumerable.Range(0, model.Layers).Select(k => GrainFactory.GetGrain<ILayerGrain>(new LayerKey(model.Package, k).ToString()))];
    }

    private async Task BindStoredAsync()
    {
        try
        {
            ModelInfo model = await GrainFactory.GetGrain<IModelGrain>(State.Turn!.Request.Model).Info();
            if (model.Package == State.Package) Bind(model);
        }
        catch (ModelNotFoundException)
        {
            // The package is gone, and with it what its layers held.
        }
    }

    private void CloseInLayers()
    {
        KvChain? chain = _retires ? null : new KvChain(_timeline.Chain.ToArray());
        foreach (ILayerGrain layer in _layers) Ignore(chain is null ? layer.ReleaseSession(_id) : layer.CloseSession(_id, chain));
        CloseDrafts();
    }

    private async Task WriteAsync(string package, int[] tokens, int[] lengths, TurnRecord record)
    {
        await _writes;
        await StoreAsync(package, tokens, lengths, record);
    }

    /// <summary>Writes how the turn stands, after the writes before it; a turn never waits for that.</summary>
    private void Save()
    {
        _writes = SaveAfter(_writes, _turn!.Package, _timeline.Tokens.ToArray(), _timeline.Lengths.ToArray(), _turn.Record);

        async Task SaveAfter(Task before, string package, int[] tokens, int[] lengths, TurnRecord record)
        {
            await before;
            try
            {
                await StoreAsync(package, tokens, lengths, record);
            }
            catch (Exception e)
            {
                _logger.LogError(e, "session {Session}: the end of a turn could not be written", _id);
            }
        }
    }

    /// <summary>One write. Storage that changed behind our back is read again: where it lost the record (storage in memory leaves with its silo) or kept an older one,
    /// ours is the newest and is written; where another activation of this session wrote after us, this one has to go.</summary>
    private async Task StoreAsync(string package, int[] tokens, int[] lengths, TurnRecord record)
    {
        int epoch = _timeline.Epoch;
        Fill();
        try
        {
            await _state.WriteStateAsync();
            return;
        }
        catch (InconsistentStateException e)
        {
            _logger.LogWarning(e, "session {Session}: its record changed in storage and is read again", _id);
        }
        await _state.ReadStateAsync();
        if (_state.RecordExists && State.Epoch > epoch)
        {
            DeactivateOnIdle();
            throw new TurnRejectedException($"session {_id} was continued elsewhere meanwhile; send the turn again");
        }
        Fill();
        await _state.WriteStateAsync();

        void Fill()
        {
            State.Epoch = epoch;
            State.Start = _timeline.Chain[0];
            State.Package = package;
            State.Tokens = tokens;
            State.Lengths = lengths;
            State.Turn = record;
        }
    }

    /// <summary>Newer than the last one known, and than any that a lost record may have held: at least the seconds since 2025.</summary>
    private int NextEpoch(int last) => Math.Max(last + 1, (int)(_time.GetUtcNow() - new DateTimeOffset(2025, 1, 1, 0, 0, 0, TimeSpan.Zero)).TotalSeconds);
}
