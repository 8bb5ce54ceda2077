namespace FlashOrleans.Abstractions;

/// <summary>The session runs another turn; wait for its end or cancel it.</summary>
[GenerateSerializer, Alias("flashorleans.session-busy")]
public sealed class SessionBusyException : Exception
{
    public SessionBusyException() : this("the session is busy with another turn") { }
    public SessionBusyException(string message) : base(message) { }
    public SessionBusyException(string message, Exception inner) : base(message, inner) { }
    public SessionBusyException(Guid session, Guid turn) : base($"session {session} is busy with turn {turn}; wait for its end or cancel it") => TurnId = turn;

    /// <summary>The turn that runs.</summary>
    [Id(0)] public Guid TurnId { get; private set; }
}

/// <summary>The request cannot be served as it is: one line, what is wrong and what to do.</summary>
[GenerateSerializer, Alias("flashorleans.turn-rejected")]
public sealed class TurnRejectedException : Exception
{
    public TurnRejectedException() : this("the turn was rejected") { }
    public TurnRejectedException(string message) : base(message) { }
    public TurnRejectedException(string message, Exception inner) : base(message, inner) { }

    /// <summary>The input does not fit the model's context.</summary>
    [Id(0)] public bool TooLong { get; init; }
}

/// <summary>No package answers to that name.</summary>
[GenerateSerializer, Alias("flashorleans.model-not-found")]
public sealed class ModelNotFoundException : Exception
{
    public ModelNotFoundException() : this("model not found") { }
    public ModelNotFoundException(string message) : base(message) { }
    public ModelNotFoundException(string message, Exception inner) : base(message, inner) { }
}

/// <summary>A layer cannot take waves now: it is leaving, could not be loaded, or has just been placed elsewhere.</summary>
[GenerateSerializer, Alias("flashorleans.layer-unavailable")]
public sealed class LayerUnavailableException : Exception
{
    public LayerUnavailableException() : this("layer unavailable") { }
    public LayerUnavailableException(string message) : base(message) { }
    public LayerUnavailableException(string message, Exception inner) : base(message, inner) { }
}

/// <summary>Sessions cannot be kept or read: one line, where and why. What was written before is still there.</summary>
[GenerateSerializer, Alias("flashorleans.session-store-failed")]
public sealed class SessionStoreException : Exception
{
    public SessionStoreException() : this("sessions cannot be kept") { }
    public SessionStoreException(string message) : base(message) { }
    public SessionStoreException(string message, Exception inner) : base(message, inner) { }
}
