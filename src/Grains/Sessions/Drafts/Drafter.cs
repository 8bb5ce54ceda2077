using FlashOrleans.Abstractions;

namespace FlashOrleans.Grains;

/// <summary>
/// What one session guesses, step by step: from its own tokens, from what its client expects, or from what a draft model said, and how much of it the policy has verified. A guess is followed through the tokens
/// that come even where it was not verified, which tells for nothing how often it would have been right. Pure; owned by the session grain.
/// </summary>
internal sealed class Drafter(StepTimes times)
{
    private readonly PromptLookup _lookup = new();
    private readonly int[] _guess = new int[DraftPolicy.MostDrafts], _next = new int[DraftPolicy.MostDrafts];
    private DraftSource _source;
    private int _count, _met;
    private Speculation _mode;
    private int[] _prediction = [];
    private ExpectedText? _expected;
    private int _fixed;

    public DraftPolicy Policy { get; } = new(times);
    public StepTimes Times => times;
    /// <summary>Guesses may be asked for.</summary>
    public bool On => _mode != Speculation.Off;
    /// <summary>A draft model may be asked, too.</summary>
    public bool AsksModel => _mode == Speculation.Auto && _prediction.Length == 0;
    /// <summary>As many as the request says, whatever pays; 0: the policy decides.</summary>
    public int Fixed => _fixed;

    /// <summary>A turn begins. <paramref name="kept"/> of the tokens known are still the same; <paramref name="expected"/>: what the answer will probably be, where the request says it in words.</summary>
    public void Begin(TurnRequest request, Speculation otherwise, int kept, ExpectedText? expected = null)
    {
        _expected = expected;
        _mode = request.Score ? Speculation.Off : request.Speculate == Speculation.Default ? otherwise : request.Speculate;
        _prediction = request.Prediction ?? [];
        _fixed = Math.Min(request.Drafts, DraftPolicy.MostDrafts);
        _count = _met = 0;
        _lookup.Truncate(kept);
    }

    /// <summary>Drafts that cost nothing, for the step that is about to be submitted: of the session's tokens or of what the client expects.</summary>
    /// <param name="tokens">All tokens.</param>
    /// <param name="generated">How many of them the turn has generated.</param>
    /// <param name="room">Drafts that can be of use.</param>
    public ReadOnlySpan<int> Next(ReadOnlySpan<int> tokens, int generated, int room)
    {
        if (!On || room <= 0) return default;
        int found = Guess(tokens, generated, out DraftSource source);
        int chosen = _fixed > 0 ? Math.Min(_fixed, Math.Min(found, room)) : Policy.Choose(source, Math.Min(found, room));
        // An older guess that nobody verified is followed on, while it lasts: it tells of its later places.
        if (chosen > 0 || _met >= _count) Follow(source, _next.AsSpan(0, found));
        return _guess.AsSpan(0, chosen);
    }

    /// <summary>What verifying the free guess would gain now (1: nothing), without choosing it.</summary>
    public double FreeGain(ReadOnlySpan<int> tokens, int generated, int room)
    {
        int found = Guess(tokens, generated, out DraftSource source);
        return Policy.Gain(source, Math.Min(found, room), 0, out _);
    }

    /// <summary>A guess that is being verified, of whatever source.</summary>
    public void Follow(DraftSource source, ReadOnlySpan<int> guess)
    {
        guess.CopyTo(_guess);
        (_source, _count, _met) = (source, guess.Length, 0);
    }

    /// <summary>A token came.</summary>
    public void Met(int token)
    {
        if (_met >= _count) return;
        bool right = _guess[_met] == token;
        Policy.Learn(_source, _met, right);
        _met = right ? _met + 1 : _count;
    }

    private int Guess(ReadOnlySpan<int> tokens, int generated, out DraftSource source)
    {
        if (_prediction.Length > 0)
        {
            source = DraftSource.Prediction;
            var rest = _prediction.AsSpan(Math.Min(generated, _prediction.Length));
            rest = rest[..Math.Min(rest.Length, _next.Length)];
            rest.CopyTo(_next);
            return rest.Length;
        }
        source = DraftSource.Prediction;
        if (_expected?.Next(tokens, generated, _next) is > 0 and var expected) return expected;
        int found = _lookup.Guess(tokens, _next, out int match);
        source = match switch { >= 8 => DraftSource.Lookup8, >= 4 => DraftSource.Lookup4, 3 => DraftSource.Lookup3, _ => DraftSource.Lookup2 };
        return found;
    }
}
