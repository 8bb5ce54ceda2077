using System.CommandLine;
using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Hosts;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using Spectre.Console;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash logits NAME`: the best logits after given tokens, and a greedy continuation; makes the engine checkable from outside.</summary>
internal static class LogitsVerb
{
    public static Command Create(App app)
    {
        var tokens = Flags.Ints("--tokens", "The input");
        tokens.Required = true;
        var generate = Flags.Int("--generate", "N", "Also continue greedily by N tokens; end tokens do not stop it (default 0)", 0);
        var top = Flags.Int("--top", "K", "Best logits after the last input token (default 10)", 1);
        var json = Flags.Json();
        var verb = new Verb("logits", "Show the logits after given tokens, and a greedy continuation", "",
            "flash logits emberling --tokens 1,455,268,201 --json", "flash logits emberling --tokens 1,455 --generate 16 --top 5 --path engine --window 2%")
        { tokens, generate, top, json };
        var model = new ModelFlags(verb);
        var hosts = new HostFlags(verb);
        verb.SetAction(async (parse, _) =>
        {
            int[] input = parse.GetRequiredValue(tokens)!;
            int count = parse.GetValue(generate) ?? 0;
            string path = model.Path(app, parse);
            using (var package = FlashPackage.Open(path)) Tokens.Demand(input, package.Config, count);
            await using var host = await hosts.StartAsync(app, parse, path, input.Length + count);
            var (best, greedy) = await AskAsync(host, input, count, parse.GetValue(top) ?? 10, app.Interrupts.Stop);
            if (parse.GetValue(json))
            {
                app.Screen.Json(new { tokens = input, top = best.Select(static t => new object[] { t.Id, t.Logit }), greedy });
                return;
            }
            var table = new Table { Border = TableBorder.None }.AddColumns("TOKEN", "LOGIT");
            foreach (var t in best) table.AddRow(Units.Number(t.Id, "0"), Units.Number(t.Logit, "0.00000"));
            app.Screen.Tables.Write(table);
            if (count > 0) app.Screen.Out.WriteLine($"greedy {string.Join(',', greedy)}");
        });
        return verb;
    }

    private static async Task<(TokenLogit[] Top, int[] Greedy)> AskAsync(IModelHost host, int[] input, int count, int top, CancellationToken cancel)
    {
        TokenLogit[]? best = null;
        var greedy = new List<int>();
        await using var session = host.OpenSession();
        var turn = new TurnRequest { Model = host.Model, Tokens = input, MaxTokens = count, TopLogits = top, StopTokens = [] };
        await foreach (var chunk in Checked.SendAsync(session, turn, cancel))
        {
            // Every token brings the logits it was chosen from; the first one's are those after the input.
            best ??= chunk.Top;
            if (chunk.TokenId >= 0) greedy.Add(chunk.TokenId);
        }
        return (best ?? [], [.. greedy]);
    }
}
