using System.Diagnostics;

namespace FlashOrleans.Engine;

/// <summary>
/// The array guard: which pooled arrays hold waves now. An array given back twice would hand one user's activations to another, so the second time throws
/// here; what never comes back is seen by tests. In builds with the guard (Debug, which tests run); free in Release. The pool is the process's, so this
/// is too. Any thread; allocates nothing in steady state.
/// </summary>
public static class WaveGuard
{
#if FLASH_GUARD
    private static readonly Lock s_gate = new();
    private static readonly HashSet<byte[]> s_out = new(ReferenceEqualityComparer.Instance);
#endif

    /// <summary>Arrays that hold a wave and were not given back; empty without the guard.</summary>
    public static IReadOnlyCollection<byte[]> Outstanding
    {
        get
        {
#if FLASH_GUARD
            lock (s_gate) return [.. s_out];
#else
            return [];
#endif
        }
    }

    /// <summary>An array left the pool, or arrived with a wave in it.</summary>
    [Conditional("FLASH_GUARD")]
    internal static void Taken(byte[] array)
    {
#if FLASH_GUARD
        lock (s_gate) s_out.Add(array);
#endif
    }

    [Conditional("FLASH_GUARD")]
    internal static void Returned(byte[] array)
    {
#if FLASH_GUARD
        lock (s_gate)
        {
            if (!s_out.Remove(array)) throw new InvalidOperationException($"the array of a wave ({array.Length} bytes) was given back twice");
        }
#endif
    }

    /// <summary>Nobody can tell who has the array: it is left to the garbage collector.</summary>
    [Conditional("FLASH_GUARD")]
    public static void Abandoned(byte[] array)
    {
#if FLASH_GUARD
        lock (s_gate) s_out.Remove(array);
#endif
    }
}
