using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// One session's tokens and how far the layers have computed them: what the session grain and the engine alone both drive. Pure state, one
/// owner at a time, no clock, no I/O. Keeps the chained token hash, numbers steps, and applies the one recovery rule: after a KV miss it goes
/// back to the length the layer holds if its own hash there agrees, else to 0. At most one step is in flight.
/// </summary>
public sealed class SessionTimeline
{
    private readonly List<int> _tokens = [];
    /// <summary>_chain[i] = hash of tokens 0..i-1; one longer than _tokens.</summary>
    private readonly List<ulong> _chain;
    /// <summary>Where rotation depends on the sequence's length: the length each token was computed for.</summary>
    private readonly List<int> _lengths = [];
    private RopeConfig? _rope;
    private int _submittedEnd;
    /// <summary>Guesses of the last step, no part of the history: how many were right, and how many of those the history has reached.</summary>
    private readonly List<int> _drafts = [];
    private int _right, _reached;

    /// <param name="session">Its id.</param>
    /// <param name="epoch">Higher than any that was used for it before.</param>
    /// <param name="rope">The model's rotation where it depends on how long a sequence is (<see cref="ModelConfig.RopeByLength"/>), else null.</param>
    /// <param name="firstStep">Steps are numbered from here: two timelines of one session keep apart.</param>
    /// <param name="start">Hash of no token: sessions of different starts have nothing in common.</param>
    public SessionTimeline(Guid session, int epoch, RopeConfig? rope = null, long firstStep = 0, ulong start = TokenChain.Start)
    {
        _chain = [start];
        Step = firstStep;
        Session = session;
        Epoch = epoch;
        _rope = rope;
    }

    public Guid Session { get; }
    public int Epoch { get; private set; }
    /// <summary>Number of the step in flight, or of the last one.</summary>
    public long Step { get; private set; }
    public bool InFlight { get; private set; }
    /// <summary>Whose it is (<see cref="Slot.User"/>).</summary>
    public uint User { get; set; }
    public int Length => _tokens.Count;
    /// <summary>Tokens that went through all layers.</summary>
    public int Computed { get; private set; }
    public ReadOnlySpan<int> Tokens => CollectionsMarshal.AsSpan(_tokens);

    /// <summary>Entry i is the hash of the first i tokens.</summary>
    public ReadOnlySpan<ulong> Chain => CollectionsMarshal.AsSpan(_chain);

    /// <summary>Layers were found to hold that many positions (<see cref="Conductor.RestoreAsync"/>): the next step begins there. Nothing may be in flight.</summary>
    public void Resume(int computed)
    {
        if (InFlight) throw new InvalidOperationException("a step is in flight");
        Computed = Math.Clamp(computed, 0, Length);
    }

    /// <summary>The session goes on among others than before: what it computed there is nothing here. Nothing may be in flight.</summary>
    public void Move(ulong start)
    {
        if (InFlight) throw new InvalidOperationException("a step is in flight");
        if (_chain[0] == start) return;
        _chain[0] = start;
        for (int i = 0; i < _tokens.Count; i++) _chain[i + 1] = TokenChain.Next(_chain[i], _tokens[i], LengthAt(i));
        Computed = 0;
    }

    /// <summary>Tokens that belong together, a prompt or one that was sampled: they are computed for the length they reach.</summary>
    public void Append(ReadOnlySpan<int> tokens)
    {
        if (_rope != null) Lengthen(tokens.Length);
        foreach (int token in tokens)
        {
            _chain.Add(TokenChain.Next(_chain[^1], token, LengthAt(_tokens.Count)));
            _tokens.Add(token);
            Reach(token);
        }
    }

    /// <summary>A right draft is computed as soon as it is part of the history: the layers have it where it stands now.</summary>
    private void Reach(int token)
    {
        int position = _tokens.Count - 1;
        if (_reached < _right && Computed == position && token == _drafts[_reached] && LengthAt(position) == LengthAt(_submittedEnd - 1))
        {
            _reached++;
            Computed++;
        }
        else
        {
            _right = 0;
        }
    }

