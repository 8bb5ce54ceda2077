namespace FlashOrleans.Grains;

/// <summary>
/// How long a step of decoding takes by the rows that a session brings, as its sessions have measured it: one per package and silo, so that a new session knows from the start. Any thread.
/// A dense sweep takes the same for one row or five, a sparse layer reads more for each, and company or a slow minute changes them all: so a measurement moves the number
/// of its own rows, and less all the others; and more rows never take less time than fewer.
/// </summary>
internal sealed class StepTimes
{
    public const int MostRows = 1 + DraftPolicy.MostDrafts;
    private const double Own = 0.25, Common = 0.12;
    private readonly Lock _gate = new();
    /// <summary>By rows; 0: never measured.</summary>
    private readonly double[] _seconds = new double[MostRows + 1];
    private long _drafted, _accepted;

    /// <summary>Drafts that were verified, and those that were right, since the silo started.</summary>
    public (long Drafted, long Accepted) Drafts => (Interlocked.Read(ref _drafted), Interlocked.Read(ref _accepted));

    public void Count(int drafted, int accepted)
    {
        Interlocked.Add(ref _drafted, drafted);
        Interlocked.Add(ref _accepted, accepted);
    }

    public void Add(int rows, double seconds)
    {
        if (rows is < 1 or > MostRows || !(seconds > 0)) return;
        lock (_gate)
        {
            if (_seconds[rows] == 0)
            {
                _seconds[rows] = seconds;
                return;
            }
            // One step that waited for something rare says little.
            double change = Math.Log(Math.Clamp(seconds / _seconds[rows], 0.25, 4));
            double all = Math.Exp(Common * change);
            for (int r = 1; r <= MostRows; r++) _seconds[r] *= all;
            _seconds[rows] *= Math.Exp(Own * change);
            for (int r = 1; r <= MostRows; r++)
            {
                if (_seconds[r] == 0) continue;
                _seconds[r] = r < rows ? Math.Min(_seconds[r], _seconds[rows]) : Math.Max(_seconds[r], _seconds[rows]);
            }
        }
    }

    /// <summary>Seconds by rows from 1 on: measured, or between what was measured, or beyond it along the same line. False while a step of one row was never measured.</summary>
    public bool TryGet(Span<double> seconds)
    {
        lock (_gate)
        {
            if (_seconds[1] == 0) return false;
            int known = 1;
            double slope = 0;
            for (int rows = 1; rows <= MostRows; rows++)
            {
                if (_seconds[rows] == 0) continue;
                if (rows > known) slope = (_seconds[rows] - _seconds[known]) / (rows - known);
                for (int between = known + 1; between < rows; between++) seconds[between] = _seconds[known] + slope * (between - known);
                seconds[rows] = _seconds[rows];
                known = rows;
            }
            for (int rows = known + 1; rows <= MostRows; rows++) seconds[rows] = _seconds[known] + Math.Max(0, slope) * (rows - known);
            return true;
        }
    }
}
