using System.Runtime.CompilerServices;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Text;
using Microsoft.Extensions.Logging;
using Orleans.Placement;
using Orleans.Runtime;
using Orleans.Serialization;

namespace FlashOrleans.Grains;

/// <summary>
/// A conversation as a grain. This file: identity, turns and their readers; <c>SessionGrain.Steps.cs</c>: the step loop, recovery and the watchdog; <c>SessionGrain.Store.cs</c>: what is kept.
/// Everything runs in turns of this grain, which compute nothing: tokenizing and opening packages happen on the host's loader thread, steps
/// in the layers, writing on the store's. An activation takes the session over from an earlier one (its epoch and owner, so that what that left under way is
/// old). No method waits for a step: <see cref="Deliver"/> drives the loop.
/// </summary>
[GrainType("session"), PreferLocalPlacement]
internal sealed partial class SessionGrain : Grain, ISessionGrain
{
    private static readonly TimeSpan s_readPatience = TimeSpan.FromSeconds(2);
    private readonly LayerHost _host;
    private readonly SessionStore _store;
    private readonly Serializer<TurnRecord> _records;
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
    private Guid _starting, _cancelledStart;
    private bool _entered;

    public SessionGrain(LayerHost host, SessionStore store, Serializer<TurnRecord> records, ILogger<SessionGrain> logger)
    {
        _host = host;
        _store = store;
        _records = records;
        _logger = logger;
        _options = host.Grains;
        _time = host.Time;
        _sendFailed = SendFailed;
    }

    public override async Task OnActivateAsync(CancellationToken cancellationToken)
    {
        _id = this.GetPrimaryKey();
        _scheduler = TaskScheduler.Current;
        (int epoch, int[] tokens) = await TakeAsync();
        _timeline = new SessionTimeline(_id, epoch, start: _state.Start);
        _timeline.Append(tokens);
        _host.Entered(sessions: 1);
        _entered = true;
    }

    public override async Task OnDeactivateAsync(DeactivationReason reason, CancellationToken cancellationToken)
    {
        if (_entered) _host.Entered(sessions: -1);
        StopClock();
        await StoreRestAsync();
    }

