using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>
/// The conductor as a state machine: seeded schedules of arrivals, completions, faults, cancels, closings, duplicates and layers that leave and come back, in any order, on one thread. Each ends
/// with everything let go: every step must have come to an end of its own, with the tokens of an undisturbed run.
/// <c>FLASH_SCHEDULES=1000000</c> for a long run; a failure names the seed, <c>FLASH_SEED</c> shows it again.
/// </summary>
public sealed class InterleavingTests
{
    private const int PerEngine = 250, Lane = 100_000_000;

    [Theory]
    [InlineData(FeedForwardMode.Exact, 1), InlineData(FeedForwardMode.Exact, 2), InlineData(FeedForwardMode.Dense, 3), InlineData(FeedForwardMode.Exact, 4)]
    public void Whatever_the_order_every_step_comes_to_one_end_with_the_right_tokens(FeedForwardMode mode, int lane)
    {
        if (int.TryParse(Environment.GetEnvironmentVariable("FLASH_SEED"), out int again) && again / Lane != lane) return;
        int schedules = again > 0 ? PerEngine : int.TryParse(Environment.GetEnvironmentVariable("FLASH_SCHEDULES"), out int asked) ? asked / 4 : 1000;
        using var tiny = TinyPackage.Create(TinyPackage.Llama(layers: 2, hidden: 32, ffn: 160), WeightFormat.Q8, open: static path => new MemoryFile(File.ReadAllBytes(path), 512, Path.GetFileName(path)));
        var truth = new Dictionary<(int, int), int>();
        Schedule.Tell(tiny.Package, mode, truth);
        for (int done = 0; done < schedules; done += PerEngine)
        {
            int seed = again > 0 ? again : lane * Lane + done;
            using var schedule = new Schedule(tiny.Package, mode, seed, truth);
            for (int i = 0; i < PerEngine; i++) schedule.Run();
            schedule.End();
        }
    }

    /// <summary>One engine and a few sessions; each run is a schedule.</summary>
    private sealed class Schedule : IDisposable
    {
        /// <summary>Turns within which everything ends: where a window holds one unit more than what stays, a step alone takes hundreds.</summary>
        private const int Endless = 1_000_000;
        private const int Sessions = 4, Prompts = 4, Longest = 14;
        private readonly FlashPackage _package;
        private readonly LayerOptions _options;
        private readonly Conductor _conductor;
        private readonly Device _device = new();
        private readonly Layer?[] _layers = new Layer?[2];
        private readonly List<Task> _leaving = [];
        private readonly Session[] _sessions;
        private readonly Dictionary<(int Prompt, int Length), int> _truth;
        private readonly Random _random;
        private readonly int _seed;
        private readonly VirtualClock _clock = new();
        private readonly List<string> _wrong = [];
        private int _run;

        public Schedule(FlashPackage package, FeedForwardMode mode, int seed, Dictionary<(int, int), int> truth)
        {
            _package = package;
            _seed = seed;
            _truth = truth;
            _random = new Random(seed);
            _options = new LayerOptions { Mode = mode, Window = _random.Next(3) switch { 0 => 0.1, 1 => 0.4, _ => 1 }, Prefetch = _random.Next(2) == 0, LeastStretchBytes = _random.Next(2) == 0 ? 0 : Stretches.LeastBytes };
            _conductor = new Conductor(new() { Threads = 1, MaxWaveRows = _random.Next(2, 9), TurnBytes = _random.Next(2) == 0 ? 1 : 4 << 20, KvLimitPerLayer = _random.Next(2) == 0 ? 1 : 1 << 20 }, _clock, _device, start: false);
            for (int i = 0; i < _layers.Length; i++) Attach(i);
            _sessions = [.. Enumerable.Range(0, Sessions).Select(_ => new Session(Guid.NewGuid(), _random.Next(Prompts)))];
        }

        /// <summary>What comes after each prefix of each prompt, undisturbed.</summary>
        public static void Tell(FlashPackage package, FeedForwardMode mode, Dictionary<(int, int), int> truth)
        {
            using var engine = new LocalEngine(package, new() { Threads = 1 }, new() { Mode = mode });
            for (int prompt = 0; prompt < Prompts; prompt++)
            {
                int[] text = Text(prompt);
                using var session = engine.OpenSession();
                session.Timeline.Append(text.AsSpan(0, 1));
                for (int length = 1; length <= Longest; length++)
                {
                    int token = session.Run(Sampling.Greedy).Token;
                    truth[(prompt, length)] = token;
                    session.Timeline.Append([length < text.Length ? text[length] : token]);
                }
            }
        }

        private static int[] Text(int prompt) => [.. Enumerable.Range(0, prompt + 1).Select(i => 3 + prompt * 7 + i * 5)];

        public void Run()
        {
            _run++;
            try
            {
                for (int action = _random.Next(6, 30); action > 0; action--) Act();
                LetGo();
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"schedule {_run} of seed {_seed}: {e.Message}", e);
            }
        }

