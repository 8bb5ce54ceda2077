using FlashOrleans.Silo.Http;
using Microsoft.Extensions.Time.Testing;

namespace FlashOrleans.Silo.Tests;

/// <summary>Who is let in, in what order, and what the others are told.</summary>
public sealed class AdmissionTests
{
    private readonly FakeTimeProvider _time = new();

    [Fact]
    public void A_user_with_one_request_does_not_wait_behind_all_those_of_another()
    {
        using var admission = new Admission(1, 100, TimeSpan.FromHours(1), _time);
        Admission.Ticket running = admission.Enter("many", 1);
        Admission.Ticket[] many = [.. Enumerable.Range(0, 10).Select(_ => admission.Enter("many", 1))];
        Admission.Ticket one = admission.Enter("one", 1);
        Assert.Equal(0, one.Place!.Value.Ahead);
        running.Dispose();
        Assert.True(one.Admitted.IsCompletedSuccessfully);
        Assert.DoesNotContain(many, static t => t.Admitted.IsCompleted);
    }

    [Fact]
    public void Users_take_turns_and_each_one_s_requests_keep_their_order()
    {
        using var admission = new Admission(1, 100, TimeSpan.FromHours(1), _time);
        Admission.Ticket running = admission.Enter("x", 1);
        var waiting = new List<Admission.Ticket>();
        foreach (string user in new[] { "a", "a", "a", "b", "b", "c" }) waiting.Add(admission.Enter(user, 1));
        var order = new List<int>();
        for (Admission.Ticket now = running; waiting.Exists(t => !order.Contains(waiting.IndexOf(t)));)
        {
            now.Dispose();
            now = waiting.Single(t => t.Admitted.IsCompletedSuccessfully && !order.Contains(waiting.IndexOf(t)));
            order.Add(waiting.IndexOf(now));
        }
        Assert.Equal([0, 3, 5, 1, 4, 2], order);
    }

    [Fact]
    public void Whoever_asks_again_each_time_gets_no_more_than_their_turn()
    {
        using var admission = new Admission(1, 100, TimeSpan.FromHours(1), _time);
        Admission.Ticket now = admission.Enter("x", 1);
        var queue = Enumerable.Range(0, 20).Select(i => admission.Enter(i % 2 == 0 ? "a" : "b", 1)).ToList();
        int eager = 0;
        for (int turn = 0; turn < 12; turn++)
        {
            Admission.Ticket again = admission.Enter("eager", 1);
            now.Dispose();
            if (again.Admitted.IsCompleted)
            {
                now = again;
                eager++;
                continue;
            }
            now = queue.First(static t => t.Admitted.IsCompleted);
            queue.Remove(now);
            again.Dispose();
        }
        Assert.Equal(4, eager);
    }

    [Fact]
    public void A_request_for_many_answers_is_not_passed_for_ever_by_small_ones()
    {
        using var admission = new Admission(4, 100, TimeSpan.FromHours(1), _time);
        Admission.Ticket first = admission.Enter("a", 2), second = admission.Enter("b", 2);
        Admission.Ticket large = admission.Enter("c", 4);
        Admission.Ticket small = admission.Enter("d", 1);
        first.Dispose();
        Assert.False(large.Admitted.IsCompleted || small.Admitted.IsCompleted);
        second.Dispose();
        Assert.True(large.Admitted.IsCompletedSuccessfully);
        large.Dispose();
        Assert.True(small.Admitted.IsCompletedSuccessfully);
    }

    [Fact]
    public void What_a_wait_takes_follows_from_what_answers_took()
    {
        using var admission = new Admission(2, 3, TimeSpan.FromHours(1), _time);
        Admission.Ticket[] running = [admission.Enter("a", 1), admission.Enter("b", 1)];
        Admission.Ticket early = admission.Enter("c", 1);
        Assert.Equal((0, null), early.Place);
        _time.Advance(TimeSpan.FromSeconds(30));
        running[0].Dispose();
        Assert.True(early.Admitted.IsCompletedSuccessfully);
        Assert.Null(early.Place);
        Admission.Ticket[] waiting = [admission.Enter("d", 1), admission.Enter("e", 1), admission.Enter("f", 1)];
        Assert.Equal((0, TimeSpan.FromSeconds(15)), waiting[0].Place);
        Assert.Equal((2, TimeSpan.FromSeconds(45)), waiting[2].Place);
        var refused = Assert.Throws<ApiException>(() => admission.Enter("g", 1)).Error;
        Assert.Equal((429, 60), (refused.Status, refused.RetryAfter));
        Assert.Contains("60 s", refused.Message, StringComparison.Ordinal);
        waiting[0].Dispose();
        Assert.Equal(1, waiting[2].Place!.Value.Ahead);
    }

    [Fact]
    public void Nobody_is_let_wait_longer_than_anybody_should()
    {
        using var admission = new Admission(1, 100, TimeSpan.FromSeconds(50), _time);
        Admission.Ticket first = admission.Enter("a", 1);
        _time.Advance(TimeSpan.FromSeconds(20));
        Admission.Ticket second = admission.Enter("b", 1);
        first.Dispose();
        Assert.True(second.Admitted.IsCompletedSuccessfully);
        _ = admission.Enter("c", 1);
        _ = admission.Enter("d", 1);
        Assert.Equal(60, Assert.Throws<ApiException>(() => admission.Enter("e", 1)).Error.RetryAfter);
        Assert.Equal(2, admission.Waiting);
    }

    [Fact]
    public async Task Who_gives_up_leaves_no_place_behind()
    {
        using var admission = new Admission(1, 1, TimeSpan.FromHours(1), _time);
        Admission.Ticket running = admission.Enter("a", 1);
        using var patience = new CancellationTokenSource();
        Task<Admission.Ticket> waiting = admission.EnterAsync("b", 1, patience.Token);
        await patience.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => waiting);
        Assert.Equal(0, admission.Waiting);
        Admission.Ticket next = admission.Enter("c", 1);
        running.Dispose();
        Assert.True(next.Admitted.IsCompletedSuccessfully);
        next.Dispose();
        next.Dispose();
        Assert.Equal(0, admission.Running);
    }

    [Fact]
    public void However_users_come_and_go_no_place_is_lost_or_given_twice()
    {
        var random = new Random(7);
        using var admission = new Admission(4, 8, TimeSpan.FromHours(1), _time);
        var tickets = new List<Admission.Ticket>();
        for (int i = 0; i < 20_000; i++)
        {
            _time.Advance(TimeSpan.FromMilliseconds(random.Next(100)));
            if (random.Next(2) == 0)
            {
                try
                {
                    tickets.Add(admission.Enter($"user {random.Next(random.Next(1, 3000))}", random.Next(1, 5)));
                }
                catch (ApiException e)
                {
                    Assert.Equal((429, 8), (e.Error.Status, admission.Waiting));
                }
            }
            else if (tickets.Count > 0)
            {
                int index = random.Next(tickets.Count);
                tickets[index].Dispose();
                tickets.RemoveAt(index);
            }
            Assert.Equal(tickets.Where(static t => t.Admitted.IsCompleted).Sum(static t => t.Answers), admission.Running);
            Assert.Equal(tickets.Count(static t => !t.Admitted.IsCompleted), admission.Waiting);
            Assert.InRange(admission.Running, admission.Waiting > 0 ? 1 : 0, 4);
        }
    }
}
