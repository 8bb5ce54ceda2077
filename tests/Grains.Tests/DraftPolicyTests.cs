namespace FlashOrleans.Grains.Tests;

/// <summary>The choice of how many drafts, on costs and acceptances that are made up: no clock, no model.</summary>
public sealed class DraftPolicyTests
{
    private readonly StepTimes _times = new();

    /// <summary>Lets a session of so many steps go by; says how many drafts the steps of its second half had, and tokens a second in all.</summary>
    private (double Drafts, double Rate) Play(DraftPolicy policy, int steps, double right, Func<int, double> cost, double draft = 0, int seed = 1, DraftSource source = DraftSource.Lookup4)
    {
        var random = new Random(seed);
        double drafts = 0, tokens = 0, seconds = 0;
        for (int i = 0; i < steps; i++)
        {
            int k = policy.Choose(source, DraftPolicy.MostDrafts, draft);
            Assert.InRange(k, 0, DraftPolicy.MostDrafts);
            double took = cost(1 + k) * (0.9 + 0.2 * random.NextDouble());
            _times.Add(1 + k, took);
            seconds += took + k * draft;
            int accepted = 0;
            // The guess is followed through whether it was verified or not.
            while (accepted < DraftPolicy.MostDrafts)
            {
                bool good = random.NextDouble() < right;
                policy.Learn(source, accepted, good);
                if (!good) break;
                accepted++;
            }
            tokens += 1 + Math.Min(k, accepted);
            if (i >= steps / 2) drafts += k;
        }
        return (drafts / (steps - steps / 2), tokens / seconds);
    }

    [Fact]
    public void Where_rows_are_free_and_guesses_good_it_drafts_many()
    {
        var (drafts, rate) = Play(new DraftPolicy(_times), 600, 0.9, static _ => 1);
        Assert.InRange(drafts, 7, 8);
        // All eight, always, would give 6.1.
        Assert.InRange(rate, 5.4, 6.5);
    }

    [Fact]
    public void Where_every_row_costs_a_step_it_stops_and_hardly_tries_again()
    {
        var (drafts, rate) = Play(new DraftPolicy(_times), 1000, 0.9, static rows => rows);
        Assert.InRange(drafts, 0, 0.05);
        Assert.InRange(rate, 0.96, 1.04);
    }

    [Fact]
    public void Where_guesses_are_never_right_it_stops_although_rows_are_cheap()
    {
        var (drafts, rate) = Play(new DraftPolicy(_times), 1000, 0.02, static rows => 1 + 0.05 * (rows - 1));
        Assert.InRange(drafts, 0, 0.25);
        Assert.InRange(rate, 0.97, 1.05);
    }

    [Theory, InlineData(0.5, 0.15), InlineData(0.7, 0.1), InlineData(0.9, 0.3), InlineData(0.7, 0.5)]
    public void It_comes_within_a_tenth_of_the_best_fixed_number(double right, double row)
    {
        double Cost(int rows) => 1 + row * (rows - 1);
        double best = 0;
        for (int k = 0; k <= DraftPolicy.MostDrafts; k++) best = Math.Max(best, Enumerable.Range(0, k + 1).Sum(j => Math.Pow(right, j)) / Cost(1 + k));
        Assert.InRange(Play(new DraftPolicy(_times), 800, right, Cost).Rate, 0.88 * best, 1.1 * best);
    }

    [Fact]
    public void When_company_makes_rows_expensive_it_turns_down_and_when_it_has_gone_up_again()
    {
        var policy = new DraftPolicy(_times);
        Assert.InRange(Play(policy, 400, 0.8, static _ => 1).Drafts, 4, 8);
        Assert.InRange(Play(policy, 600, 0.8, static rows => rows).Drafts, 0, 0.5);
        Assert.InRange(Play(policy, 3000, 0.8, static _ => 1).Drafts, 4, 8);
    }

    [Fact]
    public void A_model_that_takes_long_to_draft_is_asked_for_fewer_or_none()
    {
        double Drafts(double seconds)
        {
            // Times of its own: each is a silo for itself.
            var test = new DraftPolicyTests();
            return test.Play(new DraftPolicy(test._times), 600, 0.8, static _ => 1, seconds, source: DraftSource.Model).Drafts;
        }
        Assert.True(Drafts(0.01) > Drafts(0.2));
        Assert.InRange(Drafts(1.5), 0, 0.1);
    }

    [Fact]
    public void A_new_session_knows_what_steps_cost_from_those_before_it()
    {
        Play(new DraftPolicy(_times), 300, 0.9, static _ => 1);
        var next = new DraftPolicy(_times);
        Assert.True(next.Choose(DraftSource.Lookup8, 8) > 0);
        // And with fewer at hand it takes those.
        Assert.InRange(next.Choose(DraftSource.Lookup8, 2), 1, 2);
        Assert.Equal(0, next.Choose(DraftSource.Lookup8, 0));
    }

    [Fact]
    public void Times_that_were_not_measured_lie_between_those_that_were()
    {
        Span<double> seconds = stackalloc double[StepTimes.MostRows + 1];
        Assert.False(_times.TryGet(seconds));
        _times.Add(1, 1);
        Assert.True(_times.TryGet(seconds));
        Assert.Equal(1, seconds[9]);
        _times.Add(5, 3);
        _times.TryGet(seconds);
        Assert.Equal([1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5], seconds[1..].ToArray());
    }
}
