using Orleans.Concurrency;

namespace FlashOrleans.Abstractions;

/// <summary>
/// Look-ahead for one layer, beside it on the same silo and under the same key: decides in its turn how many of the predicted units are worth
/// reading now (depth, budget, usefulness) and enqueues those reads. Changes time, never results.
/// </summary>
[Alias("flashorleans.prefetch")]
public interface IPrefetchGrain : IGrainWithStringKey
{
    /// <summary>One-way: a hint that is lost costs time, never a result.</summary>
    [Alias("hint"), AlwaysInterleave, OneWay]
    Task Hint(PrefetchHint hint);
}
