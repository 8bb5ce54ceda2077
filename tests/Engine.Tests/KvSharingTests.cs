using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Sessions that begin the same way compute that once, and nobody can tell by the bits.</summary>
public sealed class KvSharingTests
{
    private const int Vocabulary = 200;
    private static readonly ModelConfig s_long = TinyPackage.Llama(layers: 2) with { MaxPositions = 2048 };

    public static TheoryData<string, int, KvType> Variants()
    {
        var data = new TheoryData<string, int, KvType>();
        foreach (string kernels in Kernels.Available)
            foreach (int threads in new[] { 1, 2 })
                foreach (var kv in new[] { KvType.Q8, KvType.F16 }) data.Add(kernels, threads, kv);
        return data;
    }

    [Theory, MemberData(nameof(Variants))]
    public void A_second_session_with_the_same_1000_tokens_computes_only_its_own_part_and_gets_the_bits_it_gets_alone(string kernels, int threads, KvType kv)
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        var options = new EngineOptions { Kernels = kernels, Threads = threads, ParallelWork = 0 };
        int[] common = ExactnessTests.Prompt(1000, Vocabulary, 1);
        int[] second = [.. common, .. ExactnessTests.Prompt(30, Vocabulary, 2)];
        (int, float)[][] alone;
        using (var engine = new LocalEngine(tiny.Package, options, new() { Kv = kv })) alone = ExactnessTests.Run(engine, second, 6, 64, Vocabulary);
        using (var engine = new LocalEngine(tiny.Package, options, new() { Kv = kv }))
        {
            using var first = engine.OpenSession();
            Drain(first.Generate([.. common, 7, 8, 9], 2, Sampling.Greedy));
            long rows = engine.Layers[0].Stats.Rows;
            using var session = engine.OpenSession();
            var (restored, transcript) = Restored(session, second, 6);
            Assert.Equal(960, restored);
            Assert.Equal(second.Length - 960 + 5, engine.Layers[0].Stats.Rows - rows);
            ExactnessTests.AssertSame(alone, transcript, "with what another session computed");
            Assert.Equal(0, session.Replays);
        }
    }

    [Fact]
    public void Sessions_of_different_scopes_share_nothing_and_those_of_one_scope_do()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        using var engine = new LocalEngine(tiny.Package);
        int[] prompt = ExactnessTests.Prompt(300, Vocabulary, 3);
        ulong ada = TokenChain.StartOf("user\nada"), bob = TokenChain.StartOf("user\nbob");
        var first = engine.OpenSession(start: ada);
        var expected = first.Generate(prompt, 3, Sampling.Greedy, null, Vocabulary).Select(r => r.Top!).ToArray();
        using (var other = engine.OpenSession(start: bob))
        {
            var (restored, transcript) = Restored(other, prompt, 3);
            Assert.Equal(0, restored);
            ExactnessTests.AssertSame(expected, transcript, "another user");
        }
        first.Release();
        using (var other = engine.OpenSession(start: bob)) Assert.Equal(0, Restored(other, prompt, 1).Restored);
        using (var same = engine.OpenSession(start: ada)) Assert.Equal(299, Restored(same, prompt, 1).Restored);
    }

    [Fact]
    public void Who_sends_the_whole_conversation_again_goes_on_from_its_last_token()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        using var engine = new LocalEngine(tiny.Package);
        var first = engine.OpenSession();
        int[] prompt = ExactnessTests.Prompt(150, Vocabulary, 4);
        int[] answer = [.. first.Generate(prompt, 20, Sampling.Greedy).Select(r => r.Token)];
        first.Release();
        int[] again = [.. prompt, .. answer, .. ExactnessTests.Prompt(10, Vocabulary, 5)];
        using var second = engine.OpenSession();
        // The last token of the answer was never computed.
        Assert.Equal(169, Restored(second, again, 4).Restored);
        using var plain = new LocalEngine(tiny.Package);
        ExactnessTests.AssertSame(ExactnessTests.Run(plain, again, 4, 64, Vocabulary), Tops(second, again, 4), "continued");
    }

    [Theory]
    [InlineData(128)]
    [InlineData(100)]
    [InlineData(64)]
    [InlineData(1)]
    public void An_edit_of_one_session_leaves_the_other_that_shares_its_blocks_as_it_was(int at)
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(200, Vocabulary, 6), edited = [.. prompt[..at], .. ExactnessTests.Prompt(40, Vocabulary, 7)];
        using var plain = new LocalEngine(tiny.Package);
        var expected = ExactnessTests.Run(plain, prompt, 8, 64, Vocabulary);
        var expectedEdit = ExactnessTests.Run(plain, edited, 4, 64, Vocabulary);
        using var engine = new LocalEngine(tiny.Package);
        using var first = engine.OpenSession();
        var got = new List<(int, float)[]>();
        using var fork = engine.OpenSession();
        foreach (var result in first.Generate(prompt, 8, Sampling.Greedy, null, Vocabulary))
        {
            got.Add(result.Top!);
            if (got.Count != 3) continue;
            // A fork in the middle of the answer, then an edit of it, while the first goes on.
            first.Settle();
            fork.Timeline.Append(first.Timeline.Tokens);
            Assert.Equal(202, fork.Restore());
            fork.Run(Sampling.Greedy);
            fork.Timeline.Truncate(at);
            fork.Timeline.Append(edited.AsSpan(at));
            ExactnessTests.AssertSame(expectedEdit, Tops(fork, [], 4), "the edit");
        }
        ExactnessTests.AssertSame(expected, [.. got], "beside the edit");
        // What both had is still there, and each has its own.
        using var third = engine.OpenSession();
        Assert.Equal(192, Restored(third, prompt, 1).Restored);
    }

    [Fact]
    public void Two_sessions_that_compute_the_same_side_by_side_end_up_with_one_copy()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        using var engine = new LocalEngine(tiny.Package);
        int[] prompt = ExactnessTests.Prompt(256, Vocabulary, 8);
        using var one = engine.OpenSession();
        Drain(one.Generate(prompt, 2, Sampling.Greedy));
        long held = engine.Layers[0].Stats.KvBytes;
        using var two = engine.OpenSession();
        Drain(two.Generate(prompt, 2, Sampling.Greedy));
        Assert.Equal(held + held / 5, engine.Layers[0].Stats.KvBytes);
    }

    [Fact]
    public void A_lost_session_goes_on_from_what_is_left_of_it_and_of_others()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        using var engine = new LocalEngine(tiny.Package);
        int[] prompt = ExactnessTests.Prompt(400, Vocabulary, 9);
        var expected = ExactnessTests.Run(engine, prompt, 6, 64, Vocabulary);
        using var other = engine.OpenSession();
        Drain(other.Generate([.. prompt[..200], 1, 2, 3], 2, Sampling.Greedy));
        using var session = engine.OpenSession();
        var got = new List<(int, float)[]>();
        long rows = 0;
        foreach (var result in session.Generate(prompt, 6, Sampling.Greedy, null, Vocabulary))
        {
            got.Add(result.Top!);
            if (got.Count != 2) continue;
            engine.Conductor.CloseSession(session.Id);
            rows = engine.Layers[0].Stats.Rows;
        }
        ExactnessTests.AssertSame(expected, [.. got], "after losing KV");
        Assert.Equal(1, session.Replays);
        // 192 positions were left with the other; 401 tokens are there when it is lost, and three more come.
        Assert.Equal(402 - 192 + 3, engine.Layers[0].Stats.Rows - rows);
    }

    [Fact]
    public void With_a_budget_the_buffer_holds_what_it_holds_whatever_is_cached()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        var budget = new BudgetOptions { Size = BudgetSize.TryParse("400MiB", out var size) ? size : default, Sessions = 2, Context = 320, Host = BudgetHost.Engine };
        using var engine = new LocalEngine(tiny.Package, new() { Budget = budget }, new());
        using var plain = new LocalEngine(tiny.Package);
        long bytes = engine.Layers[0].Stats.KvBytes;
        for (int i = 0; i < 12; i++)
        {
            int[] prompt = [.. ExactnessTests.Prompt(130, Vocabulary, 10), .. ExactnessTests.Prompt(100 + i * 7, Vocabulary, i)];
            var session = engine.OpenSession();
            int restored = Restored(session, prompt, 1).Restored;
            if (i > 0) Assert.True(restored >= 128, $"session {i} found {restored}");
            if (i == 11) ExactnessTests.AssertSame(ExactnessTests.Run(plain, prompt, 3, 64, Vocabulary), Tops(session, prompt, 3), "in a full buffer");
            session.Release();
            Assert.Equal(bytes, engine.Layers[0].Stats.KvBytes);
        }
        // All of it for one: the longest session that is promised still fits, edit included.
        using var longest = engine.OpenSession();
        Drain(longest.Generate(ExactnessTests.Prompt(638, Vocabulary, 50), 2, Sampling.Greedy));
        longest.Timeline.Truncate(600);
        longest.Timeline.Append([5]);
        longest.Run(Sampling.Greedy);
        Assert.Equal(0, longest.Replays);
    }

    [Fact]
    public void What_is_unused_for_longest_goes_first_and_ends_before_beginnings()
    {
        var ledger = new MemoryLedger();
        using var kv = new KvCache(s_long, KvType.F32, ledger, "kv", 8);
        var a = Compute(kv, 1, 192);
        var b = Compute(kv, 2, 192);
        kv.Close(a.Session, keep: true);
        kv.Close(b.Session, keep: true);
        Compute(kv, 3, 192);
        // Two were free and one was needed: the end of the first.
        Assert.Equal(128, KvModelTests.Restore(kv, Guid.NewGuid(), a.Chain));
        Assert.Equal(192, KvModelTests.Restore(kv, Guid.NewGuid(), b.Chain));
    }

    [Fact]
    public void Blocks_that_a_running_step_reads_stay_while_everything_else_is_evicted()
    {
        var ledger = new MemoryLedger();
        using var kv = new KvCache(s_long, KvType.F32, ledger, "kv");
        var a = Compute(kv, 1, 192);
        var other = Guid.NewGuid();
        Assert.Equal(192, KvModelTests.Restore(kv, other, a.Chain));
        var slot = new Slot { Session = other, Epoch = 1, Step = 1, Position = 192, Count = 1, PrefixHash = a.Chain[192] };
        Assert.Equal(Admission.Accepted, kv.Admit(slot, [9], out var sequence));
        sequence!.Pins++;
        kv.Close(a.Session);
        kv.EvictTo(0);
        Assert.Equal(4 * KvCache.BlockBytes(s_long, KvType.F32), kv.UsedBytes);
        kv.Close(other);
        kv.EvictTo(0);
        Assert.Equal(4 * KvCache.BlockBytes(s_long, KvType.F32), kv.UsedBytes);
        kv.Unpin(sequence, 193);
        Assert.Equal(0, kv.UsedBytes);
    }

    private static void Drain(IEnumerable<StepResult> results)
    {
        foreach (var _ in results) { }
    }

    private static (Guid Session, ulong[] Chain) Compute(KvCache kv, int seed, int count)
    {
        var timeline = new SessionTimeline(Guid.NewGuid(), 1);
        timeline.Append(ExactnessTests.Prompt(count, Vocabulary, seed));
        var slot = new Slot { Session = timeline.Session, Epoch = 1, Step = 1, Count = count, PrefixHash = TokenChain.Start };
        Assert.Equal(Admission.Accepted, kv.Admit(slot, timeline.Tokens, out var sequence));
        sequence!.Pins++;
        kv.Unpin(sequence, count);
        kv.Settle(timeline.Session);
        return (timeline.Session, timeline.Chain.ToArray());
    }

    private static (int Restored, (int, float)[][] Transcript) Restored(EngineSession session, int[] prompt, int tokens)
    {
        session.Timeline.Append(prompt);
        int restored = session.Restore();
        return (restored, Tops(session, [], tokens));
    }

    private static (int, float)[][] Tops(EngineSession session, int[] prompt, int tokens)
    {
        session.Timeline.Truncate(prompt.Length > 0 ? 0 : session.Timeline.Length);
        session.Timeline.Append(prompt);
        if (prompt.Length > 0) session.Restore();
        var tops = new (int, float)[tokens][];
        for (int i = 0; i < tokens; i++)
        {
            var result = session.Run(Sampling.Greedy, SlotFlags.Sample, Vocabulary);
            tops[i] = result.Top!;
            session.Timeline.Append([result.Token]);
        }
        return tops;
    }
}
