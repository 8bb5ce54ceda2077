using System.Text;
using FlashOrleans.Abstractions;
using Microsoft.AspNetCore.Http;

namespace FlashOrleans.Silo.Http;

/// <summary>
/// Pieces to what goes over the wire, for a stream or in one. This class: what both interfaces have in common, text, reasons of ending, usage, and log-probabilities, which are held
/// back with the text of their tokens. One request at a time.
/// </summary>
internal abstract class Reply
{
    private readonly Job _job;
    private readonly Answer[] _answers;

    protected Reply(Job job, string prefix, DateTimeOffset now)
    {
        _job = job;
        _answers = [.. Enumerable.Range(0, job.Plan.Choices).Select(static i => new Answer(i))];
        Id = prefix + (job.Plan.TurnId ?? Guid.NewGuid()).ToString("N");
        Created = now.ToUnixTimeSeconds();
    }

    protected string Id { get; }
    protected long Created { get; }
    protected string Model => _job.Plan.Model;
    protected bool IncludeUsage => _job.Plan.IncludeUsage;
    /// <summary>Another package, another fingerprint: with a seed the same text comes only under the same one.</summary>
    protected string Fingerprint => $"fp_{_job.Model.Package[..12]}";

    /// <summary>Keeps a piece for <see cref="WriteAsync"/>.</summary>
    public void Keep(Piece piece)
    {
        Answer answer = _answers[piece.Choice];
        (string text, IReadOnlyList<TokenLog> logs) = Step(answer, piece.Chunk);
        answer.Text.Append(text);
        answer.Logs.AddRange(logs);
    }

    /// <summary>All in one.</summary>
    public Task WriteAsync(HttpResponse response) => WriteAsync(response, _answers, Usage());

    /// <summary>A piece as events, as many as it takes.</summary>
    public void Write(EventStream events, Piece piece)
    {
        Answer answer = _answers[piece.Choice];
        bool had = piece.Chunk.Index < _job.Plan.From;
        if (!answer.Begun && !had && piece.Chunk.Index == 0) WriteBegin(events, answer);
        answer.Begun = true;
        (string text, IReadOnlyList<TokenLog> logs) = Step(answer, piece.Chunk);
        // Whoever has the text of a chunk never gets it again; that it was the last is said as often as it is asked.
        int? id = _job.Plan.TurnId is null ? null : piece.Chunk.Index;
        if (!had && (text.Length > 0 || logs.Count > 0))
        {
            events.NextId = id;
            WriteText(events, answer, text, logs);
        }
        if (answer.Finish is null) return;
        events.NextId = id;
        WriteFinish(events, answer);
    }

    /// <summary>After the last piece.</summary>
    public void WriteEnd(EventStream events)
    {
        if (IncludeUsage) WriteUsage(events, Usage());
        events.WriteDone();
    }

    protected abstract Task WriteAsync(HttpResponse response, Answer[] answers, Usage usage);
    protected abstract void WriteBegin(EventStream events, Answer answer);
    protected abstract void WriteText(EventStream events, Answer answer, string text, IReadOnlyList<TokenLog> logs);
    protected abstract void WriteFinish(EventStream events, Answer answer);
    protected abstract void WriteUsage(EventStream events, Usage usage);

    private (string Text, IReadOnlyList<TokenLog> Logs) Step(Answer answer, TokenChunk chunk)
    {
        if (chunk.Finish != FinishReason.None)
        {
            answer.Finish = chunk.Finish == FinishReason.Stop ? "stop" : "length";
            answer.Usage = chunk.Usage;
        }
        if (!_job.Plan.Logs) return (chunk.Text, []);
        bool stopToken = chunk.Finish == FinishReason.Stop && chunk.StopString is null;
        if (chunk.TokenId >= 0 && !stopToken) answer.Held.Add(Log(chunk));
        // What a stop string took away has no probabilities either.
        if (chunk.StopString is not null && chunk.Text.Length == 0) answer.Held.Clear();
        if (answer.Held.Count == 0 || (chunk.Text.Length == 0 && chunk.Finish == FinishReason.None)) return (chunk.Text, []);
        TokenLog[] logs = [.. answer.Held];
        answer.Held.Clear();
        return (chunk.Text, logs);
    }

    private TokenLog Log(TokenChunk chunk)
    {
        float normalizer = chunk.Logit - chunk.LogProbability;
        (string token, int[] bytes) = Name(chunk.TokenId);
        return new TokenLog(token, Finite(chunk.LogProbability), bytes, [.. (chunk.Top ?? []).Select(t =>
        {
            (string name, int[] spelled) = Name(t.Id);
            return new TopLog(name, Finite(t.Logit - normalizer), spelled);
        })]);
    }

    private (string, int[]) Name(int token)
    {
        byte[] bytes = _job.Text!.TokenBytes(token);
        return (Encoding.UTF8.GetString(bytes), Array.ConvertAll(bytes, static b => (int)b));
    }

    /// <summary>JSON has no infinity; the interface's word for impossible.</summary>
    private static float Finite(float value) => float.IsFinite(value) ? value : -9999;

