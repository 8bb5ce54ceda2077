namespace FlashOrleans.Engine.Tests;

public sealed class PrefetchPolicyTests
{
    private static void Disappoint(PrefetchPolicy policy)
    {
        for (int i = 0; i < 40; i++) policy.Observe(rows: 1, needed: 10, missing: 10, prefetched: 10, useful: 0);
    }

    [Fact]
    public void Look_ahead_that_proved_useless_is_tried_once_in_sixteen_steps()
    {
        var policy = new PrefetchPolicy();
        Assert.True(policy.Decide());
        Disappoint(policy);
        Assert.True(policy.Usefulness < 0.1);
        for (int round = 0; round < 3; round++)
        {
            for (int step = 1; step < 16; step++) Assert.False(policy.Decide());
            Assert.True(policy.Decide());
        }
        // A probe that finds things changed turns it up again.
        for (int i = 0; i < 40; i++) policy.Observe(rows: 1, needed: 10, missing: 10, prefetched: 4, useful: 4);
        for (int step = 0; step < 32; step++) Assert.True(policy.Decide());
    }

    [Fact]
    public void Look_ahead_is_not_tried_where_nothing_is_missing()
    {
        var policy = new PrefetchPolicy();
        for (int i = 0; i < 40; i++) policy.Observe(rows: 1, needed: 10, missing: 0, prefetched: 0, useful: 0);
        for (int step = 0; step < 64; step++) Assert.False(policy.Decide());
    }

    [Fact]
    public void Rows_from_another_silo_are_predicted_whenever_the_policy_said_so_even_on_probation()
    {
        using var tiny = TinyPackage.Create(TinyPackage.Llama(), Flash.WeightFormat.Q8);
        using var engine = new LocalEngine(tiny.Package, new EngineOptions { Threads = 1 });
        var layer = engine.Layers[1];
        Disappoint(layer.Policy);
        int asked = 0;
        while (!layer.Policy.Decide()) asked++;
        Assert.InRange(asked, 0, 15);
        var rows = new float[tiny.Package.Config.HiddenSize];
        rows.AsSpan().Fill(0.5f);
        engine.Conductor.PredictAndPrefetch(layer, rows, 1);
        // Twice round the conductor: hints are taken in after commands.
        engine.Conductor.AllocatedBytes();
        engine.Conductor.AllocatedBytes();
        Assert.True(layer.Stats.PredictedUnits > 0);
    }
}
