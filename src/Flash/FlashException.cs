namespace FlashOrleans.Flash;

/// <summary>
/// A package or its device is at fault: one line that names the file, the offset where it matters, what was expected and
/// what was found. Thrown at edges (open, import, verify); while a step runs, faults travel as <see cref="ReadFault"/> values.
/// </summary>
public sealed class FlashException : Exception
{
    public FlashException() : this("flash package error") { }
    public FlashException(string message) : base(message) { }
    public FlashException(string message, Exception inner) : base(message, inner) { }
    public FlashException(string file, long offset, string what) : base($"{file} at byte {offset}: {what}") { }

    /// <summary>Refuses a number of a configuration that is outside its range, or none.</summary>
    internal static void Demand(string of, string what, double value, double low, double high)
    {
        if (!(value >= low && value <= high)) throw new FlashException($"{of}: {what} is {value}, which is outside {low}..{high}");
    }
}