        /// <summary>Nothing of what was closed may be left.</summary>
        public void End()
        {
            foreach (var session in _sessions) _conductor.CloseSession(session.Id);
            _conductor.Pump();
            foreach (var layer in _layers)
            {
                layer!.Kv!.EvictTo(0);
                Assert.Equal(0, layer.Kv.Bytes);
            }
        }

        public void Dispose()
        {
            _device.Broken = false;
            _device.DoAtOnce = true;
            _clock.MoveTo(_clock.Now + 1_000_000_000);
            while (_device.Waiting > 0) _device.Complete(0);
            _conductor.Dispose();
            Assert.Empty(_conductor.Ledger.Snapshot());
        }

        private void Act()
        {
            var session = _sessions[_random.Next(Sessions)];
            switch (_random.Next(32))
            {
                case < 9:
                    Submit(session);
                    break;
                case < 21:
                    _conductor.Pump();
                    break;
                case < 25:
                    if (_device.Waiting > 0) _device.Complete(_random.Next(_device.Waiting));
                    break;
                case 25:
                    _clock.MoveTo(_clock.Now + _random.Next(1000));
                    break;
                case 26:
                    _device.Broken = _random.Next(3) == 0;
                    break;
                case 27:
                    _conductor.CloseSession(session.Id);
                    break;
                case 28:
                    if (session.Timeline.InFlight)
                    {
                        _conductor.Cancel(session.Id, session.Timeline.Epoch, session.Timeline.Step);
                        session.Timeline.Abandon(session.Timeline.Epoch + 1);
                    }
                    break;
                case 29:
                    if (session.Timeline is { InFlight: false, Length: > 0 }) session.Timeline.Truncate(_random.Next(session.Timeline.Length));
                    break;
                case 30:
                    if (_layers[_random.Next(2)] is { IsReady: true } layer) _conductor.Prefetch(layer, [_random.Next(layer.Bundles!.Region.Count)]);
                    break;
                default:
                    int index = _random.Next(2);
                    if (_layers[index] is { } there)
                    {
                        _layers[index] = null;
                        _leaving.Add(_conductor.DetachAsync(there));
                    }
                    else Attach(index);
                    break;
            }
        }

        private void Submit(Session session)
        {
            var timeline = session.Timeline;
            if (timeline.InFlight) return;
            if (timeline.Computed == timeline.Length) Grow(session);
            var wave = timeline.Submit(_random.Next(1, 4), Sampling.Greedy, SlotFlags.Sample);
            if (_random.Next(16) == 0 && _layers[0] is { } first)
            {
                // The same message twice.
                byte[] copy = System.Buffers.ArrayPool<byte>.Shared.Rent(wave.Length);
                wave.Array.AsSpan(0, wave.Length).CopyTo(copy);
                var again = new Wave(copy, wave.Length);
                if (!_conductor.Enqueue(first, again)) again.Return();
            }
            Hand(0, wave);
        }

        /// <summary>The next token: of the prompt, or what the model says.</summary>
        private void Grow(Session session)
        {
            if (session.Timeline.Length >= Longest) session.Timeline.Truncate(_random.Next(3));
            int[] text = Text(session.Prompt);
            int length = session.Timeline.Length, take = Math.Max(1, text.Length - length);
            if (length == 0) session.Timeline.Append(text.AsSpan(0, _random.Next(1, text.Length + 1)));
            else session.Timeline.Append(length < text.Length ? text.AsSpan(length, _random.Next(1, take + 1)) : [_truth[(session.Prompt, length)]]);
        }

        private void Hand(int index, Wave wave)
        {
            if (_layers[index] is { } layer && _conductor.Enqueue(layer, wave)) return;
            foreach (ref readonly var slot in wave.Slots) Tell(new SlotFault(slot.Session, slot.Epoch, slot.Step, FaultKind.Unavailable, "not here"));
            wave.Return();
        }

        private void Attach(int index) => _layers[index] = _conductor.Attach(_package, index, _options, new Router(this, index));

        /// <summary>Faults end, layers come back: everything must finish.</summary>
        private void LetGo()
        {
            _device.Broken = false;
            for (int i = 0; i < 2; i++)
                if (_layers[i] == null) Attach(i);
            for (int turns = 0; ; turns++)
            {
                if (turns == Endless) Assert.Fail(Describe());
                bool moved = _conductor.Pump();
                if (_device.Waiting > 0)
                {
                    _device.Complete(_random.Next(_device.Waiting));
                    moved = true;
                }
                if (moved) continue;
                _clock.MoveTo(_clock.Now + 1000);
                var open = _sessions.Where(s => s.Timeline.InFlight).ToArray();
                if (open.Length > 0 || _conductor.WavesHeld > 0) continue;
                // One after the other: where memory is short they would drop each other's keys and values without end.
                if (Array.Find(_sessions, static s => s.Timeline.Computed < s.Timeline.Length) is not { } next) break;
                Submit(next);
            }
            Assert.Empty(_wrong);
            Assert.Equal(0, _conductor.WavesHeld);
            Assert.Null(_conductor.LastError);
            foreach (var layer in _layers)
            {
                Assert.Null(layer!.Running);
                Assert.Equal(0, layer.OutstandingReads);
                // A scan keeps its share of the units for good.
                Assert.InRange(Enumerable.Range(0, layer.Bundles!.Window.Slots).Sum(layer.Bundles.Window.Pins), 0, layer.Bundles.Resident);
            }
            foreach (var session in _sessions) Assert.False(_conductor.Holds(session.Id, session.Timeline.Epoch, session.Timeline.Step));
            Assert.All(_leaving, static task => Assert.True(task.IsCompletedSuccessfully));
            _leaving.Clear();
        }

