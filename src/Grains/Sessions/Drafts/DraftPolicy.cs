namespace FlashOrleans.Grains;

/// <summary>Where a guess comes from, and how much is to be believed of it: places in the session's own tokens by how much was alike, what the client expects, a draft model.</summary>
internal enum DraftSource { Lookup2, Lookup3, Lookup4, Lookup8, Prediction, Model }

/// <summary>
/// How many drafts to verify in the next step: as many as make the most tokens a second by what was measured, none where none pay. Expected tokens of a step with k drafts are 1 + a₁ + a₁a₂ + … + a₁…a_k, with
/// a_j the share of j-th drafts that were right when those before them were; its time is that of 1 + k rows and of making the drafts. What is right is learned from every token that comes, whether its guess was
/// verified or not; what a step costs only by doing it, so now and then another number is tried. Pure: no clock; one session's, one owner at a time.
/// </summary>
internal sealed class DraftPolicy(StepTimes times)
{
    public const int MostDrafts = 8;
    /// <summary>What a gain must be at least: below it noise would decide.</summary>
    private const double LeastGain = 1.03;
    private const double Memory = 0.95, PriorWeight = 2;
    /// <summary>Steps from one trial to the next: while drafts pay, and at least and at most while they do not.</summary>
    private const int TrialWhileOn = 48, LeastPause = 16, MostPause = 256;
    private static readonly double[] s_prior = [0.3, 0.4, 0.55, 0.75, 0.75, 0.6];

    private readonly double[] _right = new double[s_prior.Length * MostDrafts];
    private readonly double[] _tries = new double[s_prior.Length * MostDrafts];
    private readonly double[] _seconds = new double[StepTimes.MostRows + 1];
    private int _sinceTrial, _pause = LeastPause, _trials;

    /// <summary>Of the drafts at this place (from 0) that came to be asked for, the share that was right.</summary>
    public double Acceptance(DraftSource source, int place)
    {
        int i = (int)source * MostDrafts + place;
        return (_right[i] + PriorWeight * s_prior[(int)source]) / (_tries[i] + PriorWeight);
    }

    /// <summary>The draft at this place met its token.</summary>
    public void Learn(DraftSource source, int place, bool right)
    {
        if ((uint)place >= MostDrafts) return;
        int i = (int)source * MostDrafts + place;
        _right[i] = Memory * _right[i] + (right ? 1 : 0);
        _tries[i] = Memory * _tries[i] + 1;
    }

    /// <summary>Tokens a second that the best number of drafts would give over what none gives (1: none is best), and that number.</summary>
    /// <param name="source">Whose drafts.</param>
    /// <param name="available">So many there are at most.</param>
    /// <param name="draftSeconds">What making one of them takes.</param>
    /// <param name="drafts">The best number.</param>
    public double Gain(DraftSource source, int available, double draftSeconds, out int drafts)
    {
        drafts = 0;
        if (available <= 0 || !times.TryGet(_seconds)) return 1;
        double tokens = 1, reached = 1, best = 1;
        for (int k = 1; k <= Math.Min(available, MostDrafts); k++)
        {
            reached *= Acceptance(source, k - 1);
            tokens += reached;
            double gain = tokens * _seconds[1] / (_seconds[1 + k] + k * draftSeconds);
            if (gain > best) (best, drafts) = (gain, k);
        }
        if (best >= LeastGain) return best;
        drafts = 0;
        return 1;
    }

    /// <summary>The number for the next step: the best one, or now and then another, to see what it costs now. Call once a step.</summary>
    public int Choose(DraftSource source, int available, double draftSeconds = 0)
    {
        Gain(source, available, draftSeconds, out int best);
        if (available <= 0 || !times.TryGet(_seconds)) return 0;
        _sinceTrial++;
        if (best > 0)
        {
            _pause = LeastPause;
            if (_sinceTrial < TrialWhileOn) return best;
            _sinceTrial = 0;
            // In turn: none, one more, one fewer.
            return Math.Clamp((_trials++ % 3) switch { 0 => 0, 1 => best + 1, _ => best - 1 }, 0, Math.Min(available, MostDrafts));
        }
        // What is never right is not tried, whatever it might cost.
        if (_sinceTrial < _pause || Acceptance(source, 0) < 0.2) return 0;
        _sinceTrial = 0;
        _pause = Math.Min(2 * _pause, MostPause);
        return Math.Min(available, _trials++ % 2 == 0 ? 2 : 4);
    }
}
