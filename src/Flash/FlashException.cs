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
}
