using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Hub;
using FlashOrleans.Models.Templates;
using FlashOrleans.Silo;

namespace FlashOrleans.Cli;

/// <summary>The verb cannot do what it was asked: one line, what and what to do.</summary>
internal sealed class CliException(string message) : Exception(message);

/// <summary>The command line asks for something that makes no sense, which only shows once the model is known: exit code 2.</summary>
internal sealed class UsageException(string message) : Exception(message);

/// <summary>Exceptions to one line and an exit code. FLASH_DEBUG=1 adds the stack trace.</summary>
internal static class Failure
{
    public const int Failed = 1, Usage = 2;

    public static int Report(Exception e, Screen screen, Interrupts interrupts)
    {
        while (e is AggregateException { InnerExceptions.Count: 1 } a) e = a.InnerExceptions[0];
        if (interrupts.ExitCode is { } code) return code;
        screen.EndLine();
        screen.Error.WriteLine($"flash: {Line(e)}");
        if (Environment.GetEnvironmentVariable("FLASH_DEBUG") is { Length: > 0 } and not "0") screen.Error.WriteLine(e);
        return e is UsageException ? Usage : Failed;
    }

    /// <summary>Ours say what to do; the rest is named so that a report of it is of use.</summary>
    public static string Line(Exception e)
    {
        string line = e switch
        {
            CliException or UsageException or FlashException or ModelFormatException or HubException or TemplateException or FlashSiloException or StepFaultException => e.Message,
            TurnRejectedException or SessionBusyException or ModelNotFoundException or LayerUnavailableException => e.Message,
            ArgumentException { ParamName: { } name } => e.Message.Replace($" (Parameter '{name}')", "", StringComparison.Ordinal),
            IOException or UnauthorizedAccessException => e.Message,
            OperationCanceledException => "cancelled",
            OutOfMemoryException => "out of memory; a smaller --window needs less, a larger --budget gives more",
            _ => $"unexpected {e.GetType().Name}: {e.Message} (FLASH_DEBUG=1 shows where)",
        };
        return line.ReplaceLineEndings(" ");
    }
}
