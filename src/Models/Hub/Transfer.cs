namespace FlashOrleans.Models.Hub;

/// <summary>Why a file is begun again. Each may happen once; a second time it is the end.</summary>
internal enum Restart { None, NoRanges, Changed, Damaged }

/// <summary>One file on its way, over one or more rounds: in each round its missing ranges are fetched as pieces by several connections, which meet here. Any thread.</summary>
internal sealed class Transfer(HubFile file, PartFile part) : IDisposable
{
    private readonly Lock _gate = new();
    private readonly HashSet<Restart> _restarted = [];
    private string? _etag;
    private int _left;
    private volatile Restart _restart;
    private volatile bool _ranges;
    private bool _spoiled;

    public HubFile File { get; } = file;
    public PartFile Part { get; } = part;
    public bool Done { get; private set; }
    /// <summary>The server does not do ranges: one request for everything.</summary>
    public bool Whole { get; private set; }
    /// <summary>The server has answered one range: what arrived before a cut counts.</summary>
    public bool Ranges => _ranges;
    /// <summary>Whatever else arrives in this round is of no use.</summary>
    public bool Restarting => _restart != Restart.None;

    /// <summary>The pieces of a new round.</summary>
    public List<Piece> Begin(int pieceBytes)
    {
        if (_restart == Restart.NoRanges) Whole = true;
        if (_restart != Restart.None) Part.Clear();
        _restart = Restart.None;
        _etag = File.ETag;
        List<(long From, long To)> ranges = Part.Missing(Whole ? long.MaxValue / 2 : pieceBytes);
        _left = ranges.Count;
        return [.. ranges.Select(r => new Piece(this, r.From, r.To))];
    }

    /// <summary>True for the caller that brought the last piece.</summary>
    public bool PieceDone() => Interlocked.Decrement(ref _left) == 0 && !Restarting;

    public void Complete()
    {
        Part.Complete();
        Done = true;
    }

    /// <summary>Gives this round up, or, the second time for the same reason, the file.</summary>
    public void Again(Restart why, string explanation)
    {
        lock (_gate)
        {
            // Several connections may find something; the first says what.
            if (Restarting) return;
            if (!_restarted.Add(why))
            {
                _spoiled = true;
                throw new HubException($"{File.Label}: {explanation}");
            }
            _restart = why;
        }
    }

    /// <summary>Is this the answer to the question? False: the round is given up.</summary>
    public bool Accept(HubResponse response, Piece piece, bool asRange)
    {
        string host = response.Url.Authority;
        if (response.LinkedSize is { } linked && linked != File.Size)
            throw new HubException($"{File.Label}: the repository lists {File.Size} bytes and offers {linked}; it may just have changed, run the command again");
        if (File.Sum != null && Checksum.Sha256(response.LinkedETag) is { } sum && File.Sum.IsSha256 && sum != File.Sum)
            throw new HubException($"{File.Label}: the repository lists other content than it offers; it may just have changed, run the command again");
        bool partial = response.Status == System.Net.HttpStatusCode.PartialContent;
        if (partial)
        {
            long at = piece.From + piece.Done;
            if (!asRange || response.Range is not { HasRange: true } range || range.From != at || range.To != piece.To - 1 || (range.HasLength && range.Length != File.Size))
                throw new HubException($"{File.Label}: {host} answers another range ({response.Range?.ToString() ?? "unnamed"} for bytes {at}-{piece.To - 1}/{File.Size})");
            _ranges = true;
        }
        else if (asRange)
        {
            if (piece.From != 0 || piece.To != File.Size)
            {
                Again(Restart.NoRanges, "the server answers ranges with whole files");
                return false;
            }
            piece.StartOver();
        }
        long expected = piece.To - piece.From - piece.Done;
        if (response.Length is { } length && length != expected)
            throw new HubException($"{File.Label}: {host} announces {length} bytes where {expected} were listed; what it sends is not this file");
        lock (_gate)
        {
            _etag ??= response.ETag;
            if (response.ETag == null || response.ETag == _etag) return true;
            // Servers of one name may not agree on a tag; where there is a sum, it has the last word.
            if (File.Sum != null && _restarted.Contains(Restart.Changed)) return true;
        }
        Again(Restart.Changed, $"{host} changes the file while it is downloaded; run the command again later");
        return false;
    }

    /// <summary>When no connection uses it any more.</summary>
    public void Dispose()
    {
        if (_spoiled) Part.Discard();
        else Part.Dispose();
    }
}

/// <summary>A range of a file that one connection fetches.</summary>
internal sealed class Piece(Transfer transfer, long from, long to)
{
    public Transfer Transfer { get; } = transfer;
    public long From { get; } = from;
    public long To { get; } = to;
    /// <summary>Bytes from <see cref="From"/> that are written.</summary>
    public long Done { get; set; }
    /// <summary>Of those, in the journal.</summary>
    public long Noted { get; set; }
    public bool IsComplete => From + Done == To;

    public void StartOver() => Done = Noted = 0;
}
