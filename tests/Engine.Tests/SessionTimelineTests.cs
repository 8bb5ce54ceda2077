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

    private static SessionTimeline With(ReadOnlySpan<int> tokens)
    {
        var timeline = new SessionTimeline(s_id, 1);
        timeline.Append(tokens);
        return timeline;
    }
}
