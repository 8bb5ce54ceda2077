using FlashOrleans.Cli.Hosts;
using FlashOrleans.Cli.Verbs;

namespace FlashOrleans.Cli.Chat;

/// <summary>
/// A chat at a terminal, or over the lines of a pipe. Ctrl-C stops the answer, never the program while one is under way; at the prompt a second one in a row leaves. Everything but reading keys
/// happens on the verb's own flow; signals only set what it waits for.
/// </summary>
internal sealed class ChatLoop(App app, GrainHost host, Conversation conversation, TextReader input)
{
    private const string Help = """
        /bye                leave (also Ctrl-D)
        /clear              forget the conversation
        /stats              what the last answer cost, layer by layer
        /set                show the settings
        /set NAME VALUE     window 10%, temperature 0.7, top-p 0.9, top-k 40, min-p 0.05, seed 7, max-tokens 200,
                            mode exact, prefetch off, kv f32, system TEXT
        /help               this
        Ctrl-C stops an answer; twice at the prompt leaves.
        """;

    private static readonly string[] s_commands = ["/bye", "/exit", "/quit", "/clear", "/stats", "/set", "/help", "/?"];

    private TaskCompletionSource _interrupt = New();
    private volatile bool _stopping;
    /// <summary>The last thing that happened was a Ctrl-C.</summary>
    private bool _armed;
    private Answer? _last;

    /// <summary>A line of the text is one of the chat's commands.</summary>
    public static bool HasCommand(string text) => text.Split('\n').Any(static line => line.StartsWith('/') && s_commands.Contains(line.Split(' ', 2)[0].Trim()));

    public async Task<int> RunAsync()
    {
        using var handling = app.Interrupts.Handle(OnInterrupt);
        if (app.Screen.InIsTerminal) app.Screen.Remark("/help shows the commands, /bye leaves");
        var reader = new LineReader(app.Screen, ">>> ", input);
        Task<(LineEvent Event, string Text)>? reading = null;
        var stop = Task.Delay(Timeout.Infinite, app.Interrupts.Stop);
        while (true)
        {
            reading ??= reader.ReadAsync();
            await Task.WhenAny(reading, _interrupt.Task, stop);
            if (app.Interrupts.ExitCode is { } code) return code;
            if (!reading.IsCompleted)
            {
                _interrupt = New();
                app.Screen.Out.WriteLine();
                if (Interrupted()) return 130;
                app.Screen.Out.Write(">>> ");
                continue;
            }
            var (what, text) = await reading;
            reading = null;
            if (what == LineEvent.End) return 0;
            if (what == LineEvent.Interrupt)
            {
                if (Interrupted()) return 130;
                continue;
            }
            _armed = false;
            if (!await DoAsync(text.Trim())) return 0;
            if (app.Interrupts.ExitCode is { } end) return end;
        }
    }

    /// <summary>False: leave.</summary>
    private async Task<bool> DoAsync(string line)
    {
        if (line.Length == 0) return true;
        try
        {
            if (!line.StartsWith('/')) await SayAsync(line);
            else return await CommandAsync(line);
        }
        catch (Exception e) when (app.Interrupts.ExitCode is null)
        {
            app.Screen.Remark(Failure.Line(e));
        }
        return true;
    }

    private async Task SayAsync(string line)
    {
        _stopping = false;
        _last = await conversation.SayAsync(line, app.Screen.Out.Write, app.Interrupts.Stop);
        RunVerb.Finish(app.Screen, _last);
        if (_last.Finish == Abstractions.FinishReason.Length && _last.Tokens.Count < conversation.Settings.MaxTokens)
            app.Screen.Remark("the model's context is full: /clear starts anew");
    }

    private async Task<bool> CommandAsync(string line)
    {
        string[] words = line.Split(' ', 3, StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        switch (words[0])
        {
            case "/bye" or "/exit" or "/quit":
                return false;
            case "/clear":
                await conversation.ClearAsync();
                app.Screen.Remark("forgotten");
                break;
            case "/stats":
                await StatsAsync();
                break;
            case "/set" when words.Length > 1:
                string value = words.Length > 2 ? words[2] : words[1] == "system" ? "" : throw new UsageException($"/set {words[1]} needs a value");
                if (words[1] == "window" && host.Budget is { } budget) throw new UsageException($"the budget of {budget.Size} sizes the windows: leave with /bye and give --window instead");
                var (chat, layer) = SetCommand.Apply(words[1], value, conversation.Settings, host.Layer);
                if (layer != host.Layer) await host.ReconfigureAsync(layer);
                conversation.Settings = chat;
                app.Screen.Remark(SetCommand.Show(chat, host.Layer, host.Budget));
                break;
            case "/set":
                app.Screen.Remark(SetCommand.Show(conversation.Settings, host.Layer, host.Budget));
                break;
            case "/help" or "/?":
                app.Screen.Out.WriteLine(Help);
                break;
            default:
                app.Screen.Remark($"there is no {words[0]}; /help shows the commands");
                break;
        }
        return true;
    }

    private async Task StatsAsync()
    {
        var now = await host.MeasureAsync();
        var counters = _last?.Counters ?? now;
        if (_last is not null)
        {
            app.Screen.Out.WriteLine(_last.Line);
            app.Screen.Out.WriteLine($"zero neurons {Units.Percent(counters.ZeroNeurons)}, compute {Units.Seconds(TimeSpan.FromMicroseconds(counters.ComputeNanos / 1e3))}, waiting for flash {Units.Seconds(TimeSpan.FromMicroseconds(counters.FlashWaitNanos / 1e3))}");
        }
        LayerTable.Write(app.Screen, counters);
        app.Screen.Out.WriteLine($"memory: {Units.Bytes(now.NativeBytes)} native, {Units.Bytes(GC.GetTotalMemory(false))} managed heap, {Units.Bytes(Environment.WorkingSet)} the whole process; {now.Threads} threads, {now.Kernels} kernels");
    }

    /// <summary>Ctrl-C at the prompt. True: leave.</summary>
    private bool Interrupted()
    {
        if (_armed) return true;
        _armed = true;
        app.Screen.Remark("Ctrl-C again or /bye leaves");
        return false;
    }

    /// <summary>Signal thread.</summary>
    private void OnInterrupt()
    {
        if (_stopping) app.Interrupts.End(130);
        else if (conversation.Cancel()) _stopping = _armed = true;
        else _interrupt.TrySetResult();
    }

    private static TaskCompletionSource New() => new(TaskCreationOptions.RunContinuationsAsynchronously);
}
