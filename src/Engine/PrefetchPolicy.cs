namespace FlashOrleans.Engine;

/// <summary>
/// How far look-ahead may go for one layer. Pure state without a clock; <see cref="Decide"/> is asked once per step by whoever would predict, <see cref="Admit"/> runs in a turn of the layer's prefetch grain (or on the
/// conductor when the engine runs alone), <see cref="Observe"/> on the conductor. Look-ahead is wanted while the layer's steps miss something and prefetched units
/// get used; otherwise it turns itself down to one probe in sixteen steps, so that it costs next to nothing and notices when things change.
/// </summary>
public sealed class PrefetchPolicy
{
    private const double Memory = 0.9;
    /// <summary>Below this share of prefetched units that a step used, reading ahead takes more from demand than it gives.</summary>
    private const double UsefulFloor = 0.4;
    private const int ProbeEvery = 16;
    // Not a Lock: that one makes its event on the thread that first finds it taken, in the middle of a step.
    private readonly object _gate = new();
    private double _misses = 1;
    private double _useful = 1;
    private double _neededPerRow;
    private int _sinceProbe;

    /// <summary>Most units asked for at once: what the window can give to one step.</summary>
    public int MaxUnits { get; internal set; } = 256;

    /// <summary>Whether to predict for the step that comes: false while the layer's recent steps missed next to nothing, and while look-ahead proved useless but for
    /// every sixteenth call. Asked once per step: asking counts.</summary>
    public bool Decide()
    {
        lock (_gate)
        {
            if (_misses < 0.5) return false;
            if (_useful >= UsefulFloor) return true;
            if (++_sinceProbe < ProbeEvery) return false;
            _sinceProbe = 0;
            return true;
        }
    }

    /// <summary>Share of prefetched units that were used, recent steps weighing most.</summary>
    public double Usefulness
    {
        get { lock (_gate) return _useful; }
    }

    /// <summary>Most guesses come true.</summary>
    public bool IsSure
    {
        get { lock (_gate) return _useful >= 0.5; }
    }

    /// <summary>Of <paramref name="predicted"/> units, how many to ask for now: a few while the layer is on probation.</summary>
    public int Admit(int predicted)
    {
        lock (_gate) return Math.Min(predicted, _useful >= UsefulFloor ? MaxUnits : 4);
    }

    /// <summary>How many units to predict for a wave of so many rows: as many as steps have lately needed, half as many again while most guesses come true, all of them
    /// while nearly all do.</summary>
    public int Budget(int rows)
    {
        lock (_gate)
        {
            if (_neededPerRow == 0 || _useful >= 0.9) return MaxUnits;
            return (int)Math.Ceiling(_neededPerRow * rows * (_useful >= 0.5 ? 1.5 : 1));
        }
    }

    /// <summary>Feedback of a step: rows and units it needed, those of them that the window did not hold when look-ahead began, units prefetched for it, and how many of those it used.</summary>
    public void Observe(int rows, int needed, int missing, int prefetched, int useful)
    {
        lock (_gate)
        {
            double perRow = (double)needed / Math.Max(1, rows);
            _neededPerRow = _neededPerRow == 0 ? perRow : Memory * _neededPerRow + (1 - Memory) * perRow;
            _misses = Memory * _misses + (1 - Memory) * missing;
            if (prefetched > 0) _useful = Memory * _useful + (1 - Memory) * Math.Min(1.0, (double)useful / prefetched);
        }
    }
}
