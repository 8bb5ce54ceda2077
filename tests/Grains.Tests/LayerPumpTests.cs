using System.Runtime.InteropServices;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using Microsoft.Extensions.Logging.Abstractions;

namespace FlashOrleans.Grains.Tests;

/// <summary>What leaves a layer: never in nobody's hands, and nothing stops it.</summary>
public sealed class LayerPumpTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("flash-pump-").FullName;
    private readonly LayerHost _host;
    private readonly HostedLayer _hosted;
    private readonly List<string> _said = [];

    public LayerPumpTests()
    {
        _host = Fake.Host(_folder);
        _hosted = new HostedLayer(_host, new LayerKey("p", 0), new LayerOptions());
    }

    public void Dispose()
    {
        _host.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private static Wave WaveOf(int slots, int rows, int width)
    {
        Wave wave = Wave.Rent(slots, slots * rows, width);
        for (int i = 0; i < slots; i++) wave.Slots[i] = new Slot { Session = Guid.NewGuid(), Epoch = 1, Step = i + 1, Count = rows };
        return wave;
    }

    private async Task PumpAsync(Func<WaveMessage, Task>? forward = null, Action<int>? session = null, Func<PrefetchHint, Task>? hint = null, Func<PrefetchHint, Task>? own = null)
    {
        int calls = 0;
        // The pump takes what throws for a failed send: what a test found wrong is kept for the end.
        Exception? wrong = null;
        var pump = new LayerPump(_hosted,
            Fake.Of<ILayerGrain>((_, arguments) =>
            {
                try
                {
                    return new ValueTask(forward!((WaveMessage)arguments[0]!));
                }
                catch (Exception e) when (e is not IOException)
                {
                    wrong = e;
                    throw;
                }
            }),
            Fake.Of<IPrefetchGrain>((_, arguments) => hint!((PrefetchHint)arguments[0]!)),
            id => Fake.Of<ISessionGrain>((method, arguments) =>
            {
                lock (_said) _said.Add($"{method.Name} {(arguments[0] is StepFailure f ? f.Kind : "")}".TrimEnd());
                session?.Invoke(calls++);
                return default(ValueTask);
            }),
            NullLogger.Instance, Fake.Of<IPrefetchGrain>((_, arguments) => own!((PrefetchHint)arguments[0]!)));
        _hosted.Outbox.Close();
        await pump.RunAsync();
        Assert.Null(wrong);
    }

    [Fact]
    public async Task A_wave_whose_array_the_receiver_has_used_up_is_still_held_by_what_was_noted_of_it()
    {
        Wave wave = WaveOf(slots: 2, rows: 1, width: 8);
        Slot[] slots = wave.Slots.ToArray();
        _hosted.Forward(wave);
        var ack = new TaskCompletionSource();
        await PumpAsync(forward: message =>
        {
            // The receiver is faster than the sender: claimed, computed, returned and rented by somebody else.
            Assert.True(message.TryClaim(out byte[] array, out _));
            array.AsSpan().Fill(0xFF);
            Assert.All(slots, s => Assert.True(_hosted.Holds(s.Session, s.Epoch, s.Step)));
            Assert.Equal(0, _hosted.Outbox.Waves);
            Wave.Return(array);
            return ack.Task;
        });
        Assert.All(slots, s => Assert.True(_hosted.Holds(s.Session, s.Epoch, s.Step)));
        ack.SetResult();
        await Turns.UntilAsync(() => Task.FromResult(_hosted.Holds(slots[0].Session, 1, 1)), static held => !held, "the acknowledgement");
    }

    [Fact]
    public async Task A_message_that_goes_ahead_of_its_wave_holds_its_steps_and_is_no_wave_yet()
    {
        Wave wave = WaveOf(slots: 2, rows: 1, width: 8);
        Slot[] slots = wave.Slots.ToArray();
        OutgoingCalls.Entry entry = _hosted.Outgoing.Announce(slots);
        WaveMessage ahead = entry.Message!;
        Assert.True(_hosted.Outbox.Post(new OutboxItem { Kind = OutboxKind.Ahead, Ahead = entry }));
        Assert.Equal(0, _hosted.WavesHeld);
        var ack = new TaskCompletionSource();
        await PumpAsync(forward: message =>
        {
            Assert.Same(ahead, message);
            return ack.Task;
        });
        Assert.All(slots, s => Assert.True(_hosted.Holds(s.Session, s.Epoch, s.Step)));
        Assert.True(ahead.Fill(wave.Array, wave.Length));
        Assert.Equal(1, _hosted.WavesHeld);
        Assert.True(ahead.TryClaim(out byte[] array, out _));
        Wave.Return(array);
        ack.SetResult();
        await Turns.UntilAsync(() => Task.FromResult(_hosted.Holds(slots[0].Session, 1, 1)), static held => !held, "the acknowledgement");
    }

    [Fact]
    public async Task A_message_ahead_that_cannot_be_delivered_tells_nobody_and_leaves_the_wave_to_its_sender()
    {
        Wave wave = WaveOf(slots: 2, rows: 1, width: 8);
        OutgoingCalls.Entry entry = _hosted.Outgoing.Announce(wave.Slots);
        WaveMessage ahead = entry.Message!;
        Assert.True(_hosted.Outbox.Post(new OutboxItem { Kind = OutboxKind.Ahead, Ahead = entry }));
        await PumpAsync(forward: _ => throw new IOException("no way today"));
        await Turns.UntilAsync(() => Task.FromResult(ahead.Claimed), static gone => gone, "the failure");
        Assert.False(ahead.Fill(wave.Array, wave.Length));
        Assert.Empty(_said);
        wave.Return();
    }

    [Fact]
    public async Task A_long_wave_is_held_part_by_part_before_the_first_part_goes()
    {
        Wave wave = WaveOf(slots: 3, rows: 64, width: 4096);
        Slot[] slots = wave.Slots.ToArray();
        _hosted.Forward(wave);
        int parts = 0;
        await PumpAsync(forward: message =>
        {
            parts++;
            Assert.Equal(0, _hosted.Outbox.Waves);
            Assert.All(slots[(parts - 1)..], s => Assert.True(_hosted.Holds(s.Session, s.Epoch, s.Step)));
            Assert.InRange(message.Length, 1 << 20, (1 << 20) + 4096);
            return Task.CompletedTask;
        });
        Assert.Equal(3, parts);
    }

    [Fact]
    public async Task What_throws_while_it_is_sent_is_told_to_its_session_and_the_rest_goes_out()
    {
        var result = new StepResult { Session = Guid.NewGuid(), Epoch = 1, Step = 1, End = 1, Token = 5 };
        PrefetchHint hint = PrefetchHint.Rent(new byte[8], 2, rows: false);
        _hosted.Outbox.Post(new OutboxItem { Kind = OutboxKind.Hint, Hint = hint });
        _hosted.Complete(result);
        _hosted.Complete(result with { Step = 2 });
        Wave wave = WaveOf(slots: 2, rows: 1, width: 8);
        _hosted.Forward(wave);
        _hosted.Complete(result with { Step = 3 });
        await PumpAsync(
            forward: _ => throw new IOException("no wave today"),
            session: call => { if (call == 0) throw new InvalidOperationException("no outcome today"); },
            hint: _ => throw new InvalidOperationException("no hint today"));
        await Turns.UntilAsync(() => { lock (_said) return Task.FromResult(_said.Count); }, static n => n == 6, "six words to sessions");
        Assert.False(hint.TryClaim(out _));
        Assert.Equal(["Deliver", "Deliver", "Deliver", "Fault Unavailable", "Fault Unavailable", "Fault Unavailable"], _said.Order());
        Assert.Equal(["Deliver", "Fault Unavailable", "Deliver"], _said[..3]);
        Assert.Equal(0, _hosted.WavesHeld);
    }

    [Fact]
    public void A_wave_that_comes_while_the_layer_fails_to_load_is_refused_or_faulted_but_never_kept()
    {
        for (int round = 0; round < 3000; round++)
        {
            var hosted = new HostedLayer(_host, new LayerKey("p", 0), new LayerOptions());
            WaveMessage[] messages = [.. Enumerable.Range(0, 8).Select(_ =>
            {
                Wave wave = WaveOf(slots: 1, rows: 1, width: 0);
                return new WaveMessage(wave.Array, wave.Length);
            })];
            using var start = new Barrier(2);
            int refused = 0;
            var failing = new Thread(() =>
            {
                start.SignalAndWait();
                hosted.Failed(new IOException("gone"));
            });
            failing.Start();
            start.SignalAndWait();
            foreach (WaveMessage message in messages)
            {
                try { hosted.Accept(message); }
                catch (LayerUnavailableException) { refused++; }
            }
            failing.Join();
            int faulted = 0;
            while (hosted.Outbox.TryPeek(out OutboxItem item))
            {
                Assert.Equal(OutboxKind.Fault, item.Kind);
                hosted.Outbox.RemoveFirst();
                faulted++;
            }
            Assert.Equal(8, refused + faulted);
            Assert.Equal(0, hosted.WavesHeld);
        }
    }

    [Fact]
    public async Task The_first_layer_s_hints_for_itself_go_to_its_own_prefetch_grain_and_the_others_to_the_next_one_s()
    {
        List<string> told = [];
        Func<PrefetchHint, Task> Told(string whom) => hint =>
        {
            Assert.True(hint.TryClaim(out byte[] array));
            told.Add($"{whom} {string.Join(' ', MemoryMarshal.Cast<byte, int>(array.AsSpan(0, hint.Length)).ToArray())}");
            PrefetchHint.Return(array);
            return Task.CompletedTask;
        };
        _hosted.HintOwn([3, 5]);
        _hosted.Hint([4]);
        await PumpAsync(hint: Told("next"), own: Told("own"));
        Assert.Equal(["own 3 5", "next 4"], told);
    }
}
