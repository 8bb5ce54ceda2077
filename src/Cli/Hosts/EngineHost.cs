using System.Diagnostics;
using System.Threading.Channels;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Grains;

namespace FlashOrleans.Cli.Hosts;

/// <summary>The engine without Orleans. Takes token ids only; a turn that samples needs a seed.</summary>
internal sealed class EngineHost : IModelHost
{
    private readonly FlashPackage _package;
    private readonly LocalEngine _engine;

    public EngineHost(string package, EngineOptions engine, LayerOptions layer)
    {
        _package = FlashPackage.Open(package);
        try
        {
            _engine = new LocalEngine(_package, engine, layer);
        }
        catch
        {
            _package.Dispose();
            throw;
        }
    }

    public string Path => "engine";
    public string Model => _package.Path;

    public IModelSession OpenSession() => new Session(_engine.OpenSession(), _package.Config);

    public Task<Snapshot> MeasureAsync() => Task.FromResult(new Snapshot
    {
        Layers = [.. _engine.Layers.Select(static l => Steps.ToWire(l.Stats))],
        Kernels = _engine.Conductor.Kernels,
        Threads = _engine.Conductor.Options.Threads,
        Access = _package.Access,
        NativeBytes = _engine.Conductor.Ledger.Total,
        Reads = _engine.Conductor.ReaderStats.Reads,
        ReadNanos = _engine.Conductor.ReaderStats.RingNanos,
        ReadBusyNanos = _engine.Conductor.ReaderStats.BusyNanos,
    });

    public ValueTask DisposeAsync()
    {
        _engine.Dispose();
        _package.Dispose();
        return default;
    }

    /// <summary>A thread of its own per turn: the engine's session waits on a monitor.</summary>
    private sealed class Session(EngineSession session, ModelConfig config) : IModelSession
    {
        public IAsyncEnumerable<TokenChunk> SendAsync(TurnRequest turn, CancellationToken cancel)
        {
            var channel = Channel.CreateUnbounded<TokenChunk>(new() { SingleReader = true, SingleWriter = true });
            var thread = new Thread(() =>
            {
                try
                {
                    Run(turn, channel.Writer, cancel);
                    channel.Writer.Complete();
                }
                catch (Exception e)
                {
                    channel.Writer.Complete(e);
                }
            })
            { IsBackground = true, Name = "engine session" };
            thread.Start();
            return channel.Reader.ReadAllAsync(cancel);
        }

        private void Run(TurnRequest turn, ChannelWriter<TokenChunk> chunks, CancellationToken cancel)
        {
            long start = Stopwatch.GetTimestamp();
            int[] prompt = turn.Tokens ?? throw new ArgumentException("the engine alone takes token ids", nameof(turn));
            var sampling = new Sampling
            {
                Temperature = turn.Sampling.Temperature,
                TopK = turn.Sampling.TopK,
                TopP = turn.Sampling.TopP,
                MinP = turn.Sampling.MinP,
                Seed = turn.Sampling.Seed ?? 0,
            };
            var stop = turn.StopTokens ?? config.EosTokens;
            int chunk = turn.PrefillChunk > 0 ? turn.PrefillChunk : 64;
            session.Timeline.Append(prompt);
            if (turn.MaxTokens == 0)
            {
                var nll = new List<float>();
                var flags = turn.Score ? SlotFlags.Score : SlotFlags.None;
                var end = session.Run(sampling, flags, turn.TopLogits, chunk, turn.Score ? step => nll.AddRange(step.Nll!) : null);
                chunks.TryWrite(new TokenChunk { Index = 0, TokenId = -1, Top = Top(end), InputNll = turn.Score ? [.. nll] : null, Finish = FinishReason.Length, Elapsed = Stopwatch.GetElapsedTime(start) });
                return;
            }
            for (int i = 0; i < turn.MaxTokens && !cancel.IsCancellationRequested; i++)
            {
                var step = session.Run(sampling, SlotFlags.Sample, turn.TopLogits, chunk);
                session.Timeline.Append([step.Token]);
                var finish = stop.Contains(step.Token) ? FinishReason.Stop : i + 1 == turn.MaxTokens ? FinishReason.Length : FinishReason.None;
                chunks.TryWrite(new TokenChunk { Index = i, TokenId = step.Token, LogProbability = step.LogProbability, Top = Top(step), Finish = finish, Elapsed = Stopwatch.GetElapsedTime(start) });
                if (finish != FinishReason.None) return;
            }
        }

        private static TokenLogit[]? Top(StepResult step) => step.Top is { } top ? [.. top.Select(static t => new TokenLogit(t.Id, t.Logit))] : null;

        public ValueTask DisposeAsync()
        {
            session.Dispose();
            return default;
        }
    }
}
