using System.Collections.Concurrent;
using FlashOrleans.Abstractions;
using Orleans.Serialization.Invocation;

namespace FlashOrleans.Grains.Tests;

/// <summary>
/// A network that loses, doubles, delays and reorders a share of the data plane: waves between layers, results and faults to sessions. Seeded; remembers every wave
/// it saw, so that a test can tell whether each found its owner.
/// </summary>
internal sealed class Mischief(int seed, double share) : IOutgoingGrainCallFilter, IIncomingGrainCallFilter
{
    private readonly Random _random = new(seed);
    private readonly ConcurrentDictionary<WaveMessage, string> _seen = new();
    /// <summary>What went wrong in this class itself, rather than on the network it plays.</summary>
    public ConcurrentBag<Exception> Errors { get; } = [];
    private long _calls;
    private int _dropped, _doubled, _delayed, _forwards;

    public bool On { get; set; }
    /// <summary>Waves that nobody has claimed, and how far they got.</summary>
    public IEnumerable<string> Unclaimed => _seen.Where(static w => !w.Key.Claimed).Select(static w => w.Value);
    public int Dropped => _dropped;
    public int Doubled => _doubled;
    public int Delayed => _delayed;
    /// <summary>Waves that reached a layer grain.</summary>
    public int Forwards => _forwards;

    // What arrives: counted, not touched.
    public Task Invoke(IIncomingGrainCallContext context)
    {
        if (context.Grain is ILayerGrain && context.MethodName == nameof(ILayerGrain.Forward) && context.Request.GetArgument(0) is WaveMessage wave)
        {
            _seen[wave] = "arrived";
            Interlocked.Increment(ref _forwards);
        }
        return context.Invoke();
    }

    /// <summary>Until so many more calls have come by, or none come: everybody may be waiting for this one.</summary>
    private async Task LaterAsync(int calls)
    {
        long due = Interlocked.Read(ref _calls) + calls;
        for (int turns = 0; turns < 5000 && Interlocked.Read(ref _calls) < due; turns++) await Task.Yield();
    }

    public async Task Invoke(IOutgoingGrainCallContext context)
    {
        Interlocked.Increment(ref _calls);
        bool forward = context.MethodName == nameof(ILayerGrain.Forward);
        bool data = forward || context.MethodName is nameof(ISessionGrain.Deliver) or nameof(ISessionGrain.Fault);
        if (forward && context.Request.GetArgument(0) is WaveMessage sent) _seen.TryAdd(sent, "sent");
        if (!On || !data)
        {
            await context.Invoke();
            return;
        }
        double dice;
        lock (_random) dice = _random.NextDouble() / share;
        if (dice < 0.25)
        {
            Interlocked.Increment(ref _dropped);
            // Lost without a word: the sender believes that it arrived.
            context.Response = Response.Completed;
        }
        else if (dice < 0.5)
        {
            Interlocked.Increment(ref _doubled);
            Task again = Again(context, forward);
            await context.Invoke();
            try { await again; }
            catch (Exception e) { Errors.Add(e); }
        }
        else if (dice < 1)
        {
            // Late enough for others, and for duplicates of its own, to overtake it.
            Interlocked.Increment(ref _delayed);
            await LaterAsync(dice < 0.75 ? 3 : 12);
            await context.Invoke();
        }
        else
        {
            await context.Invoke();
        }
    }

    private async Task Again(IOutgoingGrainCallContext context, bool forward)
    {
        object? argument = context.Request.GetArgument(0);
        if (forward && argument is WaveMessage wave)
        {
            // Read before the original is sent: afterwards its array is the receiver's. One ahead of its wave has nothing to read yet.
            WaveMessage copy = wave.HasWave ? wave.Copy() : wave;
            _seen.TryAdd(copy, "copied");
            await Task.Yield();
            try { await ((ILayerGrain)context.Grain).Forward(copy); }
            catch (LayerUnavailableException) { }
            // Sent to another silo it was copied onto the wire, and is ours again. One ahead of its wave is the sender's.
            if (copy != wave && copy.TryClaim(out byte[] array, out _)) System.Buffers.ArrayPool<byte>.Shared.Return(array);
        }
        else if (argument is StepOutcome outcome)
        {
            await ((ISessionGrain)context.Grain).Deliver(outcome);
        }
        else if (argument is StepFailure failure)
        {
            await ((ISessionGrain)context.Grain).Fault(failure);
        }
    }
}
