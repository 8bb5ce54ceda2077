using System.Runtime.CompilerServices;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

/// <summary>
/// Waves that were sent and not yet acknowledged. Each remembers its slots, because the receiver may own the array by the time the send fails.
/// Sends come from the sending grain's scheduler; acknowledgements are observed wherever they arrive, failures go back to that scheduler. Entries are
/// pooled with their continuation, so that observing an acknowledgement allocates nothing.
/// </summary>
internal sealed class OutgoingWaves
{
    private readonly Lock _gate = new();
    private readonly List<Entry> _live = [];
    private readonly Stack<Entry> _free = new();

    public int Count
    {
        get { lock (_gate) return _live.Count; }
    }

    /// <summary>Sends a wave and observes its acknowledgement: <paramref name="failed"/> is called with its slots when it does not come.</summary>
    public void Send(ILayerGrain target, Wave wave, Action<ReadOnlyMemory<Slot>, Exception> failed)
    {
        Entry entry = Take(wave, failed);
        ValueTask ack;
        try
        {
            ack = target.Forward(entry.Message);
        }
        catch (Exception e)
        {
            ack = ValueTask.FromException(e);
        }
        ConfiguredValueTaskAwaitable.ConfiguredValueTaskAwaiter awaiter = ack.ConfigureAwait(false).GetAwaiter();
        entry.Ack = awaiter;
        if (awaiter.IsCompleted) entry.Acknowledged();
        else awaiter.UnsafeOnCompleted(entry.Continuation);
    }

    public bool Holds(Guid session, int epoch, long step)
    {
        lock (_gate)
        {
            foreach (Entry entry in _live)
            {
                if (Steps.Contains(entry.Slots.Span, session, epoch, step)) return true;
            }
            return false;
        }
    }

    private Entry Take(Wave wave, Action<ReadOnlyMemory<Slot>, Exception> failed)
    {
        lock (_gate)
        {
            if (!_free.TryPop(out Entry? entry)) entry = new Entry(this);
            entry.Fill(wave, failed);
            _live.Add(entry);
            return entry;
        }
    }

    private void Give(Entry entry)
    {
        lock (_gate)
        {
            _live.Remove(entry);
            entry.Clear();
            _free.Push(entry);
        }
    }

    private sealed class Entry
    {
        private readonly OutgoingWaves _owner;
        private Slot[] _slots = [];
        private int _count;
        private Action<ReadOnlyMemory<Slot>, Exception>? _failed;
        private TaskScheduler _scheduler = TaskScheduler.Default;

        public Entry(OutgoingWaves owner)
        {
            _owner = owner;
            Continuation = Acknowledged;
        }

        public Action Continuation { get; }
        public WaveMessage Message { get; private set; } = null!;
        public ConfiguredValueTaskAwaitable.ConfiguredValueTaskAwaiter Ack { get; set; }
        public ReadOnlyMemory<Slot> Slots => _slots.AsMemory(0, _count);

        public void Fill(Wave wave, Action<ReadOnlyMemory<Slot>, Exception> failed)
        {
            _count = wave.SlotCount;
            if (_slots.Length < _count) _slots = new Slot[Math.Max(_count, 4)];
            wave.Slots.CopyTo(_slots);
            _failed = failed;
            _scheduler = TaskScheduler.Current;
            Message = new WaveMessage(wave.Array, wave.Length);
        }

        public void Clear()
        {
            Message = null!;
            Ack = default;
            _failed = null;
        }

        public void Acknowledged()
        {
            try
            {
                Ack.GetResult();
                // In this silo the receiver claimed it. Between silos its bytes went onto the wire, and the array is ours again.
                Message.TryReturn();
            }
            catch (Exception e)
            {
                // The message may still be under way somewhere: its array is left to the garbage collector.
                _ = Task.Factory.StartNew(() => Fail(e), CancellationToken.None, TaskCreationOptions.None, _scheduler);
                return;
            }
            _owner.Give(this);
        }

        private void Fail(Exception error)
        {
            try
            {
                _failed!(Slots, error);
            }
            catch (Exception)
            {
                // The silo is going down around this grain: nobody can be told, and the sessions' watchdogs notice.
            }
            _owner.Give(this);
        }
    }
}
