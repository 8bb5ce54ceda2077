using System.Security.Cryptography;
using FlashOrleans.Abstractions;
using Microsoft.Extensions.Logging;
using Orleans.Runtime;
using Orleans.Storage;

namespace FlashOrleans.Grains;

// What is kept of the session, and when its readers see it. A token is written before it is shown, and while the next one is computed: of a session at most one write of tokens is under way, and
// what comes meanwhile goes with the next. The start and the end of a turn are synced. Another activation that took the session over makes every write of this one fail: it says so and leaves.
internal sealed partial class SessionGrain
{
    private readonly SessionState _state = new();
    private SessionKey _row;
    private TokensWrite _tokens = null!;
    private bool _writing, _lost;
    private SessionStoreException? _unusable;
    /// <summary>The end of the last turn on its way to the store; never fails.</summary>
    private Task _saving = Task.CompletedTask;

    /// <summary>Takes the session over: what an earlier activation left under way is old, and what it writes from now on is nothing.</summary>
    private async Task<(int Epoch, int[] Tokens)> TakeAsync()
    {
        _row = new SessionKey(_id.ToByteArray(), BitConverter.ToInt64(RandomNumberGenerator.GetBytes(sizeof(long))));
        _tokens = new TokensWrite(_row, _scheduler, Written);
        int least = NextEpoch(0);
        try
        {
            SessionKey row = _row;
            StoredSession? stored = await _store.WriteAsync(tables => tables.Take(row, least));
            if (stored is null) return (least, []);
            (int[] tokens, int[] lengths) = await _store.ReadAsync(tables => tables.Tokens(row.Id));
            (_state.Stored, _state.Package, _state.Used, _state.Lengths) = (true, stored.Package, stored.Used, lengths);
            (_state.Written, _state.FirstLength) = (tokens.Length, lengths.Length == 0 ? 0 : lengths[0]);
            _state.Turn = _records.Deserialize(stored.Turn);
            if (_state.Turn is { Start: not 0 } turn) _state.Start = turn.Start;
            return (stored.Epoch, tokens);
        }
        catch (SessionStoreException e)
        {
            // An activation that fails would tell its callers nothing.
            _unusable = e;
            return (least, []);
        }
    }

    /// <summary>Throws where this activation must not serve anybody any more.</summary>
    private void CheckOwner()
    {
        if (_unusable is { } error)
        {
            DeactivateOnIdle();
            throw new SessionStoreException(error.Message);
        }
        if (_lost) throw Elsewhere();
    }

    /// <summary>A turn begins on the history as it is: written and synced when this completes. What cannot be written leaves the session as it was stored.</summary>
    private async Task StoreBeginAsync(string package, TurnRecord record, int common)
    {
        try
        {
            await StoreTurnAsync(package, record, Math.Min(common, _state.Written));
        }
        catch (SessionStoreException e)
        {
            // The history in memory is that of a turn that never began.
            _unusable = e;
            DeactivateOnIdle();
            throw;
        }
    }

    /// <summary>The tokens of the running turn that are not written yet: now, or with those that follow.</summary>
    private void StoreTokens()
    {
        if (_writing || _lost || _turn is not { Over: false, Kept: true } || Unwritten() >= _timeline.Length) return;
        _writing = true;
        _store.Submit(_tokens.Fill(Unwritten(), _timeline.Tokens, _timeline.Lengths));
    }

    /// <summary>The writer is done with a write of tokens; grain's scheduler.</summary>
    private void Written()
    {
        _writing = false;
        if (_tokens.Error is { } error) Unwritable(error);
        else if (!_tokens.Owned) Lose();
        else
        {
            (_state.Written, _state.FirstLength) = (_tokens.End, _tokens.FirstLength);
            if (_turn is { Kept: true } turn) turn.Show(_state.Written - turn.Record.PromptTokens);
            StoreTokens();
        }
    }

    /// <summary>The turn is over: its last chunk is shown when the end is written.</summary>
    private void StoreEnd()
    {
        if (_turn is { Kept: true } turn && !_lost) _saving = SaveAsync(turn);
    }

