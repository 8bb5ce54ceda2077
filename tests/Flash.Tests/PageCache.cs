using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;

namespace FlashOrleans.Flash.Tests;

/// <summary>How many pages of a file the kernel holds, by mincore on a mapping that is never touched.</summary>
internal sealed unsafe partial class PageCache : IDisposable
{
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly long _bytes;

    public PageCache(string path)
    {
        _bytes = new FileInfo(path).Length;
        _file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
        _view = _file.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
    }

    public int ResidentPages()
    {
        byte[] pages = new byte[(_bytes + Environment.SystemPageSize - 1) / Environment.SystemPageSize];
        byte* start = null;
        _view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
        try
        {
            fixed (byte* state = pages) Assert.Equal(0, Mincore(start, (nuint)_bytes, state));
        }
        finally
        {
            _view.SafeMemoryMappedViewHandle.ReleasePointer();
        }
        return pages.Count(page => (page & 1) != 0);
    }

    public void Dispose()
    {
        _view.Dispose();
        _file.Dispose();
    }

    [LibraryImport("libc", EntryPoint = "mincore")]
    private static partial int Mincore(byte* start, nuint bytes, byte* pages);
}
