using FlashOrleans.Abstractions;
using FlashOrleans.Client;

namespace FlashOrleans.Grains.Tests;

/// <summary>Conversations that outgrow their context and were asked to go on.</summary>
public sealed class ShiftTests
{
    private static int[] Shift(int length, int prefix, int positions, int answer) => TurnInput.Shift([.. Enumerable.Range(0, length)], () => prefix, positions, answer);

    [Fact]
    public void What_leaves_room_for_the_answer_stays_as_it_is()
    {
        Assert.Equal(Enumerable.Range(0, 90), Shift(90, 0, 100, 10));
        // A quarter is room enough for an answer of any length.
        Assert.Equal(Enumerable.Range(0, 75), Shift(75, 0, 100, int.MaxValue));
    }

    [Fact]
    public void Half_of_what_is_behind_the_prefix_goes_and_the_prefix_stays()
    {
        Assert.Equal([.. Enumerable.Range(0, 20), .. Enumerable.Range(60, 36)], Shift(96, 20, 100, 5));
        // As many halves as it takes.
        Assert.Equal([.. Enumerable.Range(0, 20), .. Enumerable.Range(220, 60)], Shift(280, 20, 100, 20));
    }

    [Fact]
    public void What_is_kept_stays_the_beginning_while_the_conversation_grows()
    {
        int[] before = Shift(96, 20, 100, 5);
        for (int length = 97; length <= 135; length++)
        {
            int[] now = Shift(length, 20, 100, 5);
            Assert.Equal(before, now[..^1]);
            before = now;
        }
        Assert.True(Shift(136, 20, 100, 5).Length < before.Length);
    }

    [Fact]
    public void A_prefix_that_leaves_no_room_is_not_cut_and_nothing_else_is() => Assert.Equal(200, Shift(200, 60, 100, 25).Length);

    [Fact]
    public async Task After_a_shift_the_answer_is_that_of_a_fresh_session_with_what_was_kept()
    {
        using var model = new TestModel(positions: 128);
        await using GrainCluster cluster = await GrainCluster.StartAsync(model.Folder);
        int[] history = model.Prompt(1, length: 150);
        FlashSession session = cluster.Client.OpenSession();
        TurnRequest turn = Turns.Of(history, 20, new SamplingFacts(0.9f, 5));
        TurnRejectedException refused = await Assert.ThrowsAsync<TurnRejectedException>(() => session.StartAsync(turn));
        Assert.True(refused.TooLong);

        int[] kept = history[64..];
        List<TokenChunk> chunks = await session.SendAsync(turn with { Shift = true }).AllAsync();
        Assert.Equal(model.TokensAlone(kept, 20, new SamplingFacts(0.9f, 5)), chunks.Tokens());
        Assert.Equal(kept.Length, chunks[^1].Usage!.PromptTokens);
        int[] held = [.. kept, .. chunks.Tokens()];
        Assert.Equal(held, await session.GetTokensAsync());

        // The session goes on from there, and over its end once more.
        int[] more = model.Prompt(2, length: 30), then = [.. held, .. more];
        List<TokenChunk> next = await session.SendAsync(Turns.Of(more, 20, new SamplingFacts(0.9f, 6)) with { Shift = true }).AllAsync();
        Assert.Equal(model.TokensAlone(then[64..], 20, new SamplingFacts(0.9f, 6)), next.Tokens());
    }
}
