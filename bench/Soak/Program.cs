using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using FlashOrleans.Bench;

// A long time with many users who behave as users do: they talk in sessions and without, send everything again, ask for several answers, leave in the middle, break their connections, delete sessions, send nonsense.
//   dotnet run -c Release --project bench/Soak -- URL MODEL VISITORS MINUTES PID [--group CGROUP] [--budget BYTES] [--context TOKENS] [--seed N]
// PID is the server's: its memory, descriptors and threads are looked at every few seconds; while somebody has it stopped, times are left out. One line of JSON; exit code 1 where something was lost, wrong, hung, leaked or killed.
CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
if (args.Length < 5)
{
    Console.Error.WriteLine("URL MODEL VISITORS MINUTES PID [--group CGROUP] [--budget BYTES] [--context TOKENS] [--seed N]");
    return 2;
}
string url = args[0], model = args[1];
int visitors = int.Parse(args[2]), pid = int.Parse(args[4]), seed = int.Parse(Option("--seed") ?? "1"), context = int.Parse(Option("--context") ?? "1024");
TimeSpan time = TimeSpan.FromMinutes(double.Parse(args[3]));
using var client = new LoadClient(url, model, 2000, seed);
var tally = new Tally();
using var end = new CancellationTokenSource();

// Loads the model and warms up code, so that what is idle is known.
Visitor[] all = [.. Enumerable.Range(0, visitors).Select(i => new Visitor(i, seed, model, context, client, tally))];
for (int i = 0; i < 3; i++) await all[i % visitors].CanaryAsync(0);
if (tally.Count("answered") == 0)
{
    foreach (string line in tally.Why) Console.Error.WriteLine(line);
    Console.Error.WriteLine($"{url} answers nothing for {model}: there is nothing to watch");
    return 1;
}
var watch = new Watch(pid, Option("--group"), client.Http);
Dictionary<string, double> idle = await watch.GaugesAsync();
Sample before = watch.Look();

long start = Stopwatch.GetTimestamp();
Task watching = watch.RunAsync(TimeSpan.FromSeconds(Math.Clamp(time.TotalSeconds / 200, 1, 5)), end.Token);
Task noting = watch.NoteStopsAsync(end.Token);
Task[] running = [.. all.Select(v => Task.Run(() => v.LiveAsync(end.Token)))];
await Task.WhenAny(Task.Delay(time), Task.WhenAll(running));
await end.CancelAsync();
// Whoever is in the middle of something comes to its end, or is a hung one.
Task left = Task.WhenAll(running);
if (await Task.WhenAny(left, Task.Delay(Visitor.Patience + TimeSpan.FromMinutes(1))) != left) tally.Wrong("hung", $"{running.Count(static r => !r.IsCompleted)} visitors did not come back");
foreach (Task r in running.Where(static r => r.IsFaulted)) tally.Wrong("lost", r.Exception!.InnerException!.ToString());
double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
await Task.WhenAll(watching, noting);

// The house is empty: sessions are deleted, and every gauge is to be what it was.
int deleted = await Visitor.DeleteAllAsync(client.Http, tally);
string[] busy = await watch.IdleAsync(TimeSpan.FromSeconds(90));
foreach (string gauge in busy) tally.Wrong("leaked", gauge);
Sample after = watch.Look();
var sixths = watch.Sixths();
if (sixths.Last.Descriptors > sixths.First.Descriptors + visitors) tally.Wrong("leaked", $"{sixths.First.Descriptors} descriptors in the first sixth, {sixths.Last.Descriptors} in the last");
if (Option("--budget") is { } budget && watch.Most.Resident > long.Parse(budget)) tally.Wrong("budget", $"{watch.Most.Resident} bytes at most");
if (watch.Kills() is > 0 and var kills) tally.Wrong("killed", $"{kills} times");

double[] first = tally.Milliseconds(first: true, watch), gaps = tally.Milliseconds(first: false, watch);
Console.WriteLine(JsonSerializer.Serialize(new
{
    visitors,
    minutes = Math.Round(seconds / 60, 1),
    seed,
    requests = tally.Requests,
    answered = tally.Count("answered"),
    refused = tally.Count("refused"),
    cancelled = tally.Count("left"),
    disconnected = tally.Count("disconnected"),
    deleted = tally.Count("deleted"),
    resumed = tally.Count("resumed"),
    several = tally.Count("several"),
    compared = tally.Count("compared"),
    wrong = tally.Failures,
    tokens = tally.Tokens,
    stopped_s = Math.Round(watch.StoppedSeconds),
    tok_s = Math.Round(tally.Tokens / (seconds - watch.StoppedSeconds), 2),
    prompt_tokens = tally.Prompt,
    cached_tokens = tally.Cached,
    first_p50_ms = Tally.At(first, 0.5),
    first_p99_ms = Tally.At(first, 0.99),
    p50_ms = Tally.At(gaps, 0.5),
    p95_ms = Tally.At(gaps, 0.95),
    p99_ms = Tally.At(gaps, 0.99),
    rss_first = sixths.First.Resident,
    rss_last = sixths.Last.Resident,
    rss_most = watch.Most.Resident,
    group_first = sixths.First.Group,
    group_last = sixths.Last.Group,
    fds_first = sixths.First.Descriptors,
    fds_last = sixths.Last.Descriptors,
    fds_before = before.Descriptors,
    fds_after = after.Descriptors,
    threads_first = sixths.First.Threads,
    threads_last = sixths.Last.Threads,
    sessions_left = deleted,
    gauges_idle = busy.Length == 0,
    kills = watch.Kills(),
    kinds = tally.Kinds,
    idle_before = idle,
}));
foreach (string line in tally.Why) Console.Error.WriteLine(line);
return tally.Failures == 0 ? 0 : 1;

string? Option(string name) => Array.IndexOf(args, name) is >= 0 and var at ? args[at + 1] : null;
