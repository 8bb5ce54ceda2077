using System.Runtime.InteropServices;
using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

// What is guessed beside the tokens of an answer: drafts for the next step, what became of them, and what steps cost.
internal sealed partial class SessionGrain
{
    private Drafter? _drafter;
    /// <summary>Tokens that are still what the drafter knew.</summary>
    private int _kept;
    /// <summary>The step in flight is one of decoding: its time says what such steps cost.</summary>
    private bool _decodes;
    /// <summary>The step before failed with drafts: the next one goes alone.</summary>
    private bool _undrafted;
    private long _drafted, _accepted;

    private void BeginDrafts(Turn turn)
    {
        StepTimes times = _host.StepTimes.GetOrAdd(turn.Package, static _ => new StepTimes());
        if (_drafter?.Times != times) _drafter = new Drafter(times);
        _drafter.Begin(turn.Request, _options.Speculate, _kept, turn.Expected);
        _kept = int.MaxValue;
        _undrafted = _modelOff = false;
    }

    /// <summary>Drafts for a step of decoding; none in prompts, replays, and where the answer or the context ends.</summary>
    private ReadOnlySpan<int> NextDrafts(Turn turn)
    {
        bool alone = _undrafted;
        _undrafted = false;
        _decodes = _timeline.Length - _timeline.Computed <= 1 && turn.Request.MaxTokens > 0;
        if (alone || !_decodes) return default;
        if (_guess.Count > 0) return CollectionsMarshal.AsSpan(_guess);
        return _drafter!.Next(_timeline.Tokens, turn.Generated, Room(turn));
    }

    /// <summary>Drafts that can become part of the answer.</summary>
    private int Room(Turn turn) => Math.Min(turn.Request.MaxTokens - turn.Generated - 1, _model!.MaxPositions - _timeline.Length);

    /// <summary>A step came to its end.</summary>
    private void Verified(in StepResult result, double seconds)
    {
        _guess.Clear();
        if (_drafter is not { } drafter || result.Token < 0) return;
        if (_decodes) drafter.Times.Add(1 + _timeline.Drafted, seconds);
        if (_timeline.Drafted == 0) return;
        drafter.Times.Count(_timeline.Drafted, result.Sampled - 1);
        _drafted += _timeline.Drafted;
        if (_turn is { Over: false } turn) turn.Drafted += _timeline.Drafted;
    }

    /// <summary>A token of the answer, which a draft had guessed or not.</summary>
    private void Met(Turn turn, int token, bool drafted)
    {
        _drafter!.Met(token);
        if (!drafted) return;
        _accepted++;
        turn.Accepted++;
    }
}
