namespace FlashOrleans.Abstractions;

/// <summary>What keys and values are found by: entry i of a chain is the hash of a session's first i tokens; entry 0 that of no token, which keeps scopes apart. Nobody changes the array.</summary>
[GenerateSerializer, Immutable, Alias("flashorleans.kv-chain")]
public sealed record KvChain([property: Id(0)] ulong[] Hashes)
{
    /// <summary>The answer of a layer that cannot say yet.</summary>
    public const int NotYet = -1;
}
