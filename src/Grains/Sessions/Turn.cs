using FlashOrleans.Abstractions;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Grains;

/// <summary>
/// One turn in memory: its chunks, numbered from 0, and who reads them. Owned by the session grain's scheduler. Of a turn that is kept readers see what is written (<see cref="Show"/>), of
/// another one everything at once. Chunks stay until the next turn, so that a reader can come back at any index. The text of a chunk follows from the generated tokens up to it, so a turn rebuilt from a record shows the same.
/// </summary>
internal sealed class Turn
{
    private readonly List<TokenChunk> _chunks = [];
    private readonly HashSet<int> _stops;
    private readonly StreamingDecoder? _decoder;
    private readonly StopStrings? _stopStrings;
    private readonly TimeProvider _time;
    private readonly long _started;
    private readonly float[]? _nll;
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private TimeSpan _first;
    private long _activity;
    private int _taken;
    private bool _gone;

    public Turn(TurnRecord record, bool kept, IEnumerable<int> stops, TextCodec? text, TimeProvider time, long started)
    {
        Record = record;
        Kept = kept;
        _stops = [.. stops];
        _decoder = text is null ? null : new StreamingDecoder(text);
        if (text is not null && record.Request.StopStrings is { Length: > 0 } strings) _stopStrings = new StopStrings(strings);
        _time = time;
        _started = started;
        _activity = time.GetTimestamp();
        if (record.Request.Score)
        {
            _nll = new float[record.PromptTokens];
            Array.Fill(_nll, float.NaN);
        }
    }

    public TurnRecord Record { get; private set; }
    /// <summary>Hash of the package it runs on.</summary>
    public string Package { get; set; } = "";
    /// <summary>What the answer will probably be. Not kept: a turn that is brought back does without.</summary>
    public ExpectedText? Expected { get; init; }
    public TurnRequest Request => Record.Request;
    public Guid Id => Request.TurnId;
    public IReadOnlyList<TokenChunk> Chunks => _chunks;
    public bool Over => Record.Finish != FinishReason.None;
    /// <summary>Its tokens are stored before they are shown.</summary>
    public bool Kept { get; }
    /// <summary>Chunks that readers may see.</summary>
    public int Shown { get; private set; }
    /// <summary>Nothing more will be shown here: over, or gone elsewhere.</summary>
    public bool Ended => _gone || (Over && Shown == _chunks.Count);
    /// <summary>It ended with <see cref="Fail"/>.</summary>
    public bool Failed { get; private set; }
    public int Generated { get; private set; }
    /// <summary>Guesses that were verified, and those that became tokens.</summary>
    public int Drafted { get; set; }
    public int Accepted { get; set; }
    public int Readers { get; private set; }
    /// <summary>Chunks that nobody has taken.</summary>
    public int Unread => _chunks.Count - _taken;

    /// <summary>A generated token becomes a chunk; it may be the last one (a stop token, or enough of them).</summary>
    public void Add(int token, StepOutcome? outcome, bool contextFull)
    {
        FinishReason finish = _stops.Contains(token) ? FinishReason.Stop
            : Generated + 1 >= Request.MaxTokens || contextFull ? FinishReason.Length
            : FinishReason.None;
        string text = finish == FinishReason.Stop ? "" : _decoder?.Next(token) ?? "";
        if (_stopStrings is not null)
        {
            text = _stopStrings.Next(text);
            if (_stopStrings.Found is not null) finish = FinishReason.Stop;
        }
        if (Generated++ == 0) _first = Elapsed;
        Push(token, text, outcome, finish, null);
    }

    /// <summary>The turn is over without a further token.</summary>
    public void End(FinishReason finish, string? error = null, StepOutcome? outcome = null) => Push(-1, "", outcome, finish, error);

