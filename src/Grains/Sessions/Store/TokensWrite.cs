using System.Runtime.InteropServices;
using FlashOrleans.Abstractions;

namespace FlashOrleans.Grains;

/// <summary>
/// The tokens of one session that are not stored yet, on their way to the store: made once by an activation and used again and again, one at a time, so that a token costs little garbage.
/// Filled on the grain's scheduler, carried out on the writer's thread, and reported back on the grain's scheduler.
/// </summary>
internal sealed class TokensWrite(SessionKey key, TaskScheduler scheduler, Action written) : StoreWrite
{
    private TokenRun _tokens;
    private bool _whole;
    private Task<bool>? _owned;

    /// <summary>Behind the last token.</summary>
    public int End => _tokens.Start + _tokens.Ids.Length / sizeof(int);
    /// <summary>Length that the history's first token was computed for.</summary>
    public int FirstLength { get; private set; }
    /// <summary>False: the session is somebody else's.</summary>
    public bool Owned { get; private set; }
    public SessionStoreException? Error { get; private set; }

    /// <summary>What a history has from a position on.</summary>
    public static TokenRun Run(int start, ReadOnlySpan<int> tokens, ReadOnlySpan<int> lengths) =>
        new(start, MemoryMarshal.AsBytes(tokens[start..]).ToArray(), lengths.Length == 0 ? [] : MemoryMarshal.AsBytes(lengths[start..]).ToArray());

    /// <param name="start">Position of the first token that is not stored; 0 where what is stored has to be written anew.</param>
    /// <param name="tokens">The whole history.</param>
    /// <param name="lengths">Of the whole history, or empty.</param>
    public TokensWrite Fill(int start, ReadOnlySpan<int> tokens, ReadOnlySpan<int> lengths)
    {
        _tokens = Run(start, tokens, lengths);
        _whole = start == 0;
        FirstLength = lengths.Length == 0 ? 0 : lengths[0];
        return this;
    }

    public override void Apply(SessionTables tables) => _owned = _whole ? tables.Rewrite(key, _tokens) : tables.Append(key, _tokens);

    public override void Done(SessionStoreException? error)
    {
        Error = error;
        Owned = error is null && _owned!.Result;
        _ = Task.Factory.StartNew(written, CancellationToken.None, TaskCreationOptions.None, scheduler);
    }
}