    private async Task SaveAsync(Turn turn)
    {
        try
        {
            try
            {
                await StoreTurnAsync(turn.Package, turn.Record, turn.Record.PromptTokens);
            }
            catch (SessionStoreException e) when (!turn.Failed)
            {
                _logger.LogError(e, "session {Session}: the end of a turn could not be written", _id);
                CutBack(turn, e);
                await StoreTurnAsync(turn.Package, turn.Record, turn.Record.PromptTokens);
            }
        }
        catch (SessionStoreException e)
        {
            _logger.LogError(e, "session {Session}: the failure of a turn could not be written", _id);
        }
        catch (InconsistentStateException)
        {
            return;
        }
        turn.ShowAll();
    }

    /// <summary>One synced write: the row, and the history from a position on.</summary>
    private async Task StoreTurnAsync(string package, TurnRecord record, int from)
    {
        int first = _timeline.Lengths.Length == 0 ? 0 : _timeline.Lengths[0], length = _timeline.Length;
        TokenRun tokens = TokensWrite.Run(first == _state.FirstLength ? Math.Min(from, length) : 0, _timeline.Tokens, _timeline.Lengths);
        var row = new TurnRow
        {
            Epoch = _timeline.Epoch,
            Package = package,
            Model = record.Request.Model,
            Now = _time.GetUtcNow().ToUnixTimeMilliseconds(),
            Turn = record.Request.TurnId,
            Over = record.Finish != FinishReason.None,
            Record = _records.SerializeToArray(record),
            New = !_state.Stored,
        };
        SessionKey key = _row;
        if (!await _store.WriteAsync(tables => tables.Write(key, row, tokens), syncs: true))
        {
            Lose();
            throw Elsewhere();
        }
        if (row.New) _store.Added();
        (_state.Stored, _state.Used, _state.Written, _state.FirstLength) = (true, row.Now, length, first);
    }

    /// <summary>Before this activation leaves memory: tokens that came since the last write.</summary>
    private async Task StoreRestAsync()
    {
        try
        {
            if (!_lost && _turn is { Over: false, Kept: true })
            {
                TokenRun rest = TokensWrite.Run(_writing ? _tokens.End : Unwritten(), _timeline.Tokens, _timeline.Lengths);
                SessionKey key = _row;
                if (rest.Ids.Length > 0) await _store.WriteAsync(tables => tables.Append(key, rest));
            }
        }
        catch (SessionStoreException e)
        {
            _logger.LogWarning(e, "session {Session}: its last tokens could not be written and are computed again", _id);
        }
        await _saving;
    }

    private async Task StoreCloseAsync()
    {
        await _saving;
        SessionKey key = _row;
        if (_state.Stored && !await _store.WriteAsync(tables => tables.Delete(key)))
        {
            Lose();
            throw Elsewhere();
        }
        (_state.Stored, _state.Package, _state.Turn, _state.Lengths, _state.Written, _state.FirstLength) = (false, "", null, [], 0, 0);
    }

    /// <summary>The store failed under a running turn: it ends with what is written.</summary>
    private void Unwritable(SessionStoreException error)
    {
        if (_turn is not { Over: false } turn) return;
        _logger.LogError(error, "session {Session}: a turn ends because its tokens cannot be written", _id);
        CutBack(turn, error);
        Ended();
    }

    private void CutBack(Turn turn, SessionStoreException error)
    {
        GiveUpStep();
        _timeline.Truncate(Math.Max(_state.Written, turn.Record.PromptTokens));
        turn.Fail(error.Message);
    }

    /// <summary>Another activation took the session over, in another silo that believes this one dead or in another cluster on the same file: it is the one to ask.</summary>
    private void Lose()
    {
        if (_lost) return;
        _lost = true;
        _logger.LogWarning("session {Session} was continued elsewhere: this activation leaves", _id);
        StopClock();
        _turn?.Lose();
        DeactivateOnIdle();
    }

    private InconsistentStateException Elsewhere() => new($"session {_id} was continued elsewhere meanwhile; send the turn again");

    /// <summary>Position of the first token that the store does not hold; 0 where all of them are computed for another length than it knows.</summary>
    private int Unwritten() => _timeline.Lengths.Length > 0 && _timeline.Lengths[0] != _state.FirstLength ? 0 : _state.Written;

    /// <summary>Newer than the last one known, and than any that a lost record may have held: at least the seconds since 2025.</summary>
    private int NextEpoch(int last) => Math.Max(last + 1, (int)(_time.GetUtcNow() - new DateTimeOffset(2025, 1, 1, 0, 0, 0, TimeSpan.Zero)).TotalSeconds);
}
