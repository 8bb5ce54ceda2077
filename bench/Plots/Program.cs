using System.Globalization;
using FlashOrleans.Bench;
using ScottPlot;

// Plots and tables from what bench/Peers/run.sh measured; medians over repeats.
//   dotnet run --project bench/Plots -- plots [CSV [FOLDER]]    budgets.png (case `budgets`) and, of serve.csv beside it, sessions.png, into docs/plots
//   dotnet run --project bench/Plots -- table [CSV [CASE...]]   markdown
//   dotnet run --project bench/Plots -- readme [CSV]            README's table of 7B shapes: the newest rows of cases a to f, beside llama.cpp and what was to be reached
//   dotnet run --project bench/Plots -- serve [CSV]             markdown of what bench/Serve/run.sh measured
CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
Fonts.Default = "DejaVu Sans";
string csv = args.Length > 1 ? args[1] : "bench/results/peers.csv";
switch (args.FirstOrDefault())
{
    case "plots":
        string folder = args.Length > 2 ? args[2] : "docs/plots";
        Directory.CreateDirectory(folder);
        Draw(Peers("budgets"), "budgets", "share", "memory, % of the model's bytes", static r => $"{r["label"]}{(r["engine"] == "llama.cpp" ? " (llama.cpp, mmap)" : "")}", Path.Combine(folder, "budgets.png"));
        Draw(Users(Path.Combine(Path.GetDirectoryName(csv)!, "serve.csv")), "sessions", "sessions", "sessions at once", static r => $"{r["model"]}, {r["share"]} %{(r["engine"] == "llama.cpp" ? " (llama.cpp)" : "")}", Path.Combine(folder, "sessions.png"));
        return 0;
    case "table":
        Table(args.Length > 2 ? args[2..] : null);
        return 0;
    case "readme":
        SevenBillion.Print(csv);
        return 0;
    case "serve":
        Serve(args.Length > 1 ? csv : "bench/results/serve.csv");
        return 0;
    default:
        Console.Error.WriteLine("plots [CSV [FOLDER]], table [CSV [CASE...]], readme [CSV] or serve [CSV]");
        return 2;
}

IEnumerable<Repeated> Peers(string which) => Repeated.Of(csv, Repeated.Peers).Where(r => r["case"] == which);

// At each share of a model's bytes the newest build's rows of clients, beside nothing else.
static IEnumerable<Repeated> Users(string file)
{
    var rows = Repeated.Of(file, Repeated.Serve).Where(static r => r["share"] is "50" or "75" && r["long_tokens"].Length == 0).ToList();
    return rows.GroupBy(static r => r["share"]).SelectMany(static g => g.Where(r => r["commit"] == g.Last()["commit"]));
}

void Draw(IEnumerable<Repeated> rows, string which, string x, string xLabel, Func<Repeated, string> series, string file)
{
    var lines = rows.Where(static r => r.Median("tok_s") != null).GroupBy(series).ToList();
    if (lines.Count == 0)
    {
        Console.Error.WriteLine($"no rows of {which}: bench/Peers/run.sh {csv} budgets, bench/Serve/run.sh");
        return;
    }
    using var plot = new Plot();
    foreach (var line in lines)
    {
        var points = line.Select(r => (X: r.Median(x)!.Value, Y: r.Median("tok_s")!.Value)).OrderBy(static p => p.X).ToList();
        var scatter = plot.Add.Scatter(points.Select(static p => p.X).ToArray(), points.Select(static p => p.Y).ToArray());
        scatter.LegendText = line.Key;
        scatter.LineWidth = 2;
        scatter.MarkerSize = 7;
    }
    plot.XLabel(xLabel);
    plot.YLabel("tokens a second");
    plot.Title($"{lines[0].First()["machine"]}, commit {string.Join(" and ", lines.SelectMany(static l => l).Select(static r => r["commit"]).Distinct())}", 12);
    plot.Axes.AutoScale();
    plot.Axes.SetLimitsY(0, plot.Axes.GetLimits().Top);
    if (which == "sessions") plot.Axes.Bottom.SetTicks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"]);
    plot.ShowLegend(Edge.Right);
    plot.SavePng(file, 1000, 520);
    Console.WriteLine(file);
}

void Table(string[]? cases)
{
    Console.WriteLine("| case | limit | | sessions | prefill tok/s | tok/s | p50, p99 ms | flash a token | most of the limit used | binds, reached (at once) |");
    Console.WriteLine("|---|---|---|---|---|---|---|---|---|---|");
    string last = "";
    foreach (var r in Repeated.Of(csv, Repeated.Peers).Where(r => cases == null || cases.Contains(r["case"])))
    {
        string label = r["label"], limit = r["share"] == "100" ? "none" : $"{r["share"]} %", what = $"{label}|{limit}";
        string tail = r.Median("p50_ms") is { } p50 ? $"{p50:0}, {r.Median("p99_ms"):0}" : "";
        string flash = r.Median("flash_bytes_token") is { } bytes ? bytes < 1e6 ? $"{bytes / 1e3:0} kB" : $"{bytes / 1e6:0} MB" : "";
        string used = r.Median("limit_bytes") is > 0 and var most ? $"{100 * r.Median("peak_bytes") / most:0.0} %" : "";
        string reached = r.Median("fraction") is { } fraction ? $"{r["binds"]}, {100 * fraction:0} %{(r.Median("at_once") is { } both ? $" ({100 * both:0})" : "")}" : "";
        Console.WriteLine($"| {(what == last ? "" : label)} | {(what == last ? "" : limit)} | {r["engine"]}, `{r["mode"]}`{(r.Count > 1 ? $", {r.Count} runs" : "")} | {r["sessions"]} | {r.Median("prefill_tok_s"):0.0} | {r.Median("tok_s"):0.00} | {tail} | {flash} | {used} | {reached} |");
        last = what;
    }
}

void Serve(string file)
{
    Console.WriteLine("| model, limit | sessions | | tok/s with prompts, while all generate | first token, s | p50, p95, p99 ms | beside a long prompt p50, p99 ms | its tok/s | flash a token |");
    Console.WriteLine("|---|---|---|---|---|---|---|---|---|");
    foreach (var r in Repeated.Of(file, Repeated.Serve).OrderBy(static r => r["model"], StringComparer.Ordinal).ThenByDescending(static r => r.Median("share")).ThenBy(static r => r.Median("long_tokens") ?? 0).ThenBy(static r => r.Median("sessions")))
    {
        string limit = r["share"] == "100" ? "none" : $"{r["share"]} %";
        string beside = r.Median("long_tokens") is { } tokens ? $"{tokens:0} tokens: {r.Median("others_p50_ms"):0}, {r.Median("others_p99_ms"):0}" : "";
        string flash = r["engine"] == "flash" && r.Median("flash_bytes_token") is { } bytes ? bytes < 1e6 ? $"{bytes / 1e3:0} kB" : $"{bytes / 1e6:0} MB" : "";
        string gaps = beside.Length > 0 ? "" : $"{r.Median("p50_ms"):0}, {r.Median("p95_ms"):0}, {r.Median("p99_ms"):0}";
        Console.WriteLine($"| {r["model"]}, {limit} | {r["sessions"]} | {r["engine"]}{(r.Count > 1 ? $", {r.Count} runs" : "")} | {r.Median("tok_s"):0.0}{(r.Median("tok_s_together") is > 0 and var all ? $", {all:0.0}" : "")} | {r.Median("first_p50_ms") / 1000:0.0} | {gaps} | {beside} | {r.Median("long_tok_s"):0} | {flash} |");
    }
}
