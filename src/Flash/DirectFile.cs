using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Flash;

/// <summary>
/// A file on the device, read past the page cache: the window is the cache, and pages of the kernel beside it would be memory nobody
/// budgeted. <see cref="Open"/> asks for O_DIRECT and finds the alignment it needs by asking the kernel and then by a real read on the
/// descriptor that stays in use, so nothing can change between probe and use. Where direct reads are refused (tmpfs, some overlays,
/// other systems than Linux) the same descriptor reads through the page cache, and each read's pages are dropped right after it.
/// Any I/O or loader thread; reads are positional, so threads share one descriptor. Disposing while a read runs is safe: the descriptor
/// closes after it, later reads throw. Failure to open is a <see cref="FlashException"/>; reads answer minus errno.
/// </summary>
public sealed unsafe class DirectFile : FlashFile
{
    private const int PageBytes = 4096;
    private readonly SafeFileHandle _handle;
    private readonly string _access;

    private DirectFile(string name, SafeFileHandle handle, int directAlignment)
    {
        Name = name;
        _handle = handle;
        Length = RandomAccess.GetLength(handle);
        Alignment = Math.Max(directAlignment, 1);
        _access = directAlignment > 0 ? $"direct ({directAlignment})" : "buffered";
    }

    public override string Name { get; }
    public override long Length { get; }
    public override int Alignment { get; }
    public override string Access => _access;
    /// <summary>The descriptor, where reads through io_uring would not touch the page cache; else null.</summary>
    internal SafeFileHandle? Direct => Alignment > 1 ? _handle : null;

    /// <summary>Opens a file for reading. <paramref name="direct"/> false: always through the page cache (to compare).</summary>
    public static DirectFile Open(string path, bool direct = true)
    {
        SafeFileHandle handle = Libc.Supported ? OpenLinux(path, ref direct) : OpenPortable(path, ref direct);
        try
        {
            int alignment = direct ? ProbeDirect(handle) : 0;
            if (alignment == 0 && Libc.Supported)
            {
                if (direct && !Libc.ClearDirect(handle))
                    throw new FlashException($"{path}: direct reads are refused here and cannot be turned off");
                // Neurons are scattered: read-ahead of the kernel would fetch what nobody asked for.
                Libc.Advise(handle, 0, 0, Libc.PosixFadvRandom);
                RequireReadable(path, handle);
            }
            // What an import or a copy left in the page cache, in folios too large to be dropped read by read.
            if (Libc.Supported) Libc.Advise(handle, 0, 0, Libc.PosixFadvDontNeed);
            return new DirectFile(path, handle, alignment);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException)
        {
            handle.Dispose();
            throw new FlashException($"{path}: cannot be read: {e.Message}", e);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    public override long Read(long offset, ReadOnlySpan<IoVector> parts)
    {
        ThreadRole.AssertNotGrainTurn("a read of flash");
        if (parts.IsEmpty) return 0;
        if (!Libc.Supported) return ReadPortable(offset, parts);
        long got;
        fixed (IoVector* first = parts)
            got = Libc.Read(_handle, offset, first, parts.Length);
        if (got > 0 && Alignment == 1)
        {
            // Only whole pages are dropped, so round outward.
            long start = offset & -PageBytes;
            Libc.Advise(_handle, start, ((offset + got + PageBytes - 1) & -PageBytes) - start, Libc.PosixFadvDontNeed);
        }
        return got;
    }

    /// <summary>Told by who closes it, when it is closed: who holds the file in other ways lets go of it. Any thread.</summary>
    internal event Action<DirectFile>? Closing;

    public override void Dispose()
    {
        bool first = !_handle.IsClosed;
        _handle.Dispose();
        if (first) Closing?.Invoke(this);
    }

    private static SafeFileHandle OpenLinux(string path, ref bool direct)
    {
        int fd = Libc.Open(path, direct);
        if (fd == -Libc.EINVAL && direct)
        {
            direct = false; // the filesystem refuses the flag itself
            fd = Libc.Open(path, false);
        }
        if (fd < 0) throw new FlashException($"{path}: cannot be opened: {Marshal.GetPInvokeErrorMessage(-fd)}");
        return new SafeFileHandle(fd, ownsHandle: true);
    }

    private static SafeFileHandle OpenPortable(string path, ref bool direct)
    {
        direct = false;
        try
        {
            return File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read, FileOptions.RandomAccess);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new FlashException($"{path}: cannot be opened: {e.Message}", e);
        }
    }

    /// <summary>The alignment direct reads need here, proven by a read; 0 when they are refused.</summary>
    private static int ProbeDirect(SafeFileHandle handle)
    {
        if (Libc.IsMemory(handle)) return 0;
        int stated = Libc.DirectAlignment(handle);
        if (stated == 0) return 0;
        // A kernel that says 4 bytes for memory still wants sectors for offsets; packages are laid out in 512.
        for (int alignment = Math.Max(stated, 512); alignment <= PageBytes; alignment *= 2)
        {
            // An address that is a multiple of the alignment and of nothing larger.
            byte* block = (byte*)NativeMemory.AlignedAlloc((nuint)(2 * alignment), (nuint)(2 * alignment));
            try
            {
                IoVector part = new() { Base = block + alignment, Length = (nuint)alignment };
                long got;
                do got = Libc.Read(handle, 0, &part, 1);
                while (got == -Libc.EINTR);
                if (got >= 0) return alignment;
                if (got != -Libc.EINVAL) return 0; // not a matter of alignment: let the buffered path say what is wrong
            }
            finally
            {
                NativeMemory.AlignedFree(block);
            }
        }
        return 0;
    }

    /// <summary>A directory opens like a file; only a read tells.</summary>
    private static void RequireReadable(string path, SafeFileHandle handle)
    {
        byte one;
        IoVector part = new() { Base = &one, Length = 1 };
        long got;
        do got = Libc.Read(handle, 0, &part, 1);
        while (got == -Libc.EINTR);
        if (got < 0) throw new FlashException(path, 0, $"cannot be read: {Marshal.GetPInvokeErrorMessage((int)-got)}");
    }

    private long ReadPortable(long offset, ReadOnlySpan<IoVector> parts)
    {
        long total = 0;
        try
        {
            foreach (IoVector part in parts)
            {
                int wanted = checked((int)part.Length);
                int got = RandomAccess.Read(_handle, new Span<byte>(part.Base, wanted), offset + total);
                total += got;
                if (got < wanted) break;
            }
            return total;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return -Libc.EIO;
        }
    }
}
