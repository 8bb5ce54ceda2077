using FlashOrleans.Abstractions;

namespace FlashOrleans.Grains;

/// <summary>A stored session as a list shows it.</summary>
/// <param name="Id">Key of its grain.</param>
/// <param name="Model">Of its last turn.</param>
/// <param name="Package">Hash of the package that its tokens belong to.</param>
/// <param name="Tokens">Prompts and answers.</param>
/// <param name="Created">When its first turn began.</param>
/// <param name="Used">When its last turn began or ended.</param>
/// <param name="Turn">The last turn.</param>
/// <param name="Over">That turn came to its end; else it runs, or goes on when somebody asks for it.</param>
public sealed record SessionInfo(Guid Id, string Model, string Package, int Tokens, DateTimeOffset Created, DateTimeOffset Used, Guid Turn, bool Over);

/// <summary>A session as it was when an activation took it over, without its tokens.</summary>
/// <param name="Epoch">Raised already.</param>
/// <param name="Package">Hash of the package that its tokens belong to.</param>
/// <param name="Used">Unix milliseconds.</param>
/// <param name="Turn">A <see cref="TurnRecord"/>, in the wire's own format.</param>
internal sealed record StoredSession(int Epoch, string Package, long Used, byte[] Turn);

/// <summary>Whose row it is: a write by another owner than the one that took the session over last changes nothing.</summary>
internal readonly record struct SessionKey(byte[] Id, long Owner);

/// <summary>What a session's row says at the start and at the end of a turn.</summary>
internal sealed record TurnRow
{
    public required int Epoch { get; init; }
    public required string Package { get; init; }
    public required string Model { get; init; }
    /// <summary>Unix milliseconds.</summary>
    public required long Now { get; init; }
    public required Guid Turn { get; init; }
    public required bool Over { get; init; }
    /// <summary>A <see cref="TurnRecord"/>, in the wire's own format.</summary>
    public required byte[] Record { get; init; }
    /// <summary>The session is not stored yet.</summary>
    public bool New { get; init; }
}

/// <summary>Tokens from a position of the history on, as the store keeps them: little-endian 32-bit numbers.</summary>
/// <param name="Start">Position of the first.</param>
/// <param name="Ids">The tokens.</param>
/// <param name="Lengths">The sequence length each was computed for, where the model rotates positions by it; else empty.</param>
internal readonly record struct TokenRun(int Start, byte[] Ids, byte[] Lengths);
