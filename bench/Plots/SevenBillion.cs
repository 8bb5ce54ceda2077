using System.Globalization;
using System.Text.RegularExpressions;

namespace FlashOrleans.Bench;

/// <summary>README's table of 7B shapes: of each case, label and number of sessions the newest build's median, beside what llama.cpp did in the same case and what was to be reached.</summary>
internal static class SevenBillion
{
    private sealed record Goal(string Case, string Label, string Sessions, string Says);

    /// <summary>What was set before anything was measured; of eight sessions beside one, and of the limit.</summary>
    private static readonly Goal[] s_goals =
    [
        new("a", "opt-6.7b, oracle, 50 %", "1", "20; 1.4 of in memory; .85"),
        new("b", "opt-6.7b, predicted x2.3, 50 %", "1", "8; .85"),
        new("b", "opt-6.7b, predicted x3, 50 %", "1", "6; .85"),
        new("c", "prosparse-7b, exact, 65 %", "1", "9"),
        new("c", "prosparse-7b, predicted x2, 65 %", "1", "12"),
        new("d", "bamboo-7b, predicted x2, 50 %", "1", ".8"),
        new("d", "bamboo-7b, predicted x2, 50 %", "8", ".8"),
        new("d", "bamboo-7b, exact, 75 %", "1", ".8"),
        new("d", "bamboo-7b, exact, 75 %", "8", "4 of one; .8"),
        new("e", "dense, 65 %", "1", "3.8; .9"),
        new("f", "everything in memory, dense", "1", ".95, prefill 1.5"),
    ];

    public static void Print(string csv)
    {
        var all = Repeated.Of(csv, Repeated.Peers);
        var rows = all.GroupBy(static r => (r["case"], r["label"], r["engine"], r["sessions"])).Select(static g => g.Last()).ToList();
        Console.WriteLine("| | case | llama.cpp tok/s | flash tok/s | times | goal (of llama.cpp; of the limit) | p50, p95, p99 ms | flash a token | binds, reached (at once) | commit |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|---|---|");
        foreach (Goal goal in s_goals)
        {
            foreach (Repeated r in rows.Where(r => r["case"] == goal.Case && r["label"] == goal.Label && r["sessions"] == goal.Sessions && r["engine"] != "llama.cpp"))
            {
                // Beside what was measured with the same build; the base of opt's shape is the Llama shape of the same size at the same share.
                Repeated? Theirs(string of) => all.FindLast(o => o["engine"] == "llama.cpp" && o["case"] == of && o["commit"] == r["commit"]);
                Repeated? theirs = Theirs(goal.Case == "b" ? "a" : goal.Case), inMemory = Theirs("f");
                double speed = r.Median("tok_s") ?? 0;
                bool prefill = goal.Case == "f";
                string times = theirs?.Median("tok_s") is { } base_ ? $"{speed / base_:0.0#}" : "";
                if (prefill && theirs != null) times += $", prefill {r.Median("prefill_tok_s") / theirs.Median("prefill_tok_s"):0.00}";
                if (goal.Case == "a" && inMemory?.Median("tok_s") is { } most) times += $"; {speed / most:0.00} of llama.cpp in memory";
                if (goal.Sessions != "1" && rows.Find(o => o["case"] == goal.Case && o["label"] == goal.Label && o["sessions"] == "1")?.Median("tok_s") is { } alone) times = $"{speed / alone:0.0} of one";
                string flash = r.Median("flash_bytes_token") is { } bytes ? bytes < 1e6 ? $"{bytes / 1e3:0} kB" : $"{bytes / 1e6:0} MB" : "";
                string reached = r.Median("fraction") is { } fraction ? $"{r["binds"]}, {100 * fraction:0} %{(r.Median("at_once") is { } both ? $" ({100 * both:0})" : "")}" : "";
                string label = $"{goal.Label}{(goal.Sessions == "1" ? "" : $", {goal.Sessions} sessions")}{(prefill ? $", {r["engine"][6..]}" : "")}{(Runs(r) > 1 ? $", {Runs(r)} runs" : "")}";
                Console.WriteLine($"| {goal.Case} | {label} | {Speed(theirs, prefill)} | {Speed(r, prefill)} | {times} | {goal.Says} | {r.Median("p50_ms"):0}, {r.Median("p95_ms"):0}, {r.Median("p99_ms"):0} | {flash} | {reached} | {r["commit"]} |");
            }
        }
    }

    /// <summary>Lines, of which each may be a median of several runs.</summary>
    private static int Runs(Repeated row) => row.Count * (Regex.Match(row["command"], @"--repeat (\d+)") is { Success: true } repeat ? int.Parse(repeat.Groups[1].Value, CultureInfo.InvariantCulture) : 1);

    private static string Speed(Repeated? row, bool prefill) => row?.Median("tok_s") is { } speed ? $"{speed:0.00}{(prefill ? $", prefill {row.Median("prefill_tok_s"):0.0}" : "")}" : "";
}