    private Usage Usage()
    {
        TurnUsage? first = _answers[0].Usage;
        int prompt = first?.PromptTokens ?? 0, generated = _answers.Sum(static a => a.Usage?.GeneratedTokens ?? 0);
        int drafted = _answers.Sum(static a => a.Usage?.DraftedTokens ?? 0), accepted = _answers.Sum(static a => a.Usage?.AcceptedTokens ?? 0);
        return new Usage(prompt, generated, prompt + generated, new PromptDetails(first?.CachedTokens ?? 0), new CompletionDetails(0, accepted, drafted - accepted));
    }

    /// <summary>One of the answers as far as it has come.</summary>
    internal sealed class Answer(int index)
    {
        public int Index => index;
        public StringBuilder Text { get; } = new();
        public List<TokenLog> Logs { get; } = [];
        /// <summary>Those of tokens whose text is held back.</summary>
        public List<TokenLog> Held { get; } = [];
        public bool Begun { get; set; }
        public string? Finish { get; set; }
        public TurnUsage? Usage { get; set; }
        /// <summary>Characters of the tokens so far (older interface).</summary>
        public int Offset { get; set; }
    }
}

/// <summary>/v1/chat/completions.</summary>
internal sealed class ChatReplies(Job job, DateTimeOffset now) : Reply(job, "chatcmpl-", now)
{
    private const string Chunk = "chat.completion.chunk";

    protected override Task WriteAsync(HttpResponse response, Answer[] answers, Usage usage) => WireJson.WriteAsync(response, new ChatReply(Id, "chat.completion", Created, Model, Fingerprint,
        Array.ConvertAll(answers, static a => new ChatChoice(a.Index, new MessageOut("assistant", a.Text.ToString(), null), Logs(a.Logs), a.Finish ?? "stop")), usage), WireJson.Shared.ChatReply);

    protected override void WriteBegin(EventStream events, Answer answer) => Write(events, answer, new Delta { Role = "assistant", Content = "" }, null, null);

    protected override void WriteText(EventStream events, Answer answer, string text, IReadOnlyList<TokenLog> logs) => Write(events, answer, new Delta { Content = text }, Logs(logs), null);

    protected override void WriteFinish(EventStream events, Answer answer) => Write(events, answer, new Delta(), null, answer.Finish);

    protected override void WriteUsage(EventStream events, Usage usage) =>
        events.Write(new ChatUsageChunk(Id, Chunk, Created, Model, Fingerprint, [], usage), WireJson.Shared.ChatUsageChunk);

    private void Write(EventStream events, Answer answer, Delta delta, ChatLogs? logs, string? finish)
    {
        ChatChunkChoice[] choices = [new(answer.Index, delta, logs, finish)];
        if (IncludeUsage) events.Write(new ChatUsageChunk(Id, Chunk, Created, Model, Fingerprint, choices, null), WireJson.Shared.ChatUsageChunk);
        else events.Write(new ChatChunk(Id, Chunk, Created, Model, Fingerprint, choices), WireJson.Shared.ChatChunk);
    }

    private static ChatLogs? Logs(IReadOnlyList<TokenLog> logs) => logs.Count == 0 ? null : new ChatLogs(logs);
}

/// <summary>/v1/completions.</summary>
internal sealed class TextReplies(Job job, DateTimeOffset now) : Reply(job, "cmpl-", now)
{
    private const string Object = "text_completion";

    protected override Task WriteAsync(HttpResponse response, Answer[] answers, Usage usage) => WireJson.WriteAsync(response, new TextUsageChunk(Id, Object, Created, Model, Fingerprint,
        Array.ConvertAll(answers, static a => new TextChoice(a.Index, a.Text.ToString(), Logs(a, a.Logs), a.Finish)), usage), WireJson.Shared.TextUsageChunk);

    protected override void WriteBegin(EventStream events, Answer answer)
    {
    }

    protected override void WriteText(EventStream events, Answer answer, string text, IReadOnlyList<TokenLog> logs) => Write(events, new TextChoice(answer.Index, text, Logs(answer, logs), null));

    protected override void WriteFinish(EventStream events, Answer answer) => Write(events, new TextChoice(answer.Index, "", null, answer.Finish));

    protected override void WriteUsage(EventStream events, Usage usage) =>
        events.Write(new TextUsageChunk(Id, Object, Created, Model, Fingerprint, [], usage), WireJson.Shared.TextUsageChunk);

    private void Write(EventStream events, TextChoice choice)
    {
        if (IncludeUsage) events.Write(new TextUsageChunk(Id, Object, Created, Model, Fingerprint, [choice], null), WireJson.Shared.TextUsageChunk);
        else events.Write(new TextChunk(Id, Object, Created, Model, Fingerprint, [choice]), WireJson.Shared.TextChunk);
    }

    private static TextLogs? Logs(Answer answer, IReadOnlyList<TokenLog> logs)
    {
        if (logs.Count == 0) return null;
        var offsets = new List<int>(logs.Count);
        foreach (TokenLog log in logs)
        {
            offsets.Add(answer.Offset);
            answer.Offset += log.Token.Length;
        }
        return new TextLogs([.. logs.Select(static l => l.Token)], [.. logs.Select(static l => l.Logprob)], [.. logs.Select(static l =>
        {
            // Tokens of half a character may share a name.
            var top = new Dictionary<string, float>(StringComparer.Ordinal);
            foreach (TopLog t in l.TopLogprobs) top.TryAdd(t.Token, t.Logprob);
            return top;
        })], offsets);
    }
}
