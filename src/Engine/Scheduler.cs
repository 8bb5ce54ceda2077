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
}

/// <summary>
/// Which layer runs next, and whether its decode or its prefill work: a pure choice over what is ready, called by the conductor before every step. No clock and no threads of its own.
/// Decode before prefill; decode at the deepest layer first, which is soonest done, prefill at the shallowest, where prompts meet. Waves of decode do not chase each other around the model, each reading every layer for itself: the one ahead is held until the one
/// behind it, at most half the circle, has caught up, and they go on as one. A wave that is on its way between two layers, or whose results have just left, is waited for a little
/// (<see cref="Expect"/>). Nobody starves: holding spends a credit that other steps earn slowly, so that at most a fifth of a model's steps can pass while a wave is held, whatever keeps
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

    private readonly Dictionary<object, Credit> _credits = [];

    /// <summary>When to choose again although nothing has happened: somebody is held only for rows expected until then. 0: never.</summary>
    public long WakeAt { get; private set; }

    /// <summary>Decode rows are on their way to a layer and will be there soon or not at all.</summary>
    public static void Expect(Pending layer, int rows, long now, long until)
    {
        layer.Expected = (layer.ExpectedUntil > now ? layer.Expected : 0) + rows;
        layer.ExpectedUntil = until;
    }

    public static void Arrived(Pending layer, int rows) => layer.Expected = Math.Max(0, layer.Expected - rows);

    /// <summary>The index of the layer to run, or -1 when none is to.</summary>
    public int Choose(List<Pending> layers, long now, out bool prefill)
    {
        int best = -1, starved = -1, held = -1, longest = Patience - 1;
        bool bestPrefill = false, starvedPrefill = false;
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
            if (decode && (best < 0 || bestPrefill || layer.Index > layers[best].Index)) (best, bestPrefill) = (i, false);
            if (layer.Prefill && (best < 0 || (bestPrefill && layer.Index < layers[best].Index))) (best, bestPrefill) = (i, true);
            if (decode && layer.DecodePassed > longest) (starved, starvedPrefill, longest) = (i, false, layer.DecodePassed);
            if (layer.Prefill && layer.PrefillPassed > longest) (starved, starvedPrefill, longest) = (i, true, layer.PrefillPassed);
            layer.DecodePassed = decode ? layer.DecodePassed + 1 : 0;
            layer.PrefillPassed = layer.Prefill ? layer.PrefillPassed + 1 : 0;
        }
        // Three waves may each be half a circle or less behind the next: then one of them has to go.
        if (held >= 0 && starved < 0 && (best < 0 || bestPrefill) && !Moves(layers, layers[held], now)) (best, bestPrefill) = (held, false);
        int chosen = starved >= 0 ? starved : best;
        prefill = starved >= 0 ? starvedPrefill : bestPrefill;
        if (chosen < 0)
        {
            for (int i = 0; i < layers.Count && held >= 0; i++)
            {
                if (layers[i].Expected > 0 && layers[i].ExpectedUntil > now && (WakeAt == 0 || layers[i].ExpectedUntil < WakeAt)) WakeAt = layers[i].ExpectedUntil;
            }
            return -1;
        }
        if (prefill) layers[chosen].PrefillPassed = 0;
        else
        {
            layers[chosen].DecodePassed = 0;
            if (layers[chosen].Idle) Account(layers[chosen], held >= 0 && held != chosen && layers[held].Model == layers[chosen].Model);
        }
        return chosen;
    }

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