    /// <summary>How much of the input was computed already.</summary>
    public void Cached(int tokens) => Record = Record with { CachedTokens = Math.Min(tokens, Record.PromptTokens - 1) };
    /// <summary>The turn is over because chunks could not be stored: who reads never sees them.</summary>
    public void Fail(string error)
    {
        Failed = true;
        _chunks.RemoveRange(Shown, _chunks.Count - Shown);
        Generated = _chunks.Count;
        _taken = Math.Min(_taken, _chunks.Count);
        Push(-1, "", null, FinishReason.Failed, error);
    }

    /// <summary>Readers may see so many chunks.</summary>
    public void Show(int count)
    {
        if (count <= Shown) return;
        Shown = Math.Min(count, _chunks.Count);
        Changed();
    }

    public void ShowAll() => Show(_chunks.Count);

    /// <summary>It goes on elsewhere: readers are sent away.</summary>
    public void Lose()
    {
        _gone = true;
        Changed();
    }

    /// <summary>Likelihoods of a scored chunk whose last position is before <paramref name="end"/>.</summary>
    public void Score(int end, float[] nll)
    {
        if (_nll is null) return;
        int start = end - nll.Length;
        for (int i = 0; i < nll.Length; i++)
        {
            if ((uint)(start + i) < (uint)_nll.Length) _nll[start + i] = nll[i];
        }
    }

    /// <summary>A reader came: what is before its first index it has.</summary>
    public void Enter(int from)
    {
        Readers++;
        Taken(Math.Min(from, _chunks.Count));
    }

    /// <summary>A reader left: one that is to be waited for from now on, but not a silent one with chunks waiting for it.</summary>
    public void Leave(TimeSpan silence)
    {
        Readers--;
        if (Unread == 0 || Silence < silence) Touch();
    }

    public void Taken(int count)
    {
        if (count > _taken) _taken = count;
        Touch();
    }

    /// <summary>Nobody reads, or who reads takes nothing, for that long.</summary>
    public bool Abandoned(TimeSpan lease) => !Over && (Readers == 0 || Unread > 0) && Silence >= lease;

    /// <summary>Waits for the next chunk. False when none came for so long.</summary>
    public async Task<bool> ChangedAsync(TimeSpan patience, CancellationToken cancellationToken)
    {
        try
        {
            await _changed.Task.WaitAsync(patience, _time, cancellationToken);
            return true;
        }
        catch (TimeoutException)
        {
            return false;
        }
    }

    private TimeSpan Elapsed => _time.GetElapsedTime(_started);
    private TimeSpan Silence => _time.GetElapsedTime(_activity);
    private void Touch() => _activity = _time.GetTimestamp();

    private void Push(int token, string text, StepOutcome? outcome, FinishReason finish, string? error)
    {
        bool last = finish != FinishReason.None;
        if (last)
        {
            // Text that was held back may be that of tokens which are gone.
            if (!Failed) text += _stopStrings is null ? _decoder?.Flush() : _stopStrings.End(_decoder!.Flush());
            if (finish == FinishReason.Length && _stopStrings?.Found is not null) finish = FinishReason.Stop;
            Record = Record with { Finish = finish, Error = error };
        }
        _chunks.Add(new TokenChunk
        {
            Index = _chunks.Count,
            TokenId = token,
            Text = text,
            Elapsed = Elapsed,
            LogProbability = outcome?.LogProbability ?? 0,
            Logit = outcome?.Logit ?? 0,
            Top = outcome?.Top,
            Finish = finish,
            Error = error,
            StopString = last ? _stopStrings?.Found : null,
            InputNll = last ? _nll : null,
            Usage = !last ? null : new TurnUsage
            {
                PromptTokens = Record.PromptTokens,
                CachedTokens = Record.CachedTokens,
                GeneratedTokens = Generated,
                TimeToFirstToken = _first,
                Total = Elapsed,
                DraftedTokens = Drafted,
                AcceptedTokens = Accepted,
            },
        });
        if (!Kept) ShowAll();
    }

    private void Changed()
    {
        TaskCompletionSource changed = _changed;
        _changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        changed.SetResult();
    }
}
