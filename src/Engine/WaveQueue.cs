namespace FlashOrleans.Engine;

/// <summary>
/// Waves that wait at a layer. Conductor thread. In the order they came; where prompts enter the model (<paramref name="fair"/>) the next is of whoever has had the fewest rows so far, so that one user's many prompts
/// leave others their share. Who comes anew starts where the least served of those who wait is: nobody saves up.
/// </summary>
internal sealed class WaveQueue(bool fair)
{
    /// <summary>Users remembered; more are forgotten, all at once: the order is a matter of seconds.</summary>
    private const int MostUsers = 4096;

    private readonly List<Wave> _waves = [];
    private readonly Dictionary<uint, long> _rows = [];
    private int _next;

    public int Count => _waves.Count;

    public void Enqueue(Wave wave) => _waves.Add(wave);

    public List<Wave>.Enumerator GetEnumerator() => _waves.GetEnumerator();

    /// <summary>The wave that is next; <see cref="Dequeue"/> takes the one that was seen.</summary>
    public bool TryPeek(out Wave wave)
    {
        _next = fair && _waves.Count > 1 ? Fairest() : 0;
        wave = _waves.Count > 0 ? _waves[_next] : default;
        return _waves.Count > 0;
    }

    public void Dequeue()
    {
        if (fair) Charge(_waves[_next]);
        _waves.RemoveAt(_next);
    }

    public bool TryDequeue(out Wave wave)
    {
        if (!TryPeek(out wave)) return false;
        Dequeue();
        return true;
    }

    private int Fairest()
    {
        int best = 0;
        long fewest = long.MaxValue;
        for (int i = 0; i < _waves.Count; i++)
        {
            long rows = _rows.GetValueOrDefault(User(_waves[i]), -1);
            if (rows < fewest) (best, fewest) = (i, rows);
        }
        return best;
    }

    private void Charge(in Wave wave)
    {
        uint user = User(wave);
        long least = long.MaxValue;
        foreach (var other in _waves)
            if (_rows.TryGetValue(User(other), out long rows)) least = Math.Min(least, rows);
        if (_rows.Count >= MostUsers) _rows.Clear();
        _rows[user] = Math.Max(_rows.GetValueOrDefault(user), least == long.MaxValue ? 0 : least) + wave.RowCount;
    }

    private static uint User(in Wave wave) => wave.Slots[0].User;
}
