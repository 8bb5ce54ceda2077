using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Spectre.Console;

namespace FlashOrleans.Cli;

/// <summary>
/// Where words go: answers, tables and JSON to stdout, progress and errors to stderr. Escape sequences only to a terminal that wants them (NO_COLOR,
/// TERM=dumb). One thread at a time, except <see cref="Progress"/>.
/// </summary>
internal sealed class Screen
{
    private static readonly JsonSerializerOptions s_json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    private readonly Lock _gate = new();
    private int _progressWidth;
    private string _lastProgress = "";

    public required TextWriter Out { get; init; }
    public required TextWriter Error { get; init; }
    public required TextReader In { get; init; }
    public bool OutIsTerminal { get; init; }
    public bool ErrorIsTerminal { get; init; }
    public bool InIsTerminal { get; init; }
    /// <summary>The terminal wants colours and cursor movements.</summary>
    public bool Ansi { get; init; }

    public static Screen FromConsole()
    {
        // UTF-8 whatever the locale: LANG=C would turn every accent of a story into a question mark.
        var utf8 = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false);
        bool dumb = Environment.GetEnvironmentVariable("NO_COLOR") is { Length: > 0 } || Environment.GetEnvironmentVariable("TERM") is null or "" or "dumb";
        // The runtime greets a terminal with escape sequences of its own, unless it is dumb.
        if (dumb) Environment.SetEnvironmentVariable("TERM", "dumb");
        return new Screen
        {
            Out = new StreamWriter(Console.OpenStandardOutput(), utf8) { AutoFlush = true },
            Error = new StreamWriter(Console.OpenStandardError(), utf8) { AutoFlush = true },
            In = new StreamReader(Console.OpenStandardInput(), utf8),
            OutIsTerminal = !Console.IsOutputRedirected,
            ErrorIsTerminal = !Console.IsErrorRedirected,
            InIsTerminal = !Console.IsInputRedirected,
            Ansi = !dumb,
        };
    }

    /// <summary>For tables. They have their natural width: a narrow terminal wraps lines, which loses nothing, where cells would be cut.</summary>
    public IAnsiConsole Tables
    {
        get
        {
            bool ansi = Ansi && OutIsTerminal;
            var console = AnsiConsole.Create(new AnsiConsoleSettings
            {
                Ansi = ansi ? AnsiSupport.Yes : AnsiSupport.No,
                ColorSystem = ansi ? ColorSystemSupport.Standard : ColorSystemSupport.NoColors,
                Interactive = InteractionSupport.No,
                Out = new AnsiConsoleOutput(Out),
            });
            console.Profile.Width = 250;
            return console;
        }
    }

    public void Json(object value) => Out.WriteLine(JsonSerializer.Serialize(value, s_json));

    /// <summary>A remark on stderr, dim where the terminal can.</summary>
    public void Remark(string line)
    {
        EndLine();
        Error.WriteLine(Ansi && ErrorIsTerminal ? $"\e[2m{line}\e[0m" : line);
    }

    /// <summary>What is going on, on stderr: one line that is overwritten on a terminal; elsewhere a line only when the text before ": " changes. Any thread.</summary>
    public void Progress(string line)
    {
        lock (_gate)
        {
            if (ErrorIsTerminal)
            {
                string padded = line.PadRight(_progressWidth);
                _progressWidth = line.Length;
                Error.Write($"\r{padded}");
                return;
            }
            string step = line.Split(": ")[0];
            if (step == _lastProgress) return;
            _lastProgress = step;
            Error.WriteLine(step);
        }
    }

    /// <summary>Ends a progress line, so that the next words start a line.</summary>
    public void EndLine()
    {
        lock (_gate)
        {
            if (_progressWidth > 0) Error.Write($"\r{new string(' ', _progressWidth)}\r");
            _progressWidth = 0;
            _lastProgress = "";
        }
    }
}
