namespace FlashOrleans.Engine;

/// <summary>What the scheduler knows of one layer. The conductor says before every choice what there is to do; the rest is the scheduler's.</summary>
internal sealed class Pending(object model, int index, int layers)
{
    /// <summary>Layers of one model follow each other in a circle: behind the last one comes the first, with the next token.</summary>
    public object Model => model;
    public int Index => index;
    public int Layers => layers;

    /// <summary>It could do decode or prefill work now.</summary>
    public bool Decode, Prefill;
    /// <summary>No step runs in it: decode work would begin one.</summary>
    public bool Idle;
    /// <summary>Tokens of decode work here, running or waiting.</summary>
    public int Rows;

    /// <summary>Rows that should arrive before this moment.</summary>
    internal int Expected;
    internal long ExpectedUntil;
    /// <summary>Times in a row that it was ready and another was chosen.</summary>
    internal int DecodePassed, PrefillPassed;
    /// <summary>Its decode work could run now and is not held.</summary>
    internal bool Ready;
}

/// <summary>
/// Which layer runs next, and whether its decode or its prefill work: a pure choice over what is ready, called by the conductor before every step. No clock and no threads of its own.
/// Decode before prefill; decode at the deepest layer first, which is soonest done, prefill at the shallowest, where prompts meet. Waves of decode do not chase each other around the model, each reading every layer for itself: the one ahead is held until the one
/// behind it, at most half the circle, has caught up, and they go on as one. A wave that is on its way between two layers, or whose results have just left, is waited for a little
/// (<see cref="Expect"/>). Prefill has the time that decode leaves, and where both want it a share: see <see cref="PrefillMay"/>. Nobody starves: holding spends a credit that other steps earn slowly, so that at most a fifth of a model's steps can pass while a wave is held, whatever keeps
/// arriving behind it; and work that was ready and passed over <see cref="Patience"/> times in a row goes first.
/// </summary>
internal sealed class Scheduler(int mostRows)
{
    /// <summary>Choices that ready work may lose in a row: a few passes over a deep model, long enough to merge, short enough to bound the wait.</summary>
    public const int Patience = 256;
    /// <summary>Steps that earn one step's holding.</summary>
    public const int StepsPerHold = 4;

    private sealed class Credit
    {
        /// <summary>In parts of a hold; a whole circle of holds at most.</summary>
        public int Parts;
        public bool Spent;
    }

    /// <summary>Prefill waits for 5/4 of what it ran before it runs in the gaps of decode again, so that nobody's tokens come at less than about half their speed; where decode has no gaps it runs after twice of that.</summary>
    private const int RestQuarters = 5, DueQuarters = 8;
    /// <summary>Decode counts as under way for a quarter of a pass after its last step: it is somewhere between two layers.</summary>
    private const int LivePart = 4;

    private readonly Dictionary<object, Credit> _credits = [];
    private long _ranUntil, _slice, _liveUntil, _pass, _mayBeginAt;

    /// <summary>When to choose again although nothing has happened: somebody is held only for rows expected until then. 0: never.</summary>
    public long WakeAt { get; private set; }

    /// <summary>Decode rows are on their way to a layer and will be there soon or not at all.</summary>
    public static void Expect(Pending layer, int rows, long now, long until)
    {
        layer.Expected = (layer.ExpectedUntil > now ? layer.Expected : 0) + rows;
        layer.ExpectedUntil = until;
    }

    public static void Arrived(Pending layer, int rows) => layer.Expected = Math.Max(0, layer.Expected - rows);

    /// <summary>A layer worked from one moment to another: a step, or a part of one.</summary>
    /// <param name="layer">Which.</param>
    /// <param name="prefill">It was prefill.</param>
    /// <param name="from">Since when.</param>
    /// <param name="to">Until when.</param>
    /// <param name="waited">A step of prefill is over that has waited so long for flash: nobody else's could pass its layer meanwhile, nor have the device to itself, so it rests for that, too, before another one begins.</param>
    public void Ran(Pending layer, bool prefill, long from, long to, long waited = 0)
    {
        if (prefill)
        {
            (_ranUntil, _slice) = (to, to - from);
            _mayBeginAt = Math.Max(_mayBeginAt, to + (to - from + waited) * RestQuarters / 4);
            return;
        }
        long pass = (to - from) * layer.Layers;
        _pass = _pass == 0 ? pass : _pass + ((pass - _pass) >> 4);
        _liveUntil = to + _pass / LivePart;
    }

    /// <summary>Decode is under way: what runs now delays somebody's next token.</summary>
    public bool IsLive(List<Pending> layers, long now)
    {
        if (now < _liveUntil) return true;
        foreach (var layer in layers)
            if (RowsAt(layer, now) > 0) return true;
        return false;
    }

    /// <summary>Whether prefill may run while there is no decode to run. While decode waits for flash it may, since a step gives way between two tiles (one that has yet to begin would keep its layer: <see cref="Ran"/>); in the moment that a wave
    /// needs from one layer to the next only after it has rested, or a slice of prefill would go between any two layers.</summary>
    private bool PrefillMay(List<Pending> layers, long now)
    {
        if (!IsLive(layers, now)) return true;
        foreach (var layer in layers)
            if (layer.Rows > 0 && !layer.Idle && !layer.Decode) return true;
        return now >= RestedAt;
    }

    private long RestedAt => _ranUntil + _slice * RestQuarters / 4;

