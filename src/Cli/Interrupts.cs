using System.Runtime.InteropServices;

namespace FlashOrleans.Cli;

/// <summary>
/// Ctrl-C and SIGTERM. An interrupt goes to whoever asked for it last (<see cref="Handle"/>: a chat stops the answer), else it cancels <see cref="Stop"/> and
/// the verb unwinds, cleaning up after itself. A second one while it unwinds ends the process at once. Signal handlers run on their own thread.
/// </summary>
internal sealed class Interrupts : IDisposable
{
    private readonly CancellationTokenSource _stop = new();
    private readonly List<PosixSignalRegistration> _registrations;
    private volatile Action? _handler;

    public Interrupts() => _registrations =
    [
        PosixSignalRegistration.Create(PosixSignal.SIGINT, context => { context.Cancel = true; Interrupt(130); }),
        PosixSignalRegistration.Create(PosixSignal.SIGTERM, context => { context.Cancel = true; End(143); }),
    ];

    /// <summary>Cancelled when the program is to end.</summary>
    public CancellationToken Stop => _stop.Token;

    /// <summary>What to exit with when it was a signal that ended the verb.</summary>
    public int? ExitCode { get; private set; }

    /// <summary>Until disposed, Ctrl-C calls this instead of ending the program.</summary>
    public IDisposable Handle(Action handler)
    {
        var before = _handler;
        _handler = handler;
        return new Restore(() => _handler = before);
    }

    /// <summary>Ends the verb with this code.</summary>
    public void End(int code)
    {
        if (ExitCode is { } already) Environment.Exit(already);
        ExitCode = code;
        _stop.Cancel();
    }

    public void Dispose()
    {
        foreach (var registration in _registrations) registration.Dispose();
        _stop.Dispose();
    }

    private void Interrupt(int code)
    {
        if (_handler is { } handler) handler();
        else End(code);
    }

    private sealed class Restore(Action restore) : IDisposable
    {
        public void Dispose() => restore();
    }
}
