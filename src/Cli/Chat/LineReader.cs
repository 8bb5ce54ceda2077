using System.Globalization;
using System.Text;

namespace FlashOrleans.Cli.Chat;

/// <summary>
/// Reads lines from a person. On a terminal that takes escape sequences: editing and history (<see cref="LineBuffer"/>), drawn anew after every burst of keys;
/// elsewhere whatever the terminal itself offers. Blocks, so it has a thread of its own; Ctrl-C is a key while it reads and a signal while it does not.
/// </summary>
internal sealed class LineReader(Screen screen, string prompt, TextReader input)
{
    private readonly LineBuffer _buffer = new();
    /// <summary>Terminal rows between the prompt's first row and the cursor.</summary>
    private int _cursorRow;

    public Task<(LineEvent Event, string Text)> ReadAsync()
    {
        var done = new TaskCompletionSource<(LineEvent, string)>(TaskCreationOptions.RunContinuationsAsynchronously);
        var thread = new Thread(() =>
        {
            try
            {
                done.SetResult(screen.Ansi && screen.OutIsTerminal && screen.InIsTerminal ? Edit() : Plain());
            }
            catch (Exception e)
            {
                done.SetException(e);
            }
        })
        { IsBackground = true, Name = "keyboard" };
        thread.Start();
        return done.Task;
    }

    private (LineEvent, string) Plain()
    {
        if (screen.OutIsTerminal && screen.InIsTerminal) screen.Out.Write(prompt);
        return input.ReadLine() is { } line ? (LineEvent.Enter, line) : (LineEvent.End, "");
    }

    private (LineEvent, string) Edit()
    {
        Console.TreatControlCAsInput = true;
        try
        {
            _cursorRow = 0;
            Draw();
            while (true)
            {
                var what = _buffer.Press(Console.ReadKey(intercept: true));
                // A pasted line is drawn once, not once a letter.
                if (what == LineEvent.None && Console.KeyAvailable) continue;
                Draw(atEnd: what != LineEvent.None);
                if (what == LineEvent.None) continue;
                screen.Out.WriteLine();
                return (what, what == LineEvent.Enter ? _buffer.Take() : "");
            }
        }
        finally
        {
            Console.TreatControlCAsInput = false;
        }
    }

    private void Draw(bool atEnd = false)
    {
        // A terminal that does not say is taken for a usual one.
        int width = Console.WindowWidth > 1 ? Console.WindowWidth : 80;
        var text = new StringBuilder("\e[?25l");
        if (_cursorRow > 0) text.Append(CultureInfo.InvariantCulture, $"\e[{_cursorRow}A");
        text.Append("\r\e[J").Append(prompt).Append(_buffer.Text);
        int end = Columns(prompt) + Columns(_buffer.Text);
        int cursor = atEnd ? end : Columns(prompt) + Columns(_buffer.Text.AsSpan(0, _buffer.Cursor));
        // A full row leaves the terminal's cursor on it until something follows.
        if (end > 0 && end % width == 0) text.Append("\r\n");
        int up = end / width - cursor / width;
        if (up > 0) text.Append(CultureInfo.InvariantCulture, $"\e[{up}A");
        text.Append(CultureInfo.InvariantCulture, $"\r\e[{cursor % width + 1}G\e[?25h");
        screen.Out.Write(text.ToString());
        _cursorRow = cursor / width;
    }

    /// <summary>Terminal columns: two for East Asian wide characters and emoji, none for marks.</summary>
    internal static int Columns(ReadOnlySpan<char> text)
    {
        int columns = 0;
        foreach (var rune in text.EnumerateRunes())
        {
            columns += Rune.GetUnicodeCategory(rune) is UnicodeCategory.NonSpacingMark or UnicodeCategory.EnclosingMark or UnicodeCategory.Format ? 0
                : rune.Value is (>= 0x1100 and <= 0x115F) or (>= 0x2E80 and <= 0xA4CF) or (>= 0xAC00 and <= 0xD7A3) or (>= 0xF900 and <= 0xFAFF)
                    or (>= 0xFE30 and <= 0xFE6F) or (>= 0xFF00 and <= 0xFF60) or (>= 0x1F300 and <= 0x1FAFF) or (>= 0x20000 and <= 0x3FFFD) ? 2 : 1;
        }
        return columns;
    }
}
