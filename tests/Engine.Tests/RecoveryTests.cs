using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>The recovery rule in the engine: lost KV is replayed, old steps are dropped, faults end only what they must, memory comes back.</summary>
public sealed class RecoveryTests
{
    private const int Vocabulary = 200;

    [Fact]
    public void A_session_whose_KV_was_dropped_replays_and_its_tokens_stay_the_same()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(20, Vocabulary, 1);
        using var engine = new LocalEngine(tiny.Package);
        var expected = ExactnessTests.Run(engine, prompt, 12, 64, Vocabulary);
        using var session = engine.OpenSession();
        var actual = new List<(int, float)[]>();
        foreach (var result in session.Generate(prompt, 12, Sampling.Greedy, null, Vocabulary))
        {
            actual.Add(result.Top!);
            if (actual.Count is 4 or 9) engine.Conductor.CloseSession(session.Id);
        }
        ExactnessTests.AssertSame(expected, [.. actual], "after losing KV twice");
        Assert.Equal(2, session.Replays);
    }

    [Fact]
    public void Least_recently_used_sessions_are_evicted_over_the_KV_limit_and_replay()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        long block = 2 * 2 * KvCache.BlockPositions * 16 * 2;
        using var engine = new LocalEngine(tiny.Package, new() { KvLimitPerLayer = 2 * block }, new());
        using var first = engine.OpenSession();
        int[] prompt = ExactnessTests.Prompt(10, Vocabulary, 2);
        var alone = first.Generate(prompt, 3, Sampling.Greedy, null, Vocabulary).Select(r => r.Top!).ToArray();
        for (int i = 0; i < 4; i++)
        {
            using var other = engine.OpenSession();
            Assert.Equal(2, other.Generate(ExactnessTests.Prompt(10, Vocabulary, 30 + i), 2, Sampling.Greedy).Count());
            Assert.True(engine.Layers[0].Stats.KvBytes <= 3 * block);
        }
        using var again = engine.OpenSession();
        ExactnessTests.AssertSame(alone, again.Generate(prompt, 3, Sampling.Greedy, null, Vocabulary).Select(r => r.Top!).ToArray(), "after evictions");
        first.Timeline.Truncate(first.Timeline.Length - 1);
        first.Run(Sampling.Greedy);
    }

    [Fact]
    public void A_session_closed_while_a_step_reads_it_is_freed_when_the_step_lets_go()
    {
        var ledger = new MemoryLedger();
        using var kv = new KvCache(TinyPackage.Llama(), KvType.F32, ledger, "kv");
        var slot = new Slot { Session = Guid.NewGuid(), Epoch = 1, Step = 1, Count = 3, PrefixHash = TokenChain.Start };
        Assert.Equal(Admission.Accepted, kv.Admit(slot, [1, 2, 3], out var sequence));
        sequence!.Pins++;
        kv.Close(slot.Session);
        kv.EvictTo(0);
        Assert.True(ledger.Total > 0);
        kv.Unpin(sequence);
        kv.EvictTo(0);
        Assert.Equal(0, ledger.Total);
    }

    [Fact]
    public void An_unreadable_neuron_ends_only_the_sessions_that_need_it_and_the_engine_goes_on()
    {
        var opened = new List<MemoryFile>();
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8, open: path => Remember(opened, path));
        int[] prompt = ExactnessTests.Prompt(6, Vocabulary, 3);
        using var engine = new LocalEngine(tiny.Package, new() { MaxWaveRows = 16 }, new() { Window = 0.02, Prefetch = false });
        var expected = ExactnessTests.Run(engine, prompt, 4, 1, Vocabulary);
        // Once more than the reader's one retry.
        opened.Last(f => f.Name.EndsWith("001.slice", StringComparison.Ordinal)).Inject(new MemoryFault { Errno = 5, Times = 2 });
        using (var broken = engine.OpenSession())
        {
            var fault = Assert.Throws<StepFaultException>(() => broken.Generate(prompt, 4, Sampling.Greedy, null, 0, 1).Count());
            Assert.Equal(FaultKind.Flash, fault.Kind);
            Assert.Contains("001.slice", fault.Message, StringComparison.Ordinal);
        }
        ExactnessTests.AssertSame(expected, ExactnessTests.Run(engine, prompt, 4, 1, Vocabulary), "after the fault");
    }

    [Fact]
    public void Of_two_sessions_in_one_wave_only_the_one_that_needs_the_unreadable_neuron_ends()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.F32);
        int[] tokens = [3, 150];
        using var plain = new LocalEngine(tiny.Package);
        var expected = tokens.Select(t => ExactnessTests.Run(plain, [t], 1, 1, Vocabulary)).ToArray();
        using var device = new FlashReader(2);
        var reader = new ReaderTwin(device);
        using var conductor = new Conductor(new() { Threads = 1 }, null, reader, start: false);
        using var engine = new LocalEngine(tiny.Package, conductor, new() { Window = 0.02, Prefetch = false }, null);
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        int[] ended = [0, 0];
        for (int unit = 0; unit < engine.Layers[1].Bundles!.Region.Count && (ended[0] == 0 || ended[1] == 0); unit++)
        {
            int broken = unit;
            reader.Broken = (region, u) => u == broken && region.File.Name.EndsWith("001.slice", StringComparison.Ordinal);
            long waves = engine.Layers[1].Stats.Waves;
            var sessions = tokens.Select(_ => engine.OpenSession()).ToArray();
            for (int i = 0; i < 2; i++)
            {
                sessions[i].Timeline.Append([tokens[i]]);
                sessions[i].Submit(Sampling.Greedy, SlotFlags.Sample, Vocabulary, 1);
            }
            PumpUntil(conductor, () => sessions.All(s => !s.Timeline.InFlight));
            Assert.Equal(waves + 1, engine.Layers[1].Stats.Waves);
            var faults = new StepFaultException?[2];
            for (int i = 0; i < 2; i++)
            {
                try
                {
                    Assert.True(sessions[i].Poll(out var result));
                    ExactnessTests.AssertSame(expected[i], [result.Top!], $"unit {unit}, session {i}");
                }
                catch (StepFaultException fault)
                {
                    Assert.Equal(FaultKind.Flash, fault.Kind);
                    Assert.Contains("001.slice", fault.Message, StringComparison.Ordinal);
                    faults[i] = fault;
                }
                sessions[i].Dispose();
            }
            for (int i = 0; i < 2; i++)
            {
                if (faults[i] != null && faults[1 - i] == null) ended[i]++;
            }
        }
        Assert.True(ended[0] > 0 && ended[1] > 0, $"{ended[0]} times the first alone, {ended[1]} times the second alone");
    }

    [Theory]
    [InlineData(FeedForwardMode.Exact, 0.02)]
    [InlineData(FeedForwardMode.Exact, 1)]
    [InlineData(FeedForwardMode.Exact, 0.4, true)]
    [InlineData(FeedForwardMode.Dense, 0.1)]
    [InlineData(FeedForwardMode.Dense, 1)]
    public async Task A_bit_that_flips_once_in_each_unit_is_read_again_and_changes_no_token(FeedForwardMode mode, double window, bool stretches = false)
    {
        var opened = new List<MemoryFile>();
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q4, open: path => Remember(opened, path));
        int[] prompt = ExactnessTests.Prompt(6, Vocabulary, 3);
        LayerOptions options = new() { Mode = mode, Window = window, Prefetch = false, LeastStretchBytes = stretches ? 0 : Stretches.LeastBytes };
        using var whole = new LocalEngine(tiny.Package, null, options);
        var expected = ExactnessTests.Run(whole, prompt, 4, 3, Vocabulary);
        int before = opened.Count;
        using var engine = new LocalEngine(tiny.Package, null, options);
        await Task.WhenAll(engine.Layers.Select(l => l.Loaded));
        using (var file = tiny.Package.OpenSlice(2))
        {
            var units = file.BundleUnits(whole: mode == FeedForwardMode.Dense);
            foreach (var slice in opened.Skip(before).Where(f => f.Name.EndsWith("002.slice", StringComparison.Ordinal)))
            {
                for (int u = 0; u < units.Count; u++) slice.Inject(new MemoryFault { Offset = units.Start(u) + 5, FlipBit = 3, Times = 1 });
            }
        }
        ExactnessTests.AssertSame(expected, ExactnessTests.Run(engine, prompt, 4, 3, Vocabulary), "with every unit read twice");
        Assert.True(engine.Layers[2].Stats.DemandReads > whole.Layers[2].Stats.DemandReads, "nothing was read again");
    }

    [Fact]
    public void A_flipped_bit_under_a_running_engine_is_a_fault_that_names_the_file_never_other_tokens()
    {
        var opened = new List<MemoryFile>();
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q4, open: path => Remember(opened, path));
        using var engine = new LocalEngine(tiny.Package, null, new() { Window = 0.02, Prefetch = false });
        using (var file = tiny.Package.OpenSlice(2))
        {
            var units = file.BundleUnits(whole: false);
            foreach (var slice in opened.Where(f => f.Name.EndsWith("002.slice", StringComparison.Ordinal)))
            {
                for (int u = 0; u < units.Count; u++) slice.Inject(new MemoryFault { Offset = units.Start(u) + 5, FlipBit = 3, Times = MemoryFault.Always });
            }
        }
        using var session = engine.OpenSession();
        var fault = Assert.Throws<StepFaultException>(() => session.Generate([1, 2, 3], 4, Sampling.Greedy).Count());
        Assert.Equal(FaultKind.Flash, fault.Kind);
        Assert.Contains("002.slice", fault.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Tokens_beyond_the_context_or_the_vocabulary_are_refused_by_name()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        using var engine = new LocalEngine(tiny.Package);
        using var longer = engine.OpenSession();
        var fault = Assert.Throws<StepFaultException>(() => longer.Generate(ExactnessTests.Prompt(257, Vocabulary, 4), 1, Sampling.Greedy).Count());
        Assert.Contains("context_length_exceeded", fault.Message, StringComparison.Ordinal);
        using var stranger = engine.OpenSession();
        fault = Assert.Throws<StepFaultException>(() => stranger.Generate([1, 200], 1, Sampling.Greedy).Count());
        Assert.Contains("200", fault.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_detached_layer_gives_every_native_byte_back_and_refuses_waves()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        var conductor = new Conductor(new());
        using (var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions(), null))
        {
            ExactnessTests.Run(engine, [1, 2, 3], 4, 64, Vocabulary);
            Assert.True(conductor.Ledger.Held("tiny/1") > 0);
            await conductor.DetachAsync(engine.Layers[1]);
            Assert.Equal(0, conductor.Ledger.Held("tiny/1"));
            Assert.Equal(0, engine.Layers[1].NativeBytes);
            using var session = engine.OpenSession();
            var fault = Assert.Throws<StepFaultException>(() => session.Generate([1, 2], 1, Sampling.Greedy).Count());
            Assert.Equal(FaultKind.Unavailable, fault.Kind);
        }
        conductor.Dispose();
        Assert.Empty(conductor.Ledger.Snapshot());
    }

    [Fact]
    public async Task A_layer_that_cannot_be_loaded_reports_it_and_faults_its_waves()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        File.WriteAllBytes(Path.Combine(tiny.Package.Path, "layers", "001.slice"), [1, 2, 3]);
        using var conductor = new Conductor(new());
        using var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions(), null);
        await Assert.ThrowsAsync<FlashException>(() => engine.Layers[1].Loaded);
        using var session = engine.OpenSession();
        var fault = Assert.Throws<StepFaultException>(() => session.Generate([1, 2], 1, Sampling.Greedy).Count());
        Assert.Contains("001.slice", fault.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_cancelled_step_is_dropped_where_it_waits_and_no_longer_held()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        using var conductor = new Conductor(new() { Threads = 1 }, null, null, start: false);
        using var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions(), null);
        while (!engine.Layers.All(l => l.IsReady)) conductor.Pump();
        using var session = engine.OpenSession();
        session.Timeline.Append([1, 2, 3]);
        session.Submit(Sampling.Greedy, SlotFlags.Sample, 0, 64);
        Assert.True(conductor.Holds(session.Id, 1, 1));
        conductor.Cancel(session.Id, 1, 1);
        while (conductor.Pump()) { }
        Assert.False(conductor.Holds(session.Id, 1, 1));
        Assert.Null(session.Poll(out _));
        Assert.Equal(0, engine.Layers[0].Stats.Slots);
    }

    [Fact]
    public async Task Edge_weights_whose_loading_failed_are_freed_with_the_layers_that_use_them()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), WeightFormat.Q8);
        string edge = Path.Combine(tiny.Package.Path, "edge.bin");
        byte[] bytes = File.ReadAllBytes(edge);
        using (var file = tiny.Package.OpenEdge()) bytes[file.Section("embed").Offset + 70] ^= 1;
        File.WriteAllBytes(edge, bytes);
        using var conductor = new Conductor(new() { Threads = 1 });
        using (var engine = new LocalEngine(tiny.Package, conductor, new LayerOptions(), null))
        {
            var error = await Assert.ThrowsAsync<FlashException>(() => engine.Layers[^1].Loaded);
            Assert.Contains("edge.bin", error.Message, StringComparison.Ordinal);
            await engine.Layers[0].Loaded;
        }
        Assert.Equal(0, conductor.Ledger.Held("tiny/edge"));
    }

    [Fact]
    public void A_slot_whose_embedding_cannot_be_read_needs_no_neuron_any_more()
    {
        var opened = new List<MemoryFile>();
        using var tiny = TinyPackage.Create(TinyPackage.Llama(tied: false), WeightFormat.F32, open: path => Remember(opened, path));
        using var conductor = new Conductor(new() { Threads = 1 }, null, null, start: false);
        using var engine = new LocalEngine(tiny.Package, conductor, new() { Prefetch = false }, null);
        conductor.Drive(Task.WhenAll(engine.Layers.Select(l => l.Loaded)));
        // Leaves rows of another step in the scratch.
        using var before = engine.OpenSession();
        Submit(before, ExactnessTests.Prompt(8, Vocabulary, 11));
        PumpUntil(conductor, () => !before.Timeline.InFlight);
        long active = engine.Layers[0].Stats.NeuronsActive, computed = engine.Layers[0].Stats.NeuronsComputed;
        using (var edge = tiny.Package.OpenEdge())
        {
            long row = edge.SectionUnits("embed").Start(150);
            foreach (var file in opened.Where(f => f.Name == "edge.bin")) file.Inject(new MemoryFault { Offset = row, Errno = 5, Times = MemoryFault.Always });
        }
        using var good = engine.OpenSession();
        using var broken = engine.OpenSession();
        Submit(good, [3]);
        Submit(broken, [150]);
        PumpUntil(conductor, () => !good.Timeline.InFlight && !broken.Timeline.InFlight);
        Assert.Throws<StepFaultException>(() => broken.Poll(out _));
        Assert.True(good.Poll(out _));
        Assert.Equal(2, engine.Layers[0].Stats.Waves);
        Assert.InRange(engine.Layers[0].Stats.NeuronsActive - active, 1, engine.Layers[0].Stats.NeuronsDense);
        Assert.Equal(engine.Layers[0].Stats.NeuronsComputed - computed, engine.Layers[0].Stats.NeuronsActive - active);
    }

    private static void Submit(EngineSession session, int[] tokens)
    {
        session.Timeline.Append(tokens);
        session.Submit(Sampling.Greedy, SlotFlags.Sample, Vocabulary, 64);
    }

    private static void PumpUntil(Conductor conductor, Func<bool> done)
    {
        while (!done())
        {
            if (!conductor.Pump()) Thread.Yield();
        }
    }

    internal static MemoryFile Remember(List<MemoryFile> opened, string path)
    {
        var file = new MemoryFile(File.ReadAllBytes(path), 512, Path.GetFileName(path));
        lock (opened) opened.Add(file);
        return file;
    }
}
