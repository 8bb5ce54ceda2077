using System.Globalization;

namespace FlashOrleans.Cli.Chat;

internal enum LineEvent
{
    /// <summary>Go on.</summary>
    None,
    /// <summary>The line is complete.</summary>
    Enter,
    /// <summary>Ctrl-D on an empty line.</summary>
    End,
    /// <summary>Ctrl-C on an empty line; on any other it empties the line.</summary>
    Interrupt,
}

/// <summary>
/// The line being typed, its cursor and the lines before it: keys in, text out, nothing drawn. The cursor moves over whole characters as a person sees them
/// (an emoji or an accent is one). One thread.
/// </summary>
internal sealed class LineBuffer
{
    private readonly List<string> _history = [];
    /// <summary>Which history line is shown; as many as there are: the new one.</summary>
    private int _shown;
    private string _typed = "";

    public string Text { get; private set; } = "";
    /// <summary>UTF-16 units before the cursor.</summary>
    public int Cursor { get; private set; }

    /// <summary>Empties the line and keeps it in the history.</summary>
    public string Take()
    {
        string text = Text;
        if (text.Trim().Length > 0 && (_history.Count == 0 || _history[^1] != text)) _history.Add(text);
        Set("");
        _shown = _history.Count;
        return text;
    }

    public LineEvent Press(ConsoleKeyInfo key)
    {
        bool control = (key.Modifiers & ConsoleModifiers.Control) != 0;
        switch (key.Key)
        {
            case ConsoleKey.Enter:
                return LineEvent.Enter;
            case ConsoleKey.C when control:
                if (Text.Length == 0) return LineEvent.Interrupt;
                Set("");
                _shown = _history.Count;
                return LineEvent.None;
            case ConsoleKey.D when control:
                if (Text.Length == 0) return LineEvent.End;
                Remove(Cursor, Next(Cursor));
                break;
            case ConsoleKey.Backspace:
                Remove(Previous(Cursor), Cursor);
                break;
            case ConsoleKey.Delete:
                Remove(Cursor, Next(Cursor));
                break;
            case ConsoleKey.LeftArrow when control:
                Cursor = WordStart();
                break;
            case ConsoleKey.RightArrow when control:
                Cursor = WordEnd();
                break;
            case ConsoleKey.LeftArrow or ConsoleKey.B when control || key.Key == ConsoleKey.LeftArrow:
                Cursor = Previous(Cursor);
                break;
            case ConsoleKey.RightArrow or ConsoleKey.F when control || key.Key == ConsoleKey.RightArrow:
                Cursor = Next(Cursor);
                break;
            case ConsoleKey.Home or ConsoleKey.A when control || key.Key == ConsoleKey.Home:
                Cursor = 0;
                break;
            case ConsoleKey.End or ConsoleKey.E when control || key.Key == ConsoleKey.End:
                Cursor = Text.Length;
                break;
            case ConsoleKey.U when control:
                Remove(0, Cursor);
                break;
            case ConsoleKey.K when control:
                Remove(Cursor, Text.Length);
                break;
            case ConsoleKey.W when control:
                Remove(WordStart(), Cursor);
                break;
            case ConsoleKey.UpArrow or ConsoleKey.P when control || key.Key == ConsoleKey.UpArrow:
                Show(_shown - 1);
                break;
            case ConsoleKey.DownArrow or ConsoleKey.N when control || key.Key == ConsoleKey.DownArrow:
                Show(_shown + 1);
                break;
            default:
                if (!char.IsControl(key.KeyChar)) Insert(key.KeyChar);
                break;
        }
        return LineEvent.None;
    }

    private void Insert(char value)
    {
        Text = Text.Insert(Cursor, value.ToString());
        Cursor++;
    }

    private void Remove(int from, int to)
    {
        Text = Text.Remove(from, to - from);
        Cursor = from;
    }

    private void Set(string text)
    {
        Text = text;
        Cursor = text.Length;
    }

    private void Show(int index)
    {
        if (index < 0 || index > _history.Count) return;
        if (_shown == _history.Count) _typed = Text;
        _shown = index;
        Set(index == _history.Count ? _typed : _history[index]);
    }

    private int Previous(int at)
    {
        int previous = 0;
        foreach (int start in StringInfo.ParseCombiningCharacters(Text))
            if (start < at) previous = start;
        return previous;
    }

    private int Next(int at) => at >= Text.Length ? Text.Length : at + StringInfo.GetNextTextElementLength(Text, at);

    private int WordStart()
    {
        int at = Cursor;
        while (at > 0 && char.IsWhiteSpace(Text[at - 1])) at--;
        while (at > 0 && !char.IsWhiteSpace(Text[at - 1])) at--;
        return at;
    }

    private int WordEnd()
    {
        int at = Cursor;
        while (at < Text.Length && char.IsWhiteSpace(Text[at])) at++;
        while (at < Text.Length && !char.IsWhiteSpace(Text[at])) at++;
        return at;
    }
}
