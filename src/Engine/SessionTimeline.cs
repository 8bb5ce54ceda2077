using System.Runtime.InteropServices;

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
    private readonly List<ulong> _chain = [TokenChain.Start];
    private int _submittedEnd;

    public SessionTimeline(Guid session, int epoch, ReadOnlySpan<int> tokens = default)
    {
        Session = session;
        Epoch = epoch;
        Append(tokens);
    }

    public Guid Session { get; }
    public int Epoch { get; private set; }
    /// <summary>Number of the step in flight, or of the last one.</summary>
    public long Step { get; private set; }
    public bool InFlight { get; private set; }
    public int Length => _tokens.Count;
    /// <summary>Tokens that went through all layers.</summary>
    public int Computed { get; private set; }
    public ReadOnlySpan<int> Tokens => CollectionsMarshal.AsSpan(_tokens);

    public void Append(ReadOnlySpan<int> tokens)
    {
        foreach (int token in tokens)
        {
            _tokens.Add(token);
            _chain.Add(TokenChain.Next(_chain[^1], token));
        }
    }

    /// <summary>Forgets tokens from a position on (edits, clear). Nothing may be in flight.</summary>
    public void Truncate(int length)
    {
        if (InFlight) throw new InvalidOperationException("a step is in flight");
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length);
        _tokens.RemoveRange(length, _tokens.Count - length);
        _chain.RemoveRange(length + 1, _chain.Count - length - 1);
        Computed = Math.Min(Computed, length);
    }

    /// <summary>
    /// The next step as a one-slot wave for layer 0, at most <paramref name="chunk"/> tokens. The one that reaches the end carries
    /// <paramref name="atEnd"/> flags and <paramref name="topLogits"/>; Score applies to every chunk. Where everything is computed already the last token
    /// runs again: the layers truncate and append it. Marks the step in flight; the caller owns the wave.
    /// </summary>
    public Wave Submit(int chunk, in Sampling sampling, SlotFlags atEnd = SlotFlags.Sample, int topLogits = 0)
    {
        if (InFlight) throw new InvalidOperationException("a step is in flight");
        if (Length == 0) throw new InvalidOperationException("a session without tokens has nothing to compute");
        ArgumentOutOfRangeException.ThrowIfLessThan(chunk, 1);
        int position = Math.Min(Computed, Length - 1);
        int count = Math.Min(chunk, Length - position);
        bool end = position + count == Length;
        var wave = Wave.Rent(1, count, 0);
        wave.Slots[0] = new Slot
        {
            Session = Session,
            Epoch = Epoch,
            Step = ++Step,
            Position = position,
            Count = count,
            PrefixHash = _chain[position],
            Sampling = sampling,
            Flags = end ? atEnd : atEnd & SlotFlags.Score,
            TopLogits = end ? topLogits : 0,
            Target = end ? -1 : _tokens[position + count],
        };
        CollectionsMarshal.AsSpan(_tokens).Slice(position, count).CopyTo(wave.Tokens);
        InFlight = true;
        _submittedEnd = position + count;
        return wave;
    }

    /// <summary>True when the result belongs to the step in flight: <see cref="Computed"/> advances. False: stale or duplicate, drop it.</summary>
    public bool Accept(in StepResult result)
    {
        if (!IsCurrent(result.Session, result.Epoch, result.Step)) return false;
        InFlight = false;
        Computed = _submittedEnd;
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

    /// <summary>Hash of a prefix extended by one token: a multiply-xorshift mix (the finaliser of SplitMix64).</summary>
    public static ulong Next(ulong hash, int token)
    {
        ulong z = (hash ^ (uint)token) + 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
}
