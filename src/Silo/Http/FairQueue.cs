namespace FlashOrleans.Silo.Http;

/// <summary>
/// Who is let in next: of the users who wait the one with the fewest answers in the making, of those the one whose turn is longest ago; a user's own requests in the order they came. Who is next and does not
/// fit yet is waited for, so that a large request is not passed by small ones for ever. Pure state; its owner holds the lock.
/// </summary>
internal sealed class FairQueue<T> where T : class
{
    /// <summary>Users remembered for their last turn although they have nothing here.</summary>
    private const int MostIdle = 1024;

    private sealed class Line
    {
        public readonly LinkedList<(T Who, int Answers, long Order)> Waiting = [];
        public int Running;
        public long LastTurn;
    }

    private readonly Dictionary<string, Line> _lines = [];
    private long _order;

    public int Count { get; private set; }

    public void Add(string user, int answers, T who)
    {
        if (!_lines.TryGetValue(user, out Line? line)) _lines[user] = line = new Line();
        line.Waiting.AddLast((who, answers, ++_order));
        Count++;
    }

    /// <summary>Lets the next one in if so many answers have room for it.</summary>
    public bool TryTake(int room, out T? who)
    {
        who = null;
        Line? next = null;
        foreach (Line line in _lines.Values)
        {
            if (line.Waiting.First is not null && (next is null || IsBefore(line, next))) next = line;
        }
        if (next is null || next.Waiting.First!.Value.Answers > room) return false;
        (who, int answers, _) = next.Waiting.First.Value;
        next.Waiting.RemoveFirst();
        Count--;
        next.Running += answers;
        next.LastTurn = ++_order;
        return true;
    }

    /// <summary>Somebody who waits gives up.</summary>
    public void Remove(string user, T who)
    {
        Line line = _lines[user];
        for (var node = line.Waiting.First; node is not null; node = node.Next)
        {
            if (!ReferenceEquals(node.Value.Who, who)) continue;
            line.Waiting.Remove(node);
            Count--;
            break;
        }
        Forget();
    }

    /// <summary>Answers of somebody who was let in are over.</summary>
    public void Ended(string user, int answers)
    {
        _lines[user].Running -= answers;
        Forget();
    }

    /// <summary>Requests that are let in before this one, as things stand: of each other user no more than of its own.</summary>
    public int Ahead(string user, T who)
    {
        Line own = _lines[user];
        int index = 0;
        for (var node = own.Waiting.First; node is not null && !ReferenceEquals(node.Value.Who, who); node = node.Next) index++;
        int ahead = index;
        foreach (Line line in _lines.Values)
            if (line != own && line.Waiting.Count > 0) ahead += Math.Min(line.Waiting.Count, index + (IsBefore(line, own) ? 1 : 0));
        return ahead;
    }

    private static bool IsBefore(Line line, Line other) =>
        (line.Running, line.LastTurn, line.Waiting.First!.Value.Order).CompareTo((other.Running, other.LastTurn, other.Waiting.First!.Value.Order)) < 0;

    private void Forget()
    {
        if (_lines.Count <= MostIdle) return;
        foreach (string user in _lines.Where(static l => l.Value is { Running: 0, Waiting.Count: 0 }).OrderBy(static l => l.Value.LastTurn).Select(static l => l.Key).Take(MostIdle / 2).ToArray()) _lines.Remove(user);
    }
}
