using System.Buffers;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using Microsoft.Extensions.DependencyInjection;
using Orleans.Serialization;
using Orleans.Serialization.Cloning;

namespace FlashOrleans.Grains.Tests;

public sealed class WaveMessageTests
{
    private readonly ServiceProvider _services = new ServiceCollection().AddSerializer().BuildServiceProvider();

    [Fact]
    public void A_wave_survives_the_wire_byte_for_byte()
    {
        var random = new Random(7);
        foreach (int length in new[] { 0, 1, 63, 64, 4095, 4096, 4097, 1 << 20 })
        {
            byte[] bytes = new byte[length + 13];
            random.NextBytes(bytes);
            var serializer = _services.GetRequiredService<Serializer<WaveMessage>>();
            byte[] wire = serializer.SerializeToArray(new WaveMessage(bytes, length));
            WaveMessage read = serializer.Deserialize(wire)!;
            Assert.True(read.TryClaim(out byte[] array, out int got));
            Assert.Equal(length, got);
            Assert.True(bytes.AsSpan(0, length).SequenceEqual(array.AsSpan(0, got)));
            // A memcpy and a small header, not five bytes a float.
            Assert.InRange(wire.Length, length, length + 64);
        }
    }

    [Fact]
    public void The_same_wave_twice_in_a_message_arrives_as_one_instance()
    {
        var serializer = _services.GetRequiredService<Serializer<WaveMessage[]>>();
        var wave = new WaveMessage([1, 2, 3], 3);
        WaveMessage[] read = serializer.Deserialize(serializer.SerializeToArray([wave, wave]))!;
        Assert.Same(read[0], read[1]);
    }

