using System.Globalization;

namespace FlashOrleans.Engine;

/// <summary>
/// The process's side of a budget: the collector's hard limit, and a look at what the process really takes. Only programs call it, never a library's test: the limit holds for all of the process.
/// </summary>
public static class HeapFence
{
    /// <summary>
    /// Sets GCHeapHardLimit at run time. Reaching it is an OutOfMemoryException anywhere, so it lies above the planned heap; false when the heap is larger already.
    /// </summary>
    public static bool Set(long bytes)
    {
        AppContext.SetData("GCHeapHardLimit", (ulong)bytes);
        try
        {
            GC.RefreshMemoryLimit();
            return true;
        }
        catch (InvalidOperationException)
        {
            return false;
        }
    }

    /// <summary>After loading: what loading left behind goes back to the system.</summary>
    public static void Trim() => GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive, blocking: true, compacting: true);

    /// <summary>Bytes of this process in memory now, and the most there were; 0 where the system does not tell.</summary>
    public static (long Now, long Most) Resident()
    {
        long now = 0, most = 0;
        if (!File.Exists("/proc/self/status")) return (Environment.WorkingSet, 0);
        foreach (string line in File.ReadLines("/proc/self/status"))
        {
            if (line.StartsWith("VmRSS:", StringComparison.Ordinal)) now = KiB(line);
            if (line.StartsWith("VmHWM:", StringComparison.Ordinal)) most = KiB(line);
        }
        return (now, most);
    }

    /// <summary>From here on the most is counted anew, where the system does that (Linux: a word written to clear_refs).</summary>
    public static void Forget()
    {
        try
        {
            if (File.Exists("/proc/self/clear_refs")) File.WriteAllText("/proc/self/clear_refs", "5");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Then it is the most since the process began, which is no less.
        }
    }

    /// <summary>What to tell when the process takes more than was planned; null when it does not.</summary>
    public static string? Excess(BudgetPlan plan)
    {
        ArgumentNullException.ThrowIfNull(plan);
        long now = Resident().Now;
        return now <= plan.Sum ? null
            : $"the process takes {BudgetSize.Text(now)}, {BudgetSize.Text(now - plan.Sum)} more than planned for {plan.Manifest.Name}: the budget of {BudgetSize.Text(plan.Budget)} may not hold";
    }

    private static long KiB(string line) => long.TryParse(line.Split(':')[1].Replace("kB", "", StringComparison.Ordinal).Trim(), NumberStyles.None, CultureInfo.InvariantCulture, out long value) ? value * 1024 : 0;
}
