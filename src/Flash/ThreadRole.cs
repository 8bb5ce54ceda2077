using System.Diagnostics;

namespace FlashOrleans.Flash;

/// <summary>
/// The thread guard: computing and reading files must never happen inside a grain turn (a turn that computes for 200 ms
/// takes every other grain's p99 to 872 ms). A turn runs under its activation's own task scheduler, so anything but the
/// default scheduler here means a turn. Active in Debug builds, which is what the tests run; free in Release.
/// </summary>
public static class ThreadRole
{
    [Conditional("FLASH_GUARD")]
    public static void AssertNotGrainTurn(string work)
    {
        if (TaskScheduler.Current != TaskScheduler.Default)
            throw new InvalidOperationException($"{work} was called inside a grain turn; it belongs to the engine's own threads");
    }
}
