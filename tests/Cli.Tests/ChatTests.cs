namespace FlashOrleans.Cli.Tests;

/// <summary>A chat on a real terminal.</summary>
public sealed class ChatTests(FlashHome home)
{
    private const string CtrlC = "\u0003", Up = "\e[A";

    [Fact]
    public async Task Ctrl_C_stops_the_answer_and_the_chat_goes_on()
    {
        using var flash = Flash.StartOnTerminal(home, colours: true, "run", "emberling", "--temperature", "0");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("Tell me a story about a fox and a lantern\r");
        await flash.SeeAsync("Here");
        await flash.TypeAsync(CtrlC);
        await flash.SeeAsync("(stopped)");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("/set window 10%\r");
        await flash.SeeAsync("window 10.0 %");
        await flash.TypeAsync("/stats\r");
        await flash.SeeAsync("the whole process");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("/clear\r");
        await flash.SeeAsync("forgotten");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync(Up + Up + Up + Up + "\r");
        await flash.SeeAsync("Here");
        await flash.SeeAsync("tok/s");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("/bye\r");
        Assert.Equal(0, (await flash.EndAsync()).Code);
    }

    [Fact]
    public async Task Ctrl_C_twice_at_the_prompt_leaves_with_130()
    {
        using var flash = Flash.StartOnTerminal(home, colours: true, "run", "emberling");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("half a line" + CtrlC);
        await flash.TypeAsync(CtrlC);
        await flash.SeeAsync("Ctrl-C again");
        await flash.TypeAsync(CtrlC);
        Assert.Equal(130, (await flash.EndAsync()).Code);
    }

    [Fact]
    public async Task Wrong_settings_and_commands_are_remarks_and_the_end_of_input_leaves()
    {
        using var flash = Flash.StartOnTerminal(home, colours: true, "run", "emberling");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("/set window 30\r");
        await flash.SeeAsync("is not a share");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("/dance\r");
        await flash.SeeAsync("there is no /dance");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("\u0004");
        Assert.Equal(0, (await flash.EndAsync()).Code);
    }

    [Fact]
    public async Task NO_COLOR_keeps_a_terminal_free_of_escape_sequences()
    {
        using var flash = Flash.StartOnTerminal(home, colours: false, "run", "emberling", "--max-tokens", "8");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("Tell me a story\r");
        await flash.SeeAsync("tok/s");
        await flash.SeeAsync(">>> ");
        await flash.TypeAsync("/stats\r");
        await flash.SeeAsync("the whole process");
        await flash.TypeAsync("/bye\r");
        var outcome = await flash.EndAsync();
        Assert.Equal(0, outcome.Code);
        Assert.DoesNotContain('\e', outcome.Out);
    }

    [Fact]
    public async Task Colours_on_a_terminal_make_the_figures_dim()
    {
        using var flash = Flash.StartOnTerminal(home, colours: true, "run", "emberling", "hello", "--max-tokens", "8");
        Assert.Contains("\e[2m8 tokens (limit)", (await flash.EndAsync()).Out, StringComparison.Ordinal);
    }
}
