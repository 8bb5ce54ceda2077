using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Flash;

/// <summary>
/// The few Linux calls that .NET does not offer: open with O_DIRECT (FileOptions drops it), preadv into raw memory, posix_fadvise,
/// statx, anonymous memory that is there at once, and what a ring needs (<see cref="IoRing"/>). Flag values are the kernel's and differ per architecture. Only called where <see cref="Supported"/>; any thread, no allocation.
/// </summary>
internal static unsafe partial class Libc
{
    public const int EINTR = 4, EIO = 5, EINVAL = 22;
    public const int PosixFadvRandom = 1, PosixFadvDontNeed = 4;
    /// <summary>The kernel's limit of parts per call (IOV_MAX); longer lists are cut, which reads as a short read.</summary>
    public const int MaxParts = 1024;

    private const int O_RDONLY = 0, O_NONBLOCK = 0x800, O_CLOEXEC = 0x80000;
    private const int F_GETFL = 3, F_SETFL = 4;
    private const int AT_EMPTY_PATH = 0x1000;
    private const uint STATX_DIOALIGN = 0x2000;

    /// <summary>Linux with 64-bit file offsets in the plain calls.</summary>
    public static bool Supported { get; } = OperatingSystem.IsLinux() && Environment.Is64BitProcess;

    /// <summary>arm kept its own flag values from before the generic table; everything else of 64 bits that runs .NET is generic, but for POWER.</summary>
    private static int DirectFlag { get; } = RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.Arm64 or Architecture.Arm => 0x10000,
        Architecture.Ppc64le => 0x20000,
        _ => 0x4000,
    };

    /// <summary>A descriptor, or minus errno. O_NONBLOCK: a fifo in place of a file must be an error, not a hang; regular files ignore it.</summary>
    public static int Open(string path, bool direct)
    {
        int fd = OpenCall(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | (direct ? DirectFlag : 0));
        return fd >= 0 ? fd : -Marshal.GetLastPInvokeError();
    }

    /// <summary>Turns O_DIRECT off on the open descriptor, so that a fallback keeps the very file that was opened.</summary>
    public static bool ClearDirect(SafeFileHandle file)
    {
        int flags = Fcntl(file, F_GETFL, 0);
        return flags >= 0 && Fcntl(file, F_SETFL, flags & ~DirectFlag) == 0;
    }

    /// <summary>One read; bytes or minus errno.</summary>
    public static long Read(SafeFileHandle file, long offset, IoVector* parts, int count)
    {
        nint got = count == 1
            ? Pread(file, parts->Base, parts->Length, offset)
            : Preadv(file, parts, Math.Min(count, MaxParts), offset);
        return got >= 0 ? got : -Marshal.GetLastPInvokeError();
    }

    public static void Advise(SafeFileHandle file, long offset, long bytes, int advice) => _ = Fadvise(file, offset, bytes, advice);

    /// <summary>The file lies in memory (tmpfs, ramfs): since 6.6 the kernel grants direct reads there, but no device is behind them.</summary>
    public static bool IsMemory(SafeFileHandle file)
    {
        const long tmpfs = 0x01021994, ramfs = 0x858458f6;
        byte* status = stackalloc byte[256];
        return Fstatfs(file, status) == 0 && *(long*)status is (tmpfs or ramfs);
    }

    /// <summary>What the kernel (6.1 and newer) says direct I/O on this file needs: 0 = refused, -1 = it does not say.</summary>
    public static int DirectAlignment(SafeFileHandle file)
    {
        const int memoryAlign = 152, offsetAlign = 156; // struct statx: stx_dio_mem_align, stx_dio_offset_align
        byte* status = stackalloc byte[256];
        byte empty = 0;
        try
        {
            if (Statx(file, &empty, AT_EMPTY_PATH, STATX_DIOALIGN, status) != 0) return -1;
        }
        catch (EntryPointNotFoundException)
        {
            return -1; // an old libc
        }
        if ((*(uint*)status & STATX_DIOALIGN) == 0) return -1;
        uint memory = *(uint*)(status + memoryAlign), offset = *(uint*)(status + offsetAlign);
        return offset == 0 ? 0 : (int)Math.Max(memory, offset);
    }

    private const int LargePage = 2 << 20;

    /// <summary>
    /// Zeroed private memory whose pages are all there, with a name where the kernel keeps one (5.17 and newer), in large pages where it has them to spare; null and errno
    /// when it cannot be had. Never hugetlb: those pages are a pool of the administrator's. Filling comes after the advice: MAP_POPULATE would fill small pages first.
    /// </summary>
    public static byte* Map(long bytes, string name, out int error)
    {
        const int read = 1, write = 2, privately = 2, anonymous = 0x20, hugePage = 14, populateWrite = 23, setVma = 0x53564d41, enoMem = 12;
        error = 0;
        // From the beginning of a large page on: what lies before the first one would be small pages.
        long room = bytes >= LargePage ? bytes + LargePage - NativeBuffer.Page : bytes;
        byte* mapped = (byte*)Mmap(null, (nuint)room, read | write, privately | anonymous, -1, 0);
        if ((nint)mapped == -1)
        {
            error = Marshal.GetLastPInvokeError();
            return null;
        }
        byte* at = bytes >= LargePage ? (byte*)((nint)(mapped + LargePage - 1) & -LargePage) : mapped, end = (byte*)((nint)(at + bytes + NativeBuffer.Page - 1) & -NativeBuffer.Page);
        if (at > mapped) _ = Munmap(mapped, (nuint)(at - mapped));
        if (mapped + room > end) _ = Munmap(end, (nuint)(mapped + room - end));
        // Letters, digits and a few signs; brackets, backslash, dollar and backtick are refused. 80 bytes with the end.
        byte* label = stackalloc byte[80];
        int n = 0;
        foreach (char c in "flash:" + name)
            if (n < 79) label[n++] = c is > ' ' and < '\x7f' and not ('[' or ']' or '\\' or '$' or '`') ? (byte)c : (byte)'_';
        label[n] = 0;
        _ = Prctl(setVma, 0, (nuint)at, (nuint)bytes, (nuint)label);
        // Five times faster to fill than small pages (64 MiB: 3.2 ms against 17), and fewer misses of the translation buffer later.
        if (bytes >= LargePage) _ = Madvise(at, (nuint)bytes, hugePage);
        if (Madvise(at, (nuint)bytes, populateWrite) == 0) return at;
        error = Marshal.GetLastPInvokeError();
        if (error == EINVAL || error == EINTR)
        {
            // A kernel before 5.14, or a signal on the way: the pages one by one.
            for (long i = 0; i < bytes; i += 4096) Volatile.Write(ref at[i], 0);
            error = 0;
            return at;
        }
        if (error == 0) error = enoMem;
        _ = Munmap(at, (nuint)bytes);
        return null;
    }

    /// <summary>Memory that the kernel shares through a descriptor; null when it does not.</summary>
    public static byte* Share(int fd, nuint bytes, long offset)
    {
        const int read = 1, write = 2, shared = 1, populate = 0x8000;
        void* at = Mmap(null, bytes, read | write, shared | populate, fd, (nint)offset);
        return at == (void*)-1 ? null : (byte*)at;
    }

    public static void Unmap(byte* at, long bytes) => _ = Munmap(at, (nuint)bytes);

    /// <summary>Processor time of the calling thread.</summary>
    public static long ThreadNanos()
    {
        const int ofThread = 3;
        long* time = stackalloc long[2];
        return ClockGetTime(ofThread, time) == 0 ? time[0] * 1_000_000_000 + time[1] : 0;
    }

    /// <summary>A descriptor that counts, to wake who reads it; negative where there is none.</summary>
    public static int OpenEvent() => EventFd(0, O_CLOEXEC);

    public static void Signal(int eventFd)
    {
        ulong one = 1;
        _ = Write(eventFd, &one, sizeof(ulong));
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    public static partial nint Syscall(nint number, nint a, nint b, nint c, nint d, nint e, nint f);

    [LibraryImport("libc", EntryPoint = "close")]
    public static partial int Close(int fd);

    [LibraryImport("libc", EntryPoint = "eventfd")]
    private static partial int EventFd(uint initial, int flags);

    [LibraryImport("libc", EntryPoint = "write")]
    private static partial nint Write(int fd, void* bytes, nuint count);

    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static partial int ClockGetTime(int clock, long* time);

    [LibraryImport("libc", EntryPoint = "fstatfs")]
    private static partial int Fstatfs(SafeFileHandle file, byte* status);

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial void* Mmap(void* at, nuint bytes, int protection, int flags, int fd, nint offset);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int Munmap(void* at, nuint bytes);

    [LibraryImport("libc", EntryPoint = "madvise", SetLastError = true)]
    private static partial int Madvise(void* at, nuint bytes, int advice);

    [LibraryImport("libc", EntryPoint = "prctl")]
    private static partial int Prctl(int option, nuint what, nuint at, nuint bytes, nuint name);

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int OpenCall(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    private static partial int Fcntl(SafeFileHandle fd, int command, int argument);

    [LibraryImport("libc", EntryPoint = "pread", SetLastError = true)]
    private static partial nint Pread(SafeFileHandle fd, byte* memory, nuint bytes, long offset);

    [LibraryImport("libc", EntryPoint = "preadv", SetLastError = true)]
    private static partial nint Preadv(SafeFileHandle fd, IoVector* parts, int count, long offset);

    [LibraryImport("libc", EntryPoint = "posix_fadvise")]
    private static partial int Fadvise(SafeFileHandle fd, long offset, long bytes, int advice);

    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true)]
    private static partial int Statx(SafeFileHandle dir, byte* path, int flags, uint mask, byte* status);
}