    [Fact]
    public void A_length_beyond_the_limit_is_refused_before_memory_is_taken()
    {
        var serializer = _services.GetRequiredService<Serializer<WaveMessage>>();
        byte[] wire = serializer.SerializeToArray(new WaveMessage(new byte[300], 300));
        // The length is a variable-width integer right before the bytes: 300 takes two bytes. Five say 2^30.
        int at = wire.AsSpan().IndexOf(stackalloc byte[300]) - 2;
        Assert.True(at > 0);
        byte[] hostile = [.. wire.AsSpan(0, at), 0x10, 0x00, 0x00, 0x00, 0x08, .. wire.AsSpan(at + 2)];
        Assert.Contains("limit", Assert.Throws<InvalidDataException>(() => serializer.Deserialize(hostile)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_message_ahead_of_its_wave_brings_it_whoever_is_first()
    {
        byte[] wave = [1, 2, 3];
        List<(byte[], int)> got = [];
        bool Take(byte[] array, int length)
        {
            got.Add((array, length));
            return true;
        }

        var messageFirst = new WaveMessage();
        Assert.False(messageFirst.TryClaim(out _, out _));
        Assert.True(messageFirst.Await(Take));
        Assert.False(messageFirst.HasWave);
        Assert.True(messageFirst.Fill(wave, 2));
        Assert.Equal([(wave, 2)], got);
        // Delivered twice: the second finds nothing.
        Assert.False(messageFirst.Await(Take));
        Assert.False(messageFirst.TryClaim(out _, out _));
        Assert.False(messageFirst.Withdraw());

        var waveFirst = new WaveMessage();
        Assert.True(waveFirst.Fill(wave, 3));
        Assert.True(waveFirst.HasWave);
        Assert.False(waveFirst.Await(Take));
        Assert.False(waveFirst.Withdraw());
        Assert.True(waveFirst.TryClaim(out byte[] array, out int length));
        Assert.Same(wave, array);
        Assert.Equal(3, length);
        Assert.Single(got);
    }

    [Fact]
    public void A_wave_stays_with_its_sender_when_the_message_was_withdrawn_or_the_receiver_leaves()
    {
        var withdrawn = new WaveMessage();
        Assert.True(withdrawn.Withdraw());
        Assert.False(withdrawn.Fill([1], 1));
        Assert.False(withdrawn.Await((_, _) => throw new InvalidOperationException("nothing comes")));
        Assert.False(withdrawn.TryClaim(out _, out _));

        var awaited = new WaveMessage();
        Assert.True(awaited.Await((_, _) => throw new InvalidOperationException("nothing comes")));
        Assert.True(awaited.Withdraw());
        Assert.False(awaited.Fill([1], 1));

        var leaving = new WaveMessage();
        Assert.True(leaving.Await((_, _) => false));
        Assert.False(leaving.Fill([1], 1));
        Assert.False(leaving.TryClaim(out _, out _));
    }

    [Fact]
    public void Of_a_sender_a_receiver_and_a_failing_call_at_the_same_time_one_has_the_wave()
    {
        const int rounds = 5000;
        WaveMessage[] messages = [.. Enumerable.Range(0, rounds).Select(static _ => new WaveMessage())];
        int[] owners = new int[rounds];
        byte[] wave = [1];
        using var start = new Barrier(3);
        Thread[] threads =
        [
            Each((message, round) =>
            {
                if (!message.Fill(wave, 1)) Interlocked.Increment(ref owners[round]);
            }),
            Each((message, round) =>
            {
                if (!message.Await((_, _) => Interlocked.Increment(ref owners[round]) > 0) && message.TryClaim(out _, out _)) Interlocked.Increment(ref owners[round]);
            }),
            Each((message, round) =>
            {
                if (!message.Withdraw() && message.TryClaim(out _, out _)) Interlocked.Increment(ref owners[round]);
            }),
        ];
        foreach (Thread thread in threads) thread.Join();
        Assert.All(owners, static n => Assert.Equal(1, n));

        Thread Each(Action<WaveMessage, int> part)
        {
            var thread = new Thread(() =>
            {
                for (int round = 0; round < rounds; round++)
                {
                    start.SignalAndWait();
                    part(messages[round], round);
                }
            });
            thread.Start();
            return thread;
        }
    }

    [Fact]
    public void A_message_ahead_of_its_wave_does_not_leave_its_silo()
    {
        var serializer = _services.GetRequiredService<Serializer<WaveMessage>>();
        Assert.Contains("ahead", Assert.Throws<InvalidOperationException>(() => serializer.SerializeToArray(new WaveMessage())).Message, StringComparison.Ordinal);
        var filled = new WaveMessage();
        Assert.True(filled.Fill([1, 2], 2));
        Assert.Equal(2, serializer.Deserialize(serializer.SerializeToArray(filled))!.Length);
    }

    [Fact]
    public void Inside_a_silo_the_same_instance_arrives()
    {
        var copier = _services.GetRequiredService<DeepCopier<WaveMessage>>();
        var wave = new WaveMessage([1], 1);
        Assert.Same(wave, copier.Copy(wave));
        Assert.True(((IOptionalDeepCopier)new WaveMessageCopier()).IsShallowCopyable());
    }

    [Fact]
    public void A_wave_is_claimed_once_however_many_try()
    {
        for (int round = 0; round < 200; round++)
        {
            var wave = new WaveMessage(new byte[8], 8);
            int claims = 0;
            Parallel.For(0, 8, _ =>
            {
                if (wave.TryClaim(out byte[] array, out int length) && array.Length == 8 && length == 8) Interlocked.Increment(ref claims);
            });
            Assert.Equal(1, claims);
            Assert.True(wave.Claimed);
        }
    }

    [Fact]
    public void An_array_given_back_twice_is_caught()
    {
        Wave wave = Wave.Rent(slots: 1, rows: 1, width: 4);
        wave.Return();
        Assert.Contains("twice", Assert.Throws<InvalidOperationException>(wave.Return).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_hint_survives_the_wire_and_gives_its_array_back_when_it_is_written()
    {
        var serializer = _services.GetRequiredService<Serializer<PrefetchHint>>();
        byte[] numbers = [1, 2, 3, 4, 5, 6, 7, 8];
        PrefetchHint hint = PrefetchHint.Rent(numbers, 2, rows: true);
        PrefetchHint read = serializer.Deserialize(serializer.SerializeToArray(hint))!;
        Assert.False(hint.TryClaim(out _));
        Assert.Equal((2, true, 8), (read.Count, read.Rows, read.Length));
        Assert.True(read.TryClaim(out byte[] array));
        Assert.Equal(numbers, array[..8]);
        PrefetchHint.Return(array);
        // Sent again it is empty, and harmless.
        PrefetchHint again = serializer.Deserialize(serializer.SerializeToArray(hint))!;
        Assert.Equal((0, 0), (again.Count, again.Length));
        again.TryReturn();
    }

    [Fact]
    public void A_hint_inside_a_silo_is_the_same_instance_and_claimed_once()
    {
        PrefetchHint hint = PrefetchHint.Rent(new byte[4], 1, rows: false);
        Assert.Same(hint, _services.GetRequiredService<DeepCopier<PrefetchHint>>().Copy(hint));
        Assert.True(hint.TryClaim(out byte[] array));
        Assert.False(hint.TryClaim(out _));
        PrefetchHint.Return(array);
    }

    [Fact]
    public void A_long_wave_is_cut_between_slots_and_nothing_is_lost()
    {
        Wave wave = Wave.Rent(slots: 5, rows: 15, width: 8);
        for (int i = 0; i < 5; i++) wave.Slots[i] = new Slot { Session = Guid.NewGuid(), Count = i + 1, Step = i };
        for (int i = 0; i < 15; i++) wave.Tokens[i] = 100 + i;
        for (int i = 0; i < wave.Rows.Length; i++) wave.Rows[i] = i;
        Slot[] slots = wave.Slots.ToArray();

        Assert.False(WaveSplitter.Fits(wave, maxBytes: 6 * 8 * sizeof(float)));
        Wave[] parts = WaveSplitter.Split(wave, maxBytes: 6 * 8 * sizeof(float));
        Assert.All(parts, p => Assert.True(WaveSplitter.Fits(p, maxBytes: 6 * 8 * sizeof(float))));

        Assert.Equal([3, 1, 1], parts.Select(p => p.SlotCount));
        Assert.Equal(slots.Select(s => s.Session), parts.SelectMany(p => p.Slots.ToArray()).Select(s => s.Session));
        Assert.Equal(Enumerable.Range(100, 15), parts.SelectMany(p => p.Tokens.ToArray()));
        Assert.Equal(Enumerable.Range(0, 120).Select(i => (float)i), parts.SelectMany(p => p.Rows.ToArray()));
    }
}