    public async Task<TurnAccepted> StartTurn(TurnRequest request)
    {
        long started = _time.GetTimestamp();
        CheckOwner();
        TurnInput.Check(request);
        if (await FindAsync(request.TurnId) is { } known) return Accepted(known, attached: true);
        if (_turn is { Over: false }) throw new SessionBusyException(_id, _turn.Id);
        _starting = request.TurnId;
        try
        {
            await _saving;
            ModelInfo model = await GrainFactory.GetGrain<IModelGrain>(request.Model).Info();
            bool switched = _state.Package.Length > 0 && _state.Package != model.Package;
            if (switched && _timeline.Length > 0 && request.Input == InputMode.Append)
                throw new TurnRejectedException($"session {_id} holds tokens of another package than {model.Name}; open a new session or replace the history");
            (TextCodec? text, int[] history, ExpectedText? expected) = await ReadAsync(request, model, _timeline.Tokens.ToArray());
            ulong seed = request.Sampling.Seed ?? TurnInput.DrawSeed();

            await FindDraftModelAsync(model);
            if (!switched) Bind(model);
            Enter(request);
            int common = switched ? 0 : _timeline.Tokens.CommonPrefixLength(history);
            int cached = Math.Min(Math.Min(_timeline.Computed, common), history.Length - 1);
            var record = new TurnRecord { Request = request with { Text = null, Messages = null, Tokens = null, PredictionText = null }, Seed = seed, PromptTokens = history.Length, CachedTokens = cached, Start = _timeline.Chain[0] };
            bool kept = request.Keep || _state.Stored;

            if (switched) CloseInLayers();
            (_state.Package, _state.Turn) = (model.Package, null);
            if (switched) _state.Lengths = [];
            Bind(model);
            _timeline.Truncate(common);
            _timeline.Append(history.AsSpan(common));
            _kept = Math.Min(_kept, common);
            if (kept) await StoreBeginAsync(model.Package, record, common);
            Begin(new Turn(record, kept, Stops(record), text, _time, started) { Expected = expected });
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
        try
        {
            int next = fromIndex;
            while (true)
            {
                while (next < turn.Shown)
                {
                    TokenChunk chunk = turn.Chunks[next++];
                    turn.Taken(next);
                    Advance();
                    yield return chunk;
                }
                if (turn.Ended) yield break;
                // A grain with a waiting reader cannot leave memory, so a silent stream ends now and then and the client asks again.
                if (!await turn.ChangedAsync(s_readPatience, cancellationToken)) yield break;
            }
        }
        finally
        {
            // Why, a stream that ends does not say: Orleans ends those that nobody asks for, too, and after a standstill of the process that is all of them. Who leaves says so (Leave), who is gone is noticed.
            turn.Leave(_options.ReaderLease / 2);
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
        CheckOwner();
        await CloseAsync(inLayers: true);
    }

    private async Task CloseAsync(bool inLayers)
    {
        if (_turn is { Over: false }) Finish(FinishReason.Cancelled);
        if (inLayers && _model is null && _state.Package.Length > 0) await BindStoredAsync();
        if (inLayers) CloseInLayers();
        await StoreCloseAsync();
        _timeline = new SessionTimeline(_id, NextEpoch(_timeline.Epoch));
        _turn = null;
        _model = null;
        _drafter = null;
        _layers = [];
    }

    public async Task<bool> Expire(long unusedSince)
    {
        CheckOwner();
        if (_turn is { Over: false } || _state.Used >= unusedSince) return false;
        // Layers that are not there hold nothing, and are not brought back for this.
        bool there = _host.ManySilos || _host.LayerKeys.Any(key => key.StartsWith(_state.Package, StringComparison.Ordinal));
        await CloseAsync(there);
        DeactivateOnIdle();
        return true;
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
        CheckOwner();
        if (_turn is null && _state.Turn is { } record && record.Request.TurnId == turnId)
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
        if (model.Package != _state.Package)
            throw new TurnRejectedException($"turn {record.Request.TurnId} was made with another package than model {model.Name} is now; send a new turn");
        TextCodec? text = model.HasTokenizer ? await _host.Catalog.TextAsync(model.Package) : null;
        await FindDraftModelAsync(model);
        Bind(model);
        var turn = new Turn(record with { Finish = FinishReason.None, Error = null }, kept: true, Stops(record), text, _time, started);
        for (int i = record.PromptTokens; i < _timeline.Length; i++)
            turn.Add(_timeline.Tokens[i], outcome: null, contextFull: i + 1 > model.MaxPositions);
        if (record.Finish != FinishReason.None && !turn.Over) turn.End(record.Finish, record.Error);
        if (record.Finish != FinishReason.None) turn.ShowAll();
        else turn.Show(turn.Over ? turn.Chunks.Count - 1 : turn.Chunks.Count);
        Begin(turn);
        // Its last token was written, and that it was the last was not.
        if (turn.Over && record.Finish == FinishReason.None) StoreEnd();
    }

    /// <summary>Text to tokens on the loader thread.</summary>
    private async Task<(TextCodec?, int[], ExpectedText?)> ReadAsync(TurnRequest request, ModelInfo model, int[] held)
    {
        try
        {
            TextCodec? text = model.HasTokenizer ? await _host.Catalog.TextAsync(model.Package) : null;
            (int[] history, int[]? expected) = await _host.RunAsync(() => (TurnInput.History(request, held, model, text), TurnInput.Expected(request, model, text)));
            return (text, history, expected is null ? null : new ExpectedText(expected));
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
            _state.Package == model.Package ? _state.Lengths : []);
        _layers = [.. Enumerable.Range(0, model.Layers).Select(k => GrainFactory.GetGrain<ILayerGrain>(new LayerKey(model.Package, k).ToString()))];
    }

    private async Task BindStoredAsync()
    {
        try
        {
            ModelInfo model = await GrainFactory.GetGrain<IModelGrain>(_state.Turn!.Request.Model).Info();
            if (model.Package == _state.Package) Bind(model);
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
}
