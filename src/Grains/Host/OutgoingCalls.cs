using System.Runtime.CompilerServices;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;

namespace FlashOrleans.Grains;

/// <summary>
/// Calls of the data plane that are on their way and not yet acknowledged: waves to a layer, outcomes and failures to a session. Each remembers which steps it is
/// about, because the receiver may own a wave's array by the time the send fails. An entry is added before its item leaves the outbox and goes when the other side has
/// it: at no moment is a step in nobody's hands. Sends come from the sending grain's scheduler; acknowledgements are observed wherever they
/// arrive, failures of waves go back to that scheduler. Entries are pooled with their continuation, so observing an acknowledgement allocates nothing.
/// </summary>
internal sealed class OutgoingCalls
{
    private readonly Lock _gate = new();
    private readonly List<Entry> _live = [];
    private readonly Stack<Entry> _free = new();

    /// <summary>Waves among them.</summary>
    public int Waves
    {
        get
        {
            lock (_gate)
            {
                int waves = 0;
                foreach (Entry entry in _live) waves += entry.Message is { HasWave: true } ? 1 : 0;
                return waves;
            }
        }
    }

    /// <summary>Takes charge of a wave.</summary>
    public Entry Add(Wave wave)
    {
        lock (_gate)
        {
            Entry entry = Take();
            entry.Fill(wave.Slots, new WaveMessage(wave.Array, wave.Length));
            return entry;
        }
    }

    /// <summary>Takes charge of a message that goes ahead of a wave of these slots. Any thread; when it cannot be delivered before there is a wave, nobody needs to know.</summary>
    public Entry Announce(ReadOnlySpan<Slot> slots)
    {
        lock (_gate)
        {
            Entry entry = Take();
            entry.Fill(slots, new WaveMessage());
            return entry;
        }
    }

    /// <summary>Takes charge of a word to a session about a step. One that does not arrive is forgotten: the session's watchdog notices.</summary>
    public Entry Add(Guid session, int epoch, long step)
    {
        lock (_gate)
        {
            Entry entry = Take();
            entry.Fill(session, epoch, step);
            return entry;
        }
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

    private Entry Take()
    {
        if (!_free.TryPop(out Entry? entry)) entry = new Entry(this);
        _live.Add(entry);
        return entry;
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

    internal sealed class Entry
    {
        private readonly OutgoingCalls _owner;
        private readonly Action _continuation;
        private Slot[] _slots = [];
        private int _count;
        private Action<ReadOnlyMemory<Slot>, Exception>? _failed;
        private TaskScheduler _scheduler = TaskScheduler.Default;
        private ConfiguredValueTaskAwaitable.ConfiguredValueTaskAwaiter _ack;

        public Entry(OutgoingCalls owner)
        {
            _owner = owner;
            _continuation = Acknowledged;
        }

        /// <summary>The wave on its way; null for a word to a session.</summary>
        public WaveMessage? Message { get; private set; }
        public ReadOnlyMemory<Slot> Slots => _slots.AsMemory(0, _count);

        public void Fill(ReadOnlySpan<Slot> slots, WaveMessage message)
        {
            Reserve(slots.Length);
            slots.CopyTo(_slots);
            Message = message;
        }

        public void Fill(Guid session, int epoch, long step)
        {
            Reserve(1);
            _slots[0] = new Slot { Session = session, Epoch = epoch, Step = step };
        }

        /// <summary>Sends the wave, or the message ahead of it: <paramref name="failed"/> is called with its slots, on this scheduler, when the acknowledgement of a wave does not come. Once, and then the entry is no longer the caller's.</summary>
        public void Send(ILayerGrain target, Action<ReadOnlyMemory<Slot>, Exception> failed)
        {
            _failed = failed;
            _scheduler = TaskScheduler.Current;
            ValueTask ack;
            try
            {
                ack = target.Forward(Message!);
            }
            catch (Exception e)
            {
                ack = ValueTask.FromException(e);
            }
            Watch(ack);
        }

        /// <summary>The call was made: the entry goes with its acknowledgement. Then the entry is no longer the caller's.</summary>
        public void Watch(ValueTask ack)
        {
            ConfiguredValueTaskAwaitable.ConfiguredValueTaskAwaiter awaiter = ack.ConfigureAwait(false).GetAwaiter();
            _ack = awaiter;
            if (awaiter.IsCompleted) Acknowledged();
            else awaiter.UnsafeOnCompleted(_continuation);
        }

        /// <summary>The call could not even be made.</summary>
        public void Drop() => _owner.Give(this);

        public void Clear()
        {
            Message = null;
            _ack = default;
            _failed = null;
        }

        private void Reserve(int count)
        {
            _count = count;
            if (_slots.Length < count) _slots = new Slot[Math.Max(count, 4)];
        }

        private void Acknowledged()
        {
            try
            {
                _ack.GetResult();
                // In this silo the receiver claimed or awaits it. Between silos its bytes went onto the wire, and the array is ours again.
                if (Message is { } message && !message.WithdrawLost() && message.TryClaim(out byte[] array, out _)) Wave.Return(array);
            }
            catch (Exception) when (Message is null)
            {
            }
            catch (Exception) when (Message!.Withdraw())
            {
                // Without a wave: the sender finds it withdrawn and sends it as any other.
            }
            catch (Exception e)
            {
                // Unless the receiver took it, the message may still be on its way to the wire: nobody gets the array, the garbage collector does.
                if (Message!.TryClaim(out byte[] array, out _)) WaveGuard.Abandoned(array);
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
