using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

public sealed class SessionTimelineTests
{
    private static readonly Guid s_id = Guid.NewGuid();

    [Fact]
    public void A_prompt_goes_out_in_chunks_and_only_the_last_one_asks_for_a_token()
    {
        var timeline = With([1, 2, 3, 4, 5]);
        var first = timeline.Submit(3, Sampling.Greedy);
        Assert.Equal([1, 2, 3], first.Tokens.ToArray());
        Assert.Equal(SlotFlags.None, first.Slots[0].Flags);
        Assert.True(timeline.Accept(Result(timeline, 3)));
        var second = timeline.Submit(3, Sampling.Greedy);
        Assert.Equal([4, 5], second.Tokens.ToArray());
        Assert.Equal((3, SlotFlags.Sample), (second.Slots[0].Position, second.Slots[0].Flags));
        Assert.True(timeline.Accept(Result(timeline, 5)));
        Assert.Equal(5, timeline.Computed);
    }

    [Fact]
    public void A_duplicate_or_late_result_is_dropped()
    {
        var timeline = With([1, 2]);
        timeline.Submit(8, Sampling.Greedy);
        var result = Result(timeline, 2);
        Assert.True(timeline.Accept(result));
        Assert.False(timeline.Accept(result));
        timeline.Append([3]);
        timeline.Submit(8, Sampling.Greedy);
        Assert.False(timeline.Accept(result));
        Assert.True(timeline.InFlight);
    }

    [Fact]
    public void After_a_KV_miss_it_goes_back_to_the_length_whose_hash_agrees_else_to_zero()
    {
        var timeline = With([1, 2, 3, 4]);
        timeline.Submit(8, Sampling.Greedy);
        timeline.Accept(Result(timeline, 4));
        timeline.Append([5]);
        var slot = timeline.Submit(8, Sampling.Greedy).Slots[0];
        ulong hashOfTwo = TokenChain.Next(TokenChain.Next(TokenChain.Start, 1), 2);
        Assert.True(timeline.Accept(new SlotFault(s_id, 1, slot.Step, FaultKind.KvMiss, "", 2, hashOfTwo)));
        Assert.Equal(2, timeline.Computed);
        slot = timeline.Submit(8, Sampling.Greedy).Slots[0];
        Assert.Equal((2, 3), (slot.Position, slot.Count));
        Assert.Equal(hashOfTwo, slot.PrefixHash);
        timeline.Accept(new SlotFault(s_id, 1, slot.Step, FaultKind.KvMiss, "", 2, 12345));
        Assert.Equal(0, timeline.Computed);
    }

    [Fact]
    public void An_abandoned_step_is_old_and_the_next_one_has_a_newer_epoch()
    {
        var timeline = With([1, 2]);
        var old = timeline.Submit(8, Sampling.Greedy).Slots[0];
        timeline.Abandon(2);
        Assert.False(timeline.Accept(new StepResult { Session = s_id, Epoch = old.Epoch, Step = old.Step, End = 2, Token = 7 }));
        var again = timeline.Submit(8, Sampling.Greedy).Slots[0];
        Assert.True((again.Epoch, again.Step).CompareTo((old.Epoch, old.Step)) > 0);
        Assert.Equal((old.Position, old.Count), (again.Position, again.Count));
    }

    [Fact]
    public void Truncated_tokens_change_the_chain_but_not_the_prefix()
    {
        var timeline = With([1, 2, 3, 4]);
        timeline.Submit(8, Sampling.Greedy);
        timeline.Accept(Result(timeline, 4));
        timeline.Truncate(2);
        timeline.Append([9, 9]);
        var slot = timeline.Submit(8, Sampling.Greedy).Slots[0];
        Assert.Equal((2, 2), (slot.Position, slot.Count));
        Assert.Equal(TokenChain.Next(TokenChain.Next(TokenChain.Start, 1), 2), slot.PrefixHash);
    }

    private static StepResult Result(SessionTimeline timeline, int end) =>
        new() { Session = s_id, Epoch = timeline.Epoch, Step = timeline.Step, End = end, Token = 7 };

    [Fact]
    public void With_dynamic_rotation_kept_lengths_bring_back_the_same_chain_and_other_lengths_do_not()
    {
        var rope = new RopeConfig { Scaling = RopeScaling.Dynamic, Factor = 4, OriginalPositions = 4 };
        var timeline = new SessionTimeline(s_id, 1, rope);
        timeline.Append([1, 2, 3, 4, 5, 6]);
        timeline.Append([7]);
        timeline.Append([8]);
        Assert.Equal([6, 6, 6, 6, 6, 6, 7, 8], timeline.Lengths.ToArray());

        var again = With([1, 2, 3, 4, 5, 6, 7, 8]);
        again.Rotate(rope, timeline.Lengths);
        Assert.Equal(Chain(timeline), Chain(again));
        var anew = With([1, 2, 3, 4, 5, 6, 7, 8]);
        anew.Rotate(rope);
        Assert.Equal(Enumerable.Repeat(8, 8), anew.Lengths.ToArray());
        Assert.NotEqual(Chain(timeline), Chain(anew));

        // Steps do not mix lengths.
        Assert.Equal([(0, 4, 6), (4, 2, 6), (6, 1, 7), (7, 1, 8)], Steps(again, 4));
    }

    [Fact]
    public void With_longrope_a_sequence_that_outgrows_the_limit_starts_anew_and_one_that_shrinks_too()
    {
        var rope = new RopeConfig { Scaling = RopeScaling.LongRope, OriginalPositions = 4, ShortFactors = [1], LongFactors = [2] };
        var timeline = new SessionTimeline(s_id, 1, rope);
        timeline.Append([1, 2, 3, 4]);
        Assert.Equal([(0, 4, 1)], Steps(timeline, 8));
        timeline.Append([5]);
        Assert.Equal(0, timeline.Computed);
        Assert.Equal([(0, 5, 5)], Steps(timeline, 8));
        timeline.Truncate(3);
        Assert.Equal(0, timeline.Computed);
        Assert.Equal([(0, 3, 1)], Steps(timeline, 8));
    }

    private static List<(int Position, int Count, int Length)> Steps(SessionTimeline timeline, int chunk)
    {
        var steps = new List<(int, int, int)>();
        while (timeline.Computed < timeline.Length)
        {
            var wave = timeline.Submit(chunk, Sampling.Greedy);
            var slot = wave.Slots[0];
            steps.Add((slot.Position, slot.Count, slot.Length));
            wave.Return();
            Assert.True(timeline.Accept(new StepResult { Session = s_id, Epoch = slot.Epoch, Step = slot.Step, End = slot.Position + slot.Count, Token = -1 }));
        }
        return steps;
    }

    /// <summary>The hash of the whole sequence, as the next step would carry it.</summary>
    private static ulong Chain(SessionTimeline timeline)
    {
        ulong hash = TokenChain.Start;
        for (int i = 0; i < timeline.Length; i++) hash = TokenChain.Next(hash, timeline.Tokens[i], timeline.Lengths[i]);
        return hash;
    }

    private static SessionTimeline With(ReadOnlySpan<int> tokens)
    {
        var timeline = new SessionTimeline(s_id, 1);
        timeline.Append(tokens);
        return timeline;
    }
}
