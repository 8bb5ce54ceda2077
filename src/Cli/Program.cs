namespace FlashOrleans.Cli;

/// <summary>
/// `flash`: the door to everything. One verb per file in <c>Verbs/</c>; options that verbs share in <c>Options/</c>; where a model runs in <c>Hosts/</c>.
/// Exit codes: 0 done, 1 failure, 2 wrong usage, 130 Ctrl-C (143 SIGTERM). A failure is one line on stderr.
/// </summary>
internal static class Program
{
    private static async Task<int> Main(string[] args)
    {
        using var interrupts = new Interrupts();
        return await new App(Screen.FromConsole(), interrupts).InvokeAsync(args);
    }
}
