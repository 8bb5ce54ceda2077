using FlashOrleans.Cli.Chat;

namespace FlashOrleans.Cli.Tests;

public sealed class LineBufferTests
{
    private readonly LineBuffer _line = new();

    [Fact]
    public void Typing_inserts_at_the_cursor_and_deletes_around_it()
    {
        Type("lntern");
        Press(ConsoleKey.Home);
        Press(ConsoleKey.RightArrow);
        Type("a");
        Assert.Equal("lantern", _line.Text);
        Press(ConsoleKey.Delete);
        Press(ConsoleKey.Backspace);
        Assert.Equal("ltern", _line.Text);
        Control(ConsoleKey.E);
        Type("!");
        Assert.Equal("ltern!", _line.Text);
    }

    [Fact]
    public void The_cursor_goes_over_an_emoji_and_an_accent_as_one()
    {
        Type("a🦊e\u0301");
        Press(ConsoleKey.Backspace);
        Assert.Equal("a🦊", _line.Text);
        Press(ConsoleKey.Backspace);
        Assert.Equal("a", _line.Text);
    }

    [Fact]
    public void Words_and_line_ends_can_be_cut()
    {
        Type("tell me a story");
        Control(ConsoleKey.W);
        Assert.Equal("tell me a ", _line.Text);
        Control(ConsoleKey.LeftArrow);
        Control(ConsoleKey.K);
        Assert.Equal("tell me ", _line.Text);
        Control(ConsoleKey.LeftArrow);
        Control(ConsoleKey.U);
        Assert.Equal("me ", _line.Text);
    }

    [Fact]
    public void Lines_come_back_in_order_and_the_one_being_typed_is_not_lost()
    {
        foreach (string line in new[] { "one", "two", "two", " " })
        {
            Type(line);
            Assert.Equal(LineEvent.Enter, _line.Press(new('\r', ConsoleKey.Enter, false, false, false)));
            Assert.Equal(line, _line.Take());
        }
        Type("thr");
        Press(ConsoleKey.UpArrow);
        Assert.Equal("two", _line.Text);
        Press(ConsoleKey.UpArrow);
        Press(ConsoleKey.UpArrow);
        Assert.Equal("one", _line.Text);
        Press(ConsoleKey.DownArrow);
        Press(ConsoleKey.DownArrow);
        Press(ConsoleKey.DownArrow);
        Assert.Equal("thr", _line.Text);
        Type("ee");
        Assert.Equal("three", _line.Text);
    }

    [Fact]
    public void Ctrl_C_empties_a_line_and_interrupts_on_an_empty_one()
    {
        Type("half");
        Assert.Equal(LineEvent.None, Control(ConsoleKey.C));
        Assert.Equal("", _line.Text);
        Assert.Equal(LineEvent.Interrupt, Control(ConsoleKey.C));
    }

    [Fact]
    public void Ctrl_D_ends_an_empty_line_and_deletes_in_any_other()
    {
        Assert.Equal(LineEvent.End, Control(ConsoleKey.D));
        Type("ab");
        Press(ConsoleKey.Home);
        Assert.Equal(LineEvent.None, Control(ConsoleKey.D));
        Assert.Equal("b", _line.Text);
    }

    [Theory]
    [InlineData("plain", 5)]
    [InlineData("e\u0301", 1)]
    [InlineData("狐狸", 4)]
    [InlineData("🦊", 2)]
    public void Columns_are_what_a_terminal_shows(string text, int columns) => Assert.Equal(columns, LineReader.Columns(text));

    private void Type(string text)
    {
        foreach (char c in text) _line.Press(new(c, ConsoleKey.None, false, false, false));
    }

    private void Press(ConsoleKey key) => _line.Press(new('\0', key, false, false, false));

    private LineEvent Control(ConsoleKey key) => _line.Press(new('\0', key, false, false, true));
}