    /// <summary>Guesses in the step in flight, or in the last one.</summary>
    public int Drafted => _drafts.Count;

    /// <summary>The length each token was computed for; empty where rotation does not depend on it. What a session must keep to compute the same again.</summary>
    public ReadOnlySpan<int> Lengths => CollectionsMarshal.AsSpan(_lengths);

    /// <summary>
    /// The session's model became known: its rotation (<see cref="ModelConfig.RopeByLength"/>), and the lengths that were kept of the first tokens; those behind them came together.
    /// Nothing may be in flight.
    /// </summary>
    public void Rotate(RopeConfig? rope, ReadOnlySpan<int> lengths = default)
    {
        if (InFlight) throw new InvalidOperationException("a step is in flight");
        if (rope?.Scaling == _rope?.Scaling && rope?.OriginalPositions == _rope?.OriginalPositions) return;
        _rope = rope;
        int[] tokens = [.. _tokens];
        Truncate(0);
        _lengths.Clear();
        int kept = rope == null ? 0 : Math.Min(lengths.Length, tokens.Length);
        for (int i = 0; i < kept; i++)
        {
            _lengths.Add(lengths[i]);
            _chain.Add(TokenChain.Next(_chain[^1], tokens[i], lengths[i]));
            _tokens.Add(tokens[i]);
        }
        Append(tokens.AsSpan(kept));
    }

