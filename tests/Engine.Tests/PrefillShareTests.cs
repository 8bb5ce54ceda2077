namespace FlashOrleans.Engine.Tests;

/// <summary>How decode and prefill share the compute threads: the scheduler on a simulated clock, with the times of real shapes. No engine.</summary>
public sealed class PrefillShareTests
{
    /// <summary>Times in microseconds: a layer's step of decode, the way to the next layer, a layer's step of prefill and a tile of it.</summary>
    public sealed record Shape(string Name, int Layers, int Decode, int Hop, int Prefill, int Tile)
    {
        public override string ToString() => Name;
    }

    public static TheoryData<Shape> Shapes => [new Shape("7B", 32, 4500, 300, 66_000, 2400), new Shape("135M", 30, 100, 300, 2000, 2000), new Shape("deep and narrow", 64, 50, 200, 300, 300)];

    [Theory, MemberData(nameof(Shapes))]
    public void Beside_a_long_prompt_a_token_takes_at_most_about_twice_as_long(Shape shape)
    {
        double alone = new Line(shape, prompt: false).Run(passes: 50).Longest;
        var beside = new Line(shape, prompt: true).Run(passes: 50);
        Assert.InRange(beside.Longest, alone, 2.2 * alone + (2 * shape.Tile));
        // And the prompt has what is left: at least three tenths of the time.
        Assert.InRange(beside.PrefillTime, 0.3 * beside.Time, 0.6 * beside.Time);
    }

    [Theory, MemberData(nameof(Shapes))]
    public void A_prompt_gets_a_fifth_of_the_time_where_decode_has_no_gaps(Shape shape)
    {
        var line = new Line(shape, prompt: true) { AlwaysReady = true };
        line.Run(passes: 50);
        Assert.InRange(line.PrefillTime, 0.2 * line.Time, 0.5 * line.Time);
    }

    [Theory, MemberData(nameof(Shapes))]
    public void A_prompt_alone_never_rests(Shape shape)
    {
        var line = new Line(shape, prompt: true) { NoDecode = true };
        line.Run(passes: 3);
        Assert.Equal(line.Time, line.PrefillTime);
    }

    [Theory, MemberData(nameof(Shapes))]
    public void A_prompt_rests_no_longer_than_a_quarter_of_a_pass_once_decode_has_stopped(Shape shape)
    {
        var line = new Line(shape, prompt: true);
        line.Run(passes: 10);
        long idle = line.Idle;
        line.NoDecode = true;
        line.Run(passes: 2);
        Assert.InRange(line.Idle - idle, 0, shape.Layers * shape.Decode / 4 + shape.Hop + 1);
    }

    [Fact]
    public void A_step_of_a_prompt_that_waited_for_flash_rests_for_that_too_before_the_next_one_begins_beside_decode()
    {
        var model = new object();
        var (decode, prompt) = (new Pending(model, 0, 2) { Rows = 1 }, new Pending(model, 1, 2) { Prefill = true, Idle = true });
        var scheduler = new Scheduler(mostRows: 8);
        scheduler.Ran(prompt, prefill: true, 0, 20, waited: 100);
        // Decode waits for flash in its layer. 20 + 5/4 of 120 is 170.
        Assert.Equal(-1, scheduler.Choose([decode, prompt], 169, out _));
        Assert.Equal(170, scheduler.WakeAt);
        Assert.Equal(1, scheduler.Choose([decode, prompt], 170, out bool prefill));
        Assert.True(prefill);
        // One that has begun goes on meanwhile, and alone nothing rests.
        prompt.Idle = false;
        Assert.Equal(1, scheduler.Choose([decode, prompt], 60, out _));
        (prompt.Idle, decode.Rows) = (true, 0);
        Assert.Equal(1, scheduler.Choose([decode, prompt], 60, out _));
    }

    /// <summary>One wave of decode that goes round, or one at every layer, and one prompt whose chunks follow each other.</summary>
    private sealed class Line
    {
        private readonly Shape _shape;
        private readonly bool _prompt;
        private readonly List<Pending> _work;
        private readonly Scheduler _scheduler = new(mostRows: 64);
        private int _decodeAt, _prefillAt, _passes;
        private long _arrives, _now, _left;
        private bool _began;

        public Line(Shape shape, bool prompt)
        {
            _shape = shape;
            _prompt = prompt;
            _work = [.. Enumerable.Range(0, shape.Layers).Select(i => new Pending(this, i, shape.Layers))];
            _left = shape.Prefill;
        }

        public bool AlwaysReady { get; init; }
        public bool NoDecode { get; set; }
        public long Longest { get; private set; }
        public long PrefillTime { get; private set; }
        public long Idle { get; private set; }
        public long Time => _now;

        /// <summary>So many tokens, or, without decode, chunks of the prompt.</summary>
        public Line Run(int passes)
        {
            long since = _now;
            for (int until = _passes + passes; _passes < until;)
            {
                bool there = !NoDecode && (AlwaysReady || _now >= _arrives);
                if (there) Scheduler.Arrived(_work[_decodeAt], 1);
                foreach (var layer in _work)
                {
                    layer.Idle = !(_began && layer.Index == _prefillAt);
                    layer.Rows = there && layer.Index == _decodeAt ? 1 : 0;
                    layer.Decode = layer.Rows > 0 && layer.Idle;
                    layer.Prefill = _prompt && layer.Index == _prefillAt;
                }
                int chosen = _scheduler.Choose(_work, _now, out bool prefill);
                if (chosen < 0)
                {
                    long next = NoDecode ? long.MaxValue : Math.Max(_arrives, _now + 1);
                    if (_scheduler.WakeAt != 0) next = Math.Min(next, Math.Max(_scheduler.WakeAt, _now + 1));
                    Assert.NotEqual(long.MaxValue, next);
                    Idle += next - _now;
                    _now = next;
                    continue;
                }
                long from = _now;
                if (!prefill) Decode(chosen, ref since);
                else Prefill(chosen);
                _scheduler.Ran(_work[chosen], prefill, from, _now);
            }
            return this;
        }

        private void Decode(int layer, ref long since)
        {
            Assert.Equal(_decodeAt, layer);
            _now += _shape.Decode;
            _arrives = _now + _shape.Hop;
            _decodeAt = (layer + 1) % _shape.Layers;
            Scheduler.Expect(_work[_decodeAt], 1, _now, _now + _shape.Decode * _shape.Layers / 100);
            if (_decodeAt != 0) return;
            _passes++;
            Longest = Math.Max(Longest, _arrives - since);
            since = _arrives;
        }

        private void Prefill(int layer)
        {
            long from = _now;
            bool tiles = _scheduler.IsLive(_work, _now);
            _began = true;
            do
            {
                long tile = Math.Min(tiles ? _shape.Tile : _shape.Prefill, _left);
                _now += tile;
                _left -= tile;
            }
            while (_left > 0 && (NoDecode || (!AlwaysReady && _now < _arrives) || _decodeAt == layer));
            PrefillTime += _now - from;
            if (_left > 0) return;
            _left = _shape.Prefill;
            _began = false;
            _prefillAt = (layer + 1) % _shape.Layers;
            if (NoDecode && _prefillAt == 0) _passes++;
        }
    }
}
