namespace FlashOrleans.Engine.Tests;

/// <summary>The scheduler's choices on models whose layers take one turn each: a simulation without an engine, a turn for a clock.</summary>
public sealed class SchedulerTests
{
    [Theory]
    [InlineData(0, 5), InlineData(3, 20), InlineData(0, 16), InlineData(31, 15), InlineData(7, 24)]
    public void Two_waves_that_follow_each_other_become_one_within_half_a_circle_and_stay_one(int first, int second)
    {
        var model = new Model(layers: 32, mostRows: 64);
        model.Arrive(first, rows: 4);
        model.Arrive(second, rows: 4);
        int turns = 0;
        while (model.Waves > 1) Assert.True(++turns <= 16 && model.Turn(), $"{model.Waves} waves after {turns} turns");
        for (int i = 0; i < 100; i++) Assert.True(model.Turn() && model.Waves == 1);
        Assert.Equal(8, model.RowsOf(model.Busy.Single()));
    }

    [Fact]
    public void Three_waves_each_a_third_of_the_circle_behind_the_next_do_not_wait_for_each_other_for_ever()
    {
        var model = new Model(layers: 30, mostRows: 64);
        foreach (int layer in new[] { 0, 10, 20 }) model.Arrive(layer, rows: 2);
        for (int i = 0; i < 40; i++) Assert.True(model.Turn());
        Assert.Equal(1, model.Waves);
    }

    [Fact]
    public void A_wave_is_not_held_for_one_that_it_cannot_take_along()
    {
        var model = new Model(layers: 8, mostRows: 8);
        model.Arrive(0, rows: 6);
        model.Arrive(2, rows: 6);
        model.Parked.Add(0);
        for (int i = 0; i < 5; i++) Assert.True(model.Turn());
        Assert.Equal(6, model.RowsOf(7));
    }

    [Fact]
    public void A_wave_ahead_is_held_while_the_one_behind_it_waits_for_flash()
    {
        var model = new Model(layers: 8, mostRows: 8);
        model.Arrive(2, rows: 1);
        model.Arrive(0, rows: 1);
        model.Parked.Add(0);
        Assert.False(model.Turn());
        model.Parked.Clear();
        for (int i = 0; i < 3; i++) Assert.True(model.Turn());
        Assert.Equal(1, model.Waves);
    }

    [Fact]
    public void Rows_between_two_layers_are_waited_for_but_not_longer_than_they_were_expected()
    {
        var work = new List<Pending> { new(this, 0, 2), new(this, 1, 2) };
        var scheduler = new Scheduler(mostRows: 8);
        work[0].Decode = work[0].Idle = work[1].Idle = true;
        work[0].Rows = 1;
        Scheduler.Expect(work[0], rows: 3, now: 100, until: 110);
        Assert.Equal(-1, scheduler.Choose(work, 105, out _));
        Assert.Equal(110, scheduler.WakeAt);
        Assert.Equal(0, scheduler.Choose(work, 110, out _));
        Scheduler.Expect(work[0], rows: 3, now: 120, until: 130);
        Scheduler.Arrived(work[0], rows: 3);
        Assert.Equal(0, scheduler.Choose(work, 121, out _));
    }

    [Theory]
    [InlineData(1), InlineData(2), InlineData(3), InlineData(4), InlineData(5), InlineData(6), InlineData(7), InlineData(8)]
    public void Nobody_waits_longer_than_a_bound_whatever_arrives_behind(int seed)
    {
        // Every row that finishes begins again at once or after a while, and new ones arrive at random: there is always somebody behind.
        var random = new Random(seed);
        int layers = random.Next(2, 48);
        var model = new Model(layers, mostRows: random.Next(4, 40));
        for (int turn = 0; turn < 20_000; turn++)
        {
            if (model.Rows < 64 && random.Next(3) == 0) model.Arrive(random.Next(4) == 0 ? random.Next(layers) : 0, 1);
            if (random.Next(50) == 0) model.Parked.Add(random.Next(layers));
            if (random.Next(10) == 0) model.Parked.Clear();
            model.Turn();
            if (random.Next(20) == 0) model.Leave();
        }
        model.Parked.Clear();
        // Within these a wave may be held for at most a circle, then others go before it as long as work that is passed over may lose.
        Assert.InRange(model.LongestWait, 0, Scheduler.Patience + (layers * Scheduler.StepsPerHold) + layers + 64);
    }

    [Fact]
    public void Holding_takes_at_most_a_fifth_of_the_steps_however_many_arrive()
    {
        var model = new Model(layers: 16, mostRows: 64) { Dissolve = true };
        for (int i = 0; i < 4000; i++)
        {
            model.Arrive(0, 1);
            model.Turn();
        }
        Assert.InRange(model.Held, 1, 4000 / 5 + 2 * 16);
    }

    /// <summary>Layers in a circle; a wave is the rows that wait at one.</summary>
    private sealed class Model
    {
        private readonly List<Pending> _work;
        private readonly Scheduler _scheduler;
        private readonly int[] _rows, _since;
        private readonly int _mostRows;
        private int _turn;

        public Model(int layers, int mostRows)
        {
            _mostRows = mostRows;
            _work = [.. Enumerable.Range(0, layers).Select(i => new Pending(this, i, layers))];
            _scheduler = new Scheduler(mostRows);
            (_rows, _since) = (new int[layers], new int[layers]);
        }

        public HashSet<int> Parked { get; } = [];
        /// <summary>Rows leave behind the last layer instead of beginning again.</summary>
        public bool Dissolve { get; init; }
        public int Held { get; private set; }
        public int LongestWait { get; private set; }
        public IEnumerable<int> Busy => Enumerable.Range(0, _rows.Length).Where(i => _rows[i] > 0);
        public int Waves => Busy.Count();
        public int Rows => _rows.Sum();
        public int RowsOf(int layer) => _rows[layer];

        public void Arrive(int layer, int rows)
        {
            if (_rows[layer] == 0) _since[layer] = _turn;
            _rows[layer] += rows;
        }

        public void Leave()
        {
            foreach (int layer in Busy.Take(1)) _rows[layer]--;
        }

        public bool Turn()
        {
            _turn++;
            foreach (var layer in _work)
            {
                layer.Rows = _rows[layer.Index];
                layer.Idle = !Parked.Contains(layer.Index);
                layer.Decode = layer.Idle && layer.Rows > 0;
            }
            bool somebody = _work.Exists(l => l.Decode);
            int waves = Waves;
            int chosen = _scheduler.Choose(_work, _turn, out bool prefill);
            Assert.False(prefill);
            if (chosen < 0)
            {
                // All that is ready is held: only for a wave that waits for flash.
                Assert.True(!somebody || _work.Exists(l => !l.Idle && l.Rows > 0));
                return false;
            }
            Assert.True(_work[chosen].Decode);
            // Of who is still there, too: one that never runs would not be noticed by its turn.
            foreach (int i in Busy.Where(i => _work[i].Idle)) LongestWait = Math.Max(LongestWait, _turn - _since[i]);
            if (waves > 1 && Busy.Any(i => i > chosen)) Held++;
            int rows = Math.Min(_rows[chosen], _mostRows), next = (chosen + 1) % _rows.Length;
            _rows[chosen] -= rows;
            _since[chosen] = _turn;
            if (next != 0 || !Dissolve) Arrive(next, rows);
            return true;
        }
    }
}