        private string Describe() =>
            $"something never ends: steps of {string.Join(" and ", _sessions.Where(static s => s.Timeline.InFlight).Select(static s => s.Timeline.Step))}; {_device.Waiting} reads; {_conductor.LastError}; {_options}; {_conductor.Options}; "
            + string.Join(" and ", _layers.Select(static l => $"{l!.Running?.Rows} rows, runnable {l.Running?.Runnable}, {l.Bundles?.Outstanding} + {l.Embeddings?.Outstanding} reads, {l.Decode.Count} + {l.Prefill.Count} wait, slots "
                + string.Join(' ', Enumerable.Range(0, l.Bundles?.Window.Slots ?? 0).Select(s => $"{l.Bundles!.Window.UnitOf(s)} {l.Bundles.Window.State(s)} {l.Bundles.Window.Pins(s)}"))));

        private void Tell(in SlotFault fault)
        {
            var session = Of(fault.Session);
            if (!session.Timeline.Accept(fault)) return;
            if (fault.Kind == FaultKind.Rejected) _wrong.Add(fault.Message);
            if (fault.Kind is FaultKind.Unavailable or FaultKind.Flash) session.Timeline.Abandon(session.Timeline.Epoch + 1);
        }

        private void Tell(in StepResult result)
        {
            var session = Of(result.Session);
            // Thrown here it would be the step's fault; it is looked at when the schedule is over.
            if (session.Timeline.Accept(result) && result.Token >= 0 && _truth[(session.Prompt, result.End)] is var token && token != result.Token)
                _wrong.Add($"token {result.End} of prompt {session.Prompt} is {result.Token}, not {token}");
        }

        private Session Of(Guid id) => _sessions.Single(s => s.Id == id);

        private sealed class Session(Guid id, int prompt)
        {
            public Guid Id => id;
            public int Prompt => prompt;
            public SessionTimeline Timeline { get; } = new(id, 1);
        }

        private sealed class Router(Schedule schedule, int index) : ILayerRouter
        {
            public Layer? Next => index == 0 ? schedule._layers[1] : null;
            public bool WantsRows => false;
            private readonly HashSet<(Guid, int, long)> _announced = [];
            private bool _ahead;

            public void Forward(Wave wave)
            {
                foreach (ref readonly var slot in wave.Slots) Assert.True(!_ahead || _announced.Contains((slot.Session, slot.Epoch, slot.Step)), "a slot comes that was not announced");
                _ahead = false;
                schedule.Hand(index + 1, wave);
            }

            public void Announce(ReadOnlySpan<Slot> slots)
            {
                Assert.False(_ahead, "announced before what was announced came or was withdrawn");
                Assert.Equal(0, index);
                _ahead = true;
                _announced.Clear();
                foreach (ref readonly var slot in slots) _announced.Add((slot.Session, slot.Epoch, slot.Step));
            }

            public void Withdraw()
            {
                Assert.True(_ahead, "withdrawn and not announced");
                _ahead = false;
            }

            public void Complete(in StepResult result) => schedule.Tell(result);
            public void Fault(in SlotFault fault) => schedule.Tell(fault);
            public void HintRows(ReadOnlySpan<float> rows, int count, int width) { }

            public void Hint(ReadOnlySpan<int> units)
            {
                if (Next is { } next) schedule._conductor.Prefetch(next, units[..next.Policy.Admit(units.Length)]);
            }
        }
    }

    /// <summary>Reads complete when the schedule says, in its order; while broken they fail.</summary>
    private sealed class Device : IFlashReader
    {
        private readonly List<ReadRequest> _requests = [];

        public bool Broken { get; set; }
        public bool DoAtOnce { get; set; }
        public int Waiting => _requests.Count;
        public ReaderStats Stats => default;

        public bool TrySubmit(ReadRequest request)
        {
            if (_requests.Count >= 6 && !DoAtOnce) return false;
            _requests.Add(request);
            if (DoAtOnce) Complete(0);
            return true;
        }

        public void Promote(ReadRequest request)
        {
        }

        public bool TryTakeBack(ReadRequest request) => request.Class == ReadClass.Prefetch && _requests.Remove(request);

        public void Complete(int index)
        {
            var request = _requests[index];
            _requests.RemoveAt(index);
            VirtualFlash.Read(request);
            if (Broken)
            {
                Array.Fill(request.Faults, ReadFault.Io, 0, request.Count);
                request.Error = "broken";
            }
            request.Completion.Completed(request);
        }
    }
}
