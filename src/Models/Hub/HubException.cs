namespace FlashOrleans.Models.Hub;

/// <summary>
/// A pull cannot go on: one line that says which repository, file or server, what is wrong, and what to do. Nothing half-written carries a final name; what was
/// downloaded stays as a <c>.part</c> beside its journal and is used by the next attempt, unless it was found to be wrong.
/// </summary>
public sealed class HubException : Exception
{
    public HubException() : this("the hub failed") { }
    public HubException(string message) : base(ModelFormatException.OneLine(message)) { }
    public HubException(string message, Exception inner) : base(ModelFormatException.OneLine(message), inner) { }

    /// <summary>Nobody is at fault and it may work in a moment: a cut, a silence, a server that is busy.</summary>
    internal bool MayPass { get; init; }

    /// <summary>How long the server asks to be left alone.</summary>
    internal TimeSpan? RetryAfter { get; init; }
}
