using System.Runtime.InteropServices;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Grains;

// A small resident model that guesses: the session drives a second timeline through its layers, token by token, before it submits what came out to be verified. The same sampling, the same seed, the same
// positions, so that what two models agree on they also draw alike. Nothing here can fail a turn: whatever goes wrong, the step goes without drafts.
internal sealed partial class SessionGrain
{
    /// <summary>Steps of the draft model are numbered from here, and so told from the model's own.</summary>
    private const long FirstDraftStep = 1L << 62;
    private const int MostFailures = 3;
    private readonly List<int> _guess = [];
    private SessionTimeline? _draftTimeline;
    private ModelInfo? _draftModel;
    private ILayerGrain[] _draftLayers = [];
    private int _wanted, _draftMisses, _draftFailures;
    private long _draftSubmitted;
    private bool _modelAsked, _modelOff;

    private static bool IsDraft(long step) => step > FirstDraftStep;

    /// <summary>Learns which model drafts for this one, if any does.</summary>
    private async Task FindDraftModelAsync(ModelInfo model)
    {
        if (_host.Options.Engine.Draft is not { } draft || draft.Is(model.Package))
        {
            _draftModel = null;
            return;
        }
        if (_draftModel?.Package == draft.Manifest.Hash) return;
        try
        {
            ModelInfo found = await GrainFactory.GetGrain<IModelGrain>(draft.Path).Info();
            if (found.Package != draft.Manifest.Hash || found.HasTokenizer != model.HasTokenizer) return;
            _draftModel = found;
            _draftLayers = [.. Enumerable.Range(0, found.Layers).Select(k => GrainFactory.GetGrain<ILayerGrain>(new LayerKey(found.Package, k).ToString()))];
            _draftTimeline = null;
        }
        catch (ModelNotFoundException)
        {
            // Its package is gone; the answer needs none.
        }
    }

    /// <summary>True: the next step waits for what the draft model says. Called before every step, and again when it has said it.</summary>
    private bool AsksModel(Turn turn)
    {
        if (_modelAsked) return true;
        if (_guess.Count > 0 || _draftModel is not { } model || _modelOff || _undrafted || !_drafter!.AsksModel || turn.Request.MaxTokens == 0 || _timeline.Length - _timeline.Computed > 1) return false;
        int room = Math.Min(Room(turn), model.MaxPositions - _timeline.Length);
        Span<double> seconds = stackalloc double[StepTimes.MostRows + 1];
        double each = Times(model).TryGet(seconds) ? seconds[1] : 0;
        DraftPolicy policy = _drafter.Policy;
        // Its own tokens cost nothing to look up, where they are as good.
        if (_drafter.Fixed == 0 && _drafter.FreeGain(_timeline.Tokens, turn.Generated, room) is > 1 and var free && free >= policy.Gain(DraftSource.Model, room, each, out _)) return false;
        _wanted = _drafter.Fixed > 0 ? Math.Min(_drafter.Fixed, room) : policy.Choose(DraftSource.Model, room, each);
        if (_wanted <= 0) return false;
        _draftTimeline ??= new SessionTimeline(_id, _timeline.Epoch, model.RopeLimit == 0 ? null
            : new RopeConfig { Scaling = model.RopePerLength ? RopeScaling.Dynamic : RopeScaling.LongRope, OriginalPositions = model.RopeLimit }, FirstDraftStep);
        // What is cancelled is so up to an epoch, whichever model it was for.
        if (_draftTimeline.Epoch < _timeline.Epoch) _draftTimeline.Abandon(_timeline.Epoch);
        int common = _draftTimeline.Tokens.CommonPrefixLength(_timeline.Tokens);
        _draftTimeline.Truncate(common);
        _draftTimeline.Append(_timeline.Tokens[common..]);
        _modelAsked = true;
        _draftMisses = 0;
        AskModel(turn);
        return true;
    }

    private StepTimes Times(ModelInfo draft) => _host.StepTimes.GetOrAdd(draft.Package, static _ => new StepTimes());

    private void AskModel(Turn turn)
    {
        int chunk = Chunk(_options.PrefillChunk, _host.Options.Engine.MaxWaveRows, _draftModel!.HiddenSize, _host.ManySilos);
        Wave wave = _draftTimeline!.Submit(chunk, TurnInput.Sampling(turn.Request.Sampling, turn.Record.Seed));
        _draftSubmitted = _time.GetTimestamp();
        _outgoing.Add(wave).Send(_draftLayers[0], _sendFailed);
    }

    /// <summary>The draft model came a step further.</summary>
    private void Guessed(in StepResult result)
    {
        if (!_modelAsked || _turn is not { Over: false } turn || _draftTimeline is not { } timeline) return;
        bool decodes = timeline.Length - timeline.Computed <= 2;
        if (!timeline.Accept(result)) return;
        _draftFailures = 0;
        if (result.Token >= 0)
        {
            if (decodes) Times(_draftModel!).Add(1, _time.GetElapsedTime(_draftSubmitted).TotalSeconds);
            // A vocabulary may be padded differently.
            bool known = result.Token < _model!.VocabSize;
            if (known) _guess.Add(result.Token);
            if (!known || _guess.Count >= _wanted || Stops(turn.Record).Contains(result.Token))
            {
                HasGuessed(turn);
                return;
            }
            timeline.Append([result.Token]);
        }
        AskModel(turn);
    }

    private void HasGuessed(Turn turn)
    {
        _modelAsked = false;
        if (_guess.Count > 0) _drafter!.Follow(DraftSource.Model, CollectionsMarshal.AsSpan(_guess));
        else _undrafted = true;
        Advance();
    }

    /// <summary>A step of the draft model came to nothing: it is replayed where a layer had forgotten, else the step goes without.</summary>
    private void NotGuessed(in SlotFault fault)
    {
        if (!_modelAsked || _turn is not { Over: false } turn || !_draftTimeline!.Accept(fault)) return;
        if (fault.Kind == FaultKind.KvMiss && ++_draftMisses <= 2 * _draftLayers.Length) AskModel(turn);
        else NotGuessed();
    }

    private void NotGuessed()
    {
        StopAsking();
        // Once may be a layer on its way; a model that is always late or broken is left alone for this turn.
        if (++_draftFailures >= MostFailures) _modelOff = true;
        _undrafted = true;
        Advance();
    }

    private bool AskedTooLong() => _modelAsked && _time.GetElapsedTime(_draftSubmitted) >= Patience();

    /// <summary>What the draft model still says is old; both timelines go on in one newer epoch.</summary>
    private void StopAsking()
    {
        _guess.Clear();
        if (!_modelAsked) return;
        _modelAsked = false;
        if (!_draftTimeline!.InFlight) return;
        int epoch = Math.Max(_timeline.Epoch, _draftTimeline.Epoch) + 1;
        _draftTimeline.Abandon(epoch);
        // Nothing of the model itself is in flight while it waits for drafts.
        _timeline.Abandon(epoch);
    }

    private void CloseDrafts()
    {
        if (_draftTimeline is { } drafts)
        {
            KvChain? chain = _retires ? null : new KvChain(drafts.Chain.ToArray());
            foreach (ILayerGrain layer in _draftLayers) Ignore(chain is null ? layer.ReleaseSession(_id) : layer.CloseSession(_id, chain));
        }
        _draftTimeline = null;
        _guess.Clear();
    }
}