    /// <summary>Prefill at the shallowest layer, unless a step that gave way stands in the way of decode at its own layer.</summary>
    private static bool Sooner(Pending layer, Pending other)
    {
        bool blocks = !layer.Idle && layer.Rows > 0, otherBlocks = !other.Idle && other.Rows > 0;
        return blocks != otherBlocks ? blocks : layer.Index < other.Index;
    }

    /// <summary>The index of the layer to run, or -1 when none is to.</summary>
    public int Choose(List<Pending> layers, long now, out bool prefill)
    {
        int best = -1, shallowest = -1, starved = -1, held = -1, longest = Patience - 1;
        bool starvedPrefill = false, live = IsLive(layers, now), early = false;
        WakeAt = 0;
        for (int i = 0; i < layers.Count; i++)
        {
            var layer = layers[i];
            bool decode = layer.Decode;
            if (decode && layer.Idle && IsHeld(layers, layer, now))
            {
                decode = false;
                if (held < 0 || layer.Index < layers[held].Index) held = i;
            }
            if (decode && (best < 0 || layer.Index > layers[best].Index)) best = i;
            bool tooSoon = layer.Prefill && layer.Idle && live && now < _mayBeginAt;
            early |= tooSoon;
            if (layer.Prefill && !tooSoon && (shallowest < 0 || Sooner(layer, layers[shallowest]))) shallowest = i;
            if (decode && layer.DecodePassed > longest) (starved, starvedPrefill, longest) = (i, false, layer.DecodePassed);
            if (layer.Prefill && layer.PrefillPassed > longest) (starved, starvedPrefill, longest) = (i, true, layer.PrefillPassed);
            if (!decode) layer.DecodePassed = 0;
            if (!layer.Prefill) layer.PrefillPassed = 0;
            layer.Ready = decode;
        }
        // Three waves may each be half a circle or less behind the next: then one of them has to go.
        if (held >= 0 && starved < 0 && best < 0 && !Moves(layers, layers[held], now)) best = held;
        bool due = shallowest >= 0 && _slice > 0 && now >= _ranUntil + _slice * DueQuarters / 4;
        bool rests = shallowest >= 0 && best < 0 && !PrefillMay(layers, now);
        prefill = starved >= 0 ? starvedPrefill : shallowest >= 0 && (due || (best < 0 && !rests));
        int chosen = starved >= 0 ? starved : prefill ? shallowest : best;
        if (chosen < 0)
        {
            // Whoever is held, or rests, for rows that should be here: they come, or the time is over.
            for (int i = 0; i < layers.Count && held >= 0; i++)
            {
                if (layers[i].Expected > 0 && layers[i].ExpectedUntil > now) Wake(layers[i].ExpectedUntil);
            }
            if (rests) Wake(now < _liveUntil ? Math.Min(RestedAt, _liveUntil) : RestedAt);
            if (early) Wake(now < _liveUntil ? Math.Min(_mayBeginAt, _liveUntil) : _mayBeginAt);
            return -1;
        }
        foreach (var layer in layers)
        {
            if (layer.Ready) layer.DecodePassed++;
            if (layer.Prefill) layer.PrefillPassed++;
        }
        if (prefill) layers[chosen].PrefillPassed = 0;
        else
        {
            layers[chosen].DecodePassed = 0;
            if (layers[chosen].Idle) Account(layers[chosen], held >= 0 && held != chosen && layers[held].Model == layers[chosen].Model);
        }
        return chosen;
    }

    private void Wake(long at) => WakeAt = WakeAt == 0 ? at : Math.Min(WakeAt, at);

    public void Forget(Pending layer, List<Pending> left)
    {
        if (left.TrueForAll(other => other.Model != layer.Model)) _credits.Remove(layer.Model);
    }

    /// <summary>True while another wave that this one could take along is behind it, not further than half the circle.</summary>
    private bool IsHeld(List<Pending> layers, Pending layer, long now)
    {
        if (layer.Rows >= mostRows || CreditOf(layer).Spent) return false;
        foreach (var other in layers)
        {
            if (other.Model != layer.Model) continue;
            int rows = RowsAt(other, now) - (other == layer ? layer.Rows : 0);
            if (rows == 0 || rows + layer.Rows > mostRows) continue;
            int behind = (layer.Index - other.Index + layer.Layers) % layer.Layers;
            if (2 * behind < layer.Layers || (2 * behind == layer.Layers && layer.Index < other.Index)) return true;
        }
        return false;
    }

    /// <summary>Something of the model goes on by itself: a step runs, or rows are on their way.</summary>
    private static bool Moves(List<Pending> layers, Pending held, long now)
    {
        foreach (var layer in layers)
            if (layer.Model == held.Model && ((layer.Rows > 0 && !layer.Idle) || (layer.Expected > 0 && layer.ExpectedUntil > now))) return true;
        return false;
    }

    private static int RowsAt(Pending layer, long now) => layer.Rows + (layer.ExpectedUntil > now ? layer.Expected : 0);

    /// <summary>A step of decode begins, while a wave of the same model is held or not.</summary>
    private void Account(Pending layer, bool holds)
    {
        var credit = CreditOf(layer);
        credit.Parts = Math.Min(credit.Parts + (holds ? -StepsPerHold : 1), StepsPerHold * layer.Layers);
        if (credit.Parts <= 0) credit.Spent = true;
        else if (2 * credit.Parts >= StepsPerHold * layer.Layers) credit.Spent = false;
    }

    private Credit CreditOf(Pending layer)
    {
        if (!_credits.TryGetValue(layer.Model, out var credit)) _credits[layer.Model] = credit = new Credit { Parts = StepsPerHold * layer.Layers };
        return credit;
    }
}