    /// <summary>Forgets tokens from a position on (edits, clear). Nothing may be in flight.</summary>
    public void Truncate(int length)
    {
        if (InFlight) throw new InvalidOperationException("a step is in flight");
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length);
        _tokens.RemoveRange(length, _tokens.Count - length);
        _chain.RemoveRange(length + 1, _chain.Count - length - 1);
        Computed = Math.Min(Computed, length);
        _right = 0;
        if (_rope == null) return;
        _lengths.RemoveRange(length, _lengths.Count - length);
        Lengthen(0);
    }

    private int LengthAt(int position) => _rope == null ? 0 : _lengths[position];

    /// <summary>More tokens come: they are for the new length; where that is another regime, so are all before them, and the chain says so to the layers.</summary>
    private void Lengthen(int count)
    {
        int total = RopeFrequencies.Canonical(_rope, _tokens.Count + count);
        for (int i = 0; i < count; i++) _lengths.Add(total);
        if (_lengths.Count == 0 || RopeFrequencies.SameRegime(_rope, _lengths[0], total)) return;
        for (int i = 0; i < _tokens.Count; i++)
        {
            _lengths[i] = total;
            _chain[i + 1] = TokenChain.Next(_chain[i], _tokens[i], total);
        }
        Computed = 0;
    }

    /// <summary>
    /// The next step as a one-slot wave for layer 0, at most <paramref name="chunk"/> tokens. The one that reaches the end carries
    /// <paramref name="atEnd"/> flags and <paramref name="topLogits"/>; Score applies to every chunk. Where everything is computed already the last token
    /// runs again: the layers truncate and append it. Marks the step in flight; the caller owns the wave.
    /// </summary>
    /// <param name="chunk">Tokens of the step at most.</param>
    /// <param name="sampling">How the tail chooses.</param>
    /// <param name="atEnd">Flags of the step that reaches the end.</param>
    /// <param name="topLogits">Best logits beside each sampled token.</param>
    /// <param name="drafts">What may follow: verified in the step that reaches the end, as many as it has room for. None while it scores, and none that would be rotated for another length
    /// when they come on their own.</param>
    public Wave Submit(int chunk, in Sampling sampling, SlotFlags atEnd = SlotFlags.Sample, int topLogits = 0, ReadOnlySpan<int> drafts = default)
    {
        if (InFlight) throw new InvalidOperationException("a step is in flight");
        if (Length == 0) throw new InvalidOperationException("a session without tokens has nothing to compute");
        ArgumentOutOfRangeException.ThrowIfLessThan(chunk, 1);
        int position = Math.Min(Computed, Length - 1);
        int count = Math.Min(chunk, Length - position);
        // A step has one length.
        for (int i = 1; i < count; i++)
            if (LengthAt(position + i) != LengthAt(position)) count = i;
        bool end = position + count == Length;
        bool verifies = end && (atEnd & (SlotFlags.Sample | SlotFlags.Score)) == SlotFlags.Sample
            && (_rope == null || RopeFrequencies.Canonical(_rope, Length + drafts.Length) == LengthAt(position));
        drafts = verifies ? drafts[..Math.Min(drafts.Length, chunk - count)] : default;
        _drafts.Clear();
        _drafts.AddRange(drafts);
        _right = _reached = 0;
        var wave = Wave.Rent(1, count + drafts.Length, 0);
        wave.Slots[0] = new Slot
        {
            Session = Session,
            Epoch = Epoch,
            Step = ++Step,
            Position = position,
            Count = count + drafts.Length,
            Drafts = drafts.Length,
            User = User,
            PrefixHash = _chain[position],
            Sampling = sampling,
            Flags = end ? atEnd : atEnd & SlotFlags.Score,
            TopLogits = end ? topLogits : 0,
            Target = end ? -1 : _tokens[position + count],
            Length = LengthAt(position),
        };
        CollectionsMarshal.AsSpan(_tokens).Slice(position, count).CopyTo(wave.Tokens);
        drafts.CopyTo(wave.Tokens[count..]);
        InFlight = true;
        _submittedEnd = position + count;
        return wave;
    }

    /// <summary>True when the result belongs to the step in flight: <see cref="Computed"/> advances, over right drafts as soon as their tokens are appended. False: stale or duplicate, drop it.</summary>
    public bool Accept(in StepResult result)
    {
        if (!IsCurrent(result.Session, result.Epoch, result.Step)) return false;
        InFlight = false;
        Computed = _submittedEnd;
        _right = Math.Min(result.Sampled - 1, _drafts.Count);
        return true;
    }

    /// <summary>True when the fault belongs to the step in flight: it is over; for a KV miss <see cref="Computed"/> goes back.</summary>
    public bool Accept(in SlotFault fault)
    {
        if (!IsCurrent(fault.Session, fault.Epoch, fault.Step)) return false;
        InFlight = false;
        if (fault.Kind == FaultKind.KvMiss)
        {
            bool agrees = fault.Length < _submittedEnd && fault.Length <= Length && _chain[fault.Length] == fault.Hash;
            Computed = Math.Min(Computed, agrees ? fault.Length : 0);
        }
        return true;
    }

    /// <summary>Gives up the step in flight and raises the epoch: what is still under way anywhere is now old.</summary>
    public void Abandon(int epoch)
    {
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(epoch, Epoch);
        Epoch = epoch;
        InFlight = false;
    }

    private bool IsCurrent(Guid session, int epoch, long step) => InFlight && session == Session && epoch == Epoch && step == Step;
}

/// <summary>The chained 64-bit hash of a token prefix, by which a layer knows that its KV belongs to the tokens a slot continues.</summary>
public static class TokenChain
{
    public const ulong Start = 0x9E3779B97F4A7C15;

    /// <summary>Start of the chains of one scope, a user or a session: they have no block in common with those of another, whatever the tokens.</summary>
    public static ulong StartOf(string scope)
    {
        Span<byte> hash = stackalloc byte[SHA256.HashSizeInBytes];
        SHA256.HashData(Encoding.UTF8.GetBytes(scope), hash);
        return BinaryPrimitives.ReadUInt64LittleEndian(hash);
    }

    /// <summary>Hash of a prefix extended by one token, and by the length it was rotated for: a multiply-xorshift mix (the finaliser of SplitMix64).</summary>
    public static ulong Next(ulong hash, int token, int length = 0)
    {
        ulong z = (hash ^ (uint)token ^ (ulong)length << 32) + 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
}
