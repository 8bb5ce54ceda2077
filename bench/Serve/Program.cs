using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using FlashOrleans.Bench;

// Several clients of a server that speaks OpenAI's completions, measured from outside: the same requests for flash and for llama.cpp's server.
//   dotnet run -c Release --project bench/Serve -- URL MODEL SESSIONS PROMPT GENERATE [--long TOKENS] [--rounds N] [--alone] [--vocabulary N] [--seed N]
// SESSIONS requests at once, each with PROMPT token ids of its own and GENERATE tokens to come; --rounds: so many after each other in every session; --long: one more request with a prompt of so many tokens
// comes when all the others have begun; --alone: each request is made again afterwards, alone, and the texts must be equal. One line of JSON.
CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
if (args.Length < 5)
{
    Console.Error.WriteLine("URL MODEL SESSIONS PROMPT GENERATE [--long TOKENS] [--rounds N] [--alone] [--vocabulary N] [--seed N]");
    return 2;
}
int sessions = int.Parse(args[2]), prompt = int.Parse(args[3]), generate = int.Parse(args[4]);
int longTokens = Option("--long", 0), rounds = Option("--rounds", 1), vocabulary = Option("--vocabulary", 2000), seed = Option("--seed", 1);
using var client = new LoadClient(args[0], args[1], vocabulary, seed);

// Warms up connections, code, and the model's windows.
await client.AskAsync(-1, Math.Min(prompt, 16), Math.Min(generate, 8), null);
string?[,] texts = new string?[sessions, rounds];
int begun = 0;
var all = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
if (sessions == 0) all.SetResult();
long start = Stopwatch.GetTimestamp();
var answers = new List<Answer>();
Task[] running = [.. Enumerable.Range(0, sessions).Select(s => Task.Run(async () =>
{
    for (int r = 0; r < rounds; r++)
    {
        int round = r;
        Answer answer = await client.AskAsync(s * rounds + r, prompt, generate, () =>
        {
            if (round == 0 && Interlocked.Increment(ref begun) == sessions) all.TrySetResult();
        });
        texts[s, r] = answer.Text;
        lock (answers) answers.Add(answer);
    }
}))];
Answer? longOne = null;
if (longTokens > 0)
{
    await all.Task;
    longOne = await client.AskAsync(int.MaxValue, longTokens, 1, null);
}
await Task.WhenAll(running);
double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;

// Afterwards, so that no prompt is known when it is measured.
int different = 0;
for (int s = 0; args.Contains("--alone") && s < sessions; s++)
    for (int r = 0; r < rounds; r++)
        if ((await client.AskAsync(s * rounds + r, prompt, generate, null)).Text != texts[s, r]) different++;

// Beside the long prompt: gaps that end while it is being computed.
double[] gaps = Sorted(answers.SelectMany(static a => a.Gaps).Select(static g => g.Milliseconds));
double[] beside = longOne is null ? [] : Sorted(answers.SelectMany(static a => a.Gaps).Where(g => g.At > longOne.Asked && g.At < longOne.First).Select(static g => g.Milliseconds));
double[] first = Sorted(answers.Select(static a => a.Milliseconds(a.First)));
int tokens = answers.Sum(static a => a.Tokens);
long from = answers.Count == 0 ? 0 : answers.Max(static a => a.First), to = answers.Count == 0 ? 0 : answers.Min(static a => a.Last);
double together = to > from ? answers.Sum(a => a.Between(from, to)) / Stopwatch.GetElapsedTime(from, to).TotalSeconds : 0;
Console.WriteLine(JsonSerializer.Serialize(new
{
    sessions,
    prompt,
    generate,
    rounds,
    seconds = Math.Round(seconds, 3),
    tokens,
    tok_s = Math.Round(tokens / seconds, 2),
    cached = answers.Sum(static a => a.Cached),
    tok_s_together = Math.Round(together, 2),
    first_p50_ms = At(first, 0.5),
    first_max_ms = At(first, 1),
    p50_ms = At(gaps, 0.5),
    p95_ms = At(gaps, 0.95),
    p99_ms = At(gaps, 0.99),
    different_alone = args.Contains("--alone") ? different : (int?)null,
    long_prompt = longOne is null ? null : (object)new
    {
        tokens = longTokens,
        cached = longOne.Cached,
        seconds = Math.Round(Stopwatch.GetElapsedTime(longOne.Asked, longOne.First).TotalSeconds, 3),
        tok_s = Math.Round(longTokens / Stopwatch.GetElapsedTime(longOne.Asked, longOne.First).TotalSeconds, 1),
        others_p50_ms = At(beside, 0.5),
        others_p99_ms = At(beside, 0.99),
        others = beside.Length,
    },
}));
return different > 0 ? 1 : 0;

int Option(string name, int otherwise) => Array.IndexOf(args, name) is >= 0 and var at ? int.Parse(args[at + 1]) : otherwise;

static double[] Sorted(IEnumerable<double> values) => [.. values.Order()];

static double? At(double[] sorted, double share) => sorted.Length == 0 ? null : Math.Round(sorted[Math.Min(sorted.Length - 1, (int)(share * sorted.Length))], 2);
