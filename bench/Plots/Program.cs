using System.Globalization;
using FlashOrleans.Bench;
using ScottPlot;

// Plots and the README's table from what bench/Peers/run.sh measured; medians over repeats.
//   dotnet run --project bench/Plots -- plots [CSV [FOLDER]]    budgets.png and sessions.png (cases `budgets` and `sessions`) into docs/plots
//   dotnet run --project bench/Plots -- table [CSV [CASE...]]   markdown
CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
Fonts.Default = "DejaVu Sans";
string csv = args.Length > 1 ? args[1] : "bench/results/peers.csv";
switch (args.FirstOrDefault())
{
    case "plots":
        string folder = args.Length > 2 ? args[2] : "docs/plots";
        Directory.CreateDirectory(folder);
        Draw("budgets", "share", "memory, % of the model's bytes", static r => $"{r["label"]}{(r["engine"] == "llama.cpp" ? " (llama.cpp, mmap)" : "")}", Path.Combine(folder, "budgets.png"));
        Draw("sessions", "sessions", "sessions at once", static r => $"{r["label"]}, {r["share"]} %{(r["engine"] == "llama.cpp" ? " (llama.cpp)" : "")}", Path.Combine(folder, "sessions.png"));
        return 0;
    case "table":
        Table(args.Length > 2 ? args[2..] : null);
        return 0;
    default:
        Console.Error.WriteLine("plots [CSV [FOLDER]] or table [CSV [CASE...]]");
        return 2;
}

void Draw(string which, string x, string xLabel, Func<Repeated, string> series, string file)
{
    var lines = Repeated.Of(csv).Where(r => r["case"] == which && r.Median("tok_s") != null).GroupBy(series).ToList();
    if (lines.Count == 0)
    {
        Console.Error.WriteLine($"{csv} has no case {which}: bench/Peers/run.sh {csv} {which}");
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
    plot.Title($"{lines[0].First()["machine"]}, commit {lines[0].First()["commit"]}", 12);
    plot.Axes.AutoScale();
    plot.Axes.SetLimitsY(0, plot.Axes.GetLimits().Top);
    if (which == "sessions") plot.Axes.Bottom.SetTicks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"]);
    plot.ShowLegend(Edge.Right);
    plot.SavePng(file, 1000, 520);
    Console.WriteLine(file);
}

void Table(string[]? cases)
{
    Console.WriteLine("| case | limit | | sessions | prefill tok/s | tok/s | p50, p99 ms | flash a token | most of the limit used | binds, reached |");
    Console.WriteLine("|---|---|---|---|---|---|---|---|---|---|");
    string last = "";
    foreach (var r in Repeated.Of(csv).Where(r => cases == null || cases.Contains(r["case"])))
    {
        string label = r["label"], limit = r["share"] == "100" ? "none" : $"{r["share"]} %", what = $"{label}|{limit}";
        string tail = r.Median("p50_ms") is { } p50 ? $"{p50:0}, {r.Median("p99_ms"):0}" : "";
        string flash = r.Median("flash_bytes_token") is { } bytes ? bytes < 1e6 ? $"{bytes / 1e3:0} kB" : $"{bytes / 1e6:0} MB" : "";
        string used = r.Median("limit_bytes") is > 0 and var most ? $"{100 * r.Median("peak_bytes") / most:0.0} %" : "";
        string reached = r.Median("fraction") is { } fraction ? $"{r["binds"]}, {100 * fraction:0} %" : "";
        Console.WriteLine($"| {(what == last ? "" : label)} | {(what == last ? "" : limit)} | {r["engine"]}, `{r["mode"]}`{(r.Count > 1 ? $", {r.Count} runs" : "")} | {r["sessions"]} | {r.Median("prefill_tok_s"):0.0} | {r.Median("tok_s"):0.00} | {tail} | {flash} | {used} | {reached} |");
        last = what;
    }
}
