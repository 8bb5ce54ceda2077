using System.Globalization;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace FlashOrleans.Models.Hub;

/// <summary>
/// A file that is being downloaded: NAME.part, of full length from the start and full of holes, and NAME.part.journal, which says whose bytes these are and which
/// ranges of them are on the device. A range is noted after its bytes were flushed, so that whatever ends the process (Ctrl-C, a kill, the power) the journal
/// is never ahead of the data; a torn last line is ignored. Writes come from several threads, each to its own range; everything else from one at a time.
/// </summary>
internal sealed class PartFile : IDisposable
{
    public const string Ending = ".part", JournalEnding = ".part.journal";
    private readonly Lock _gate = new();
    private readonly string _target;
    private readonly string _identity;
    private readonly long _size;
    private readonly SafeFileHandle _data;
    private readonly FileStream _journal;
    private readonly List<(long From, long To)> _there = [];

    private PartFile(string target, long size, string identity)
    {
        _target = target;
        _size = size;
        _identity = identity;
        _data = File.OpenHandle(target + Ending, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read, FileOptions.Asynchronous);
        try
        {
            _journal = new FileStream(target + JournalEnding, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read, bufferSize: 0);
        }
        catch
        {
            _data.Dispose();
            throw;
        }
    }

    /// <summary>Goes on with what is there if it is of the same content, else begins anew.</summary>
    /// <param name="identity">Names the content; empty when nothing does: then nothing that is there can be trusted.</param>
    public static PartFile Open(string target, long size, string identity) => Disk(target, () =>
    {
        Directory.CreateDirectory(Path.GetDirectoryName(target)!);
        var file = new PartFile(target, size, identity);
        try
        {
            if (!file.ReadJournal()) file.Clear();
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    });

    public string Target => _target;
    public long Size => _size;
    public SafeFileHandle Data => _data;

    /// <summary>Bytes that need not be downloaded again.</summary>
    public long BytesThere
    {
        get
        {
            long sum = 0;
            lock (_gate)
                foreach ((long from, long to) in _there) sum += to - from;
            return sum;
        }
    }

    /// <summary>The holes, cut into pieces that begin at multiples of <paramref name="pieceBytes"/> or at a hole.</summary>
    public List<(long From, long To)> Missing(long pieceBytes)
    {
        var missing = new List<(long, long)>();
        lock (_gate)
        {
            long at = 0;
            foreach ((long from, long to) in _there)
            {
                Cut(at, from);
                at = to;
            }
            Cut(at, _size);
        }
        return missing;

        void Cut(long from, long to)
        {
            for (long end; from < to; from = end) missing.Add((from, end = Math.Min(to, (from / pieceBytes + 1) * pieceBytes)));
        }
    }

    public async ValueTask WriteAsync(ReadOnlyMemory<byte> bytes, long offset, CancellationToken cancel)
    {
        try
        {
            await RandomAccess.WriteAsync(_data, bytes, offset, cancel);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Fault(_target, e);
        }
    }

    /// <summary>The range is written: to the device with it, then into the journal.</summary>
    public void Note(long from, long to)
    {
        if (from == to) return;
        Disk(_target, () =>
        {
            RandomAccess.FlushToDisk(_data);
            lock (_gate)
            {
                _journal.Write(Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{from} {to}\n")));
                Add(from, to);
            }
            return true;
        });
    }

    /// <summary>Nothing of what is there counts.</summary>
    public void Clear() => Disk(_target, () =>
    {
        lock (_gate)
        {
            _there.Clear();
            _journal.SetLength(0);
            _journal.Write(Encoding.UTF8.GetBytes(Head));
            // Holes again: what was there is given back.
            RandomAccess.SetLength(_data, 0);
            RandomAccess.SetLength(_data, _size);
            return true;
        }
    });

    /// <summary>Checked and whole: it gets its name.</summary>
    public void Complete()
    {
        Disk(_target, () =>
        {
            RandomAccess.FlushToDisk(_data);
            Dispose();
            File.Move(_target + Ending, _target, overwrite: true);
            File.Delete(_target + JournalEnding);
            return true;
        });
    }

    /// <summary>Wrong, and of no use to anyone.</summary>
    public void Discard() => Disk(_target, () =>
    {
        Dispose();
        File.Delete(_target + Ending);
        File.Delete(_target + JournalEnding);
        return true;
    });

    public void Dispose()
    {
        _data.Dispose();
        _journal.Dispose();
    }

    /// <summary>A disk that fails: one line.</summary>
    public static T Disk<T>(string path, Func<T> action)
    {
        try
        {
            return action();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Fault(path, e);
        }
    }

    private static HubException Fault(string path, Exception e) => new($"{path}: cannot be written: {e.Message}", e);

    private string Head => string.Create(CultureInfo.InvariantCulture, $"flash part 1 {_size} {Convert.ToHexStringLower(Encoding.UTF8.GetBytes(_identity))}\n");

    private bool ReadJournal()
    {
        const int most = 64 << 20;
        if (_identity.Length == 0 || RandomAccess.GetLength(_data) != _size || _journal.Length > most) return false;
        byte[] bytes = new byte[_journal.Length];
        _journal.ReadExactly(bytes);
        string text = Encoding.UTF8.GetString(bytes);
        if (!text.StartsWith(Head, StringComparison.Ordinal)) return false;
        int whole = text.LastIndexOf('\n') + 1;
        foreach (string line in text[Head.Length..whole].Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            string[] numbers = line.Split(' ');
            if (numbers.Length != 2 || !long.TryParse(numbers[0], NumberStyles.None, CultureInfo.InvariantCulture, out long from)
                || !long.TryParse(numbers[1], NumberStyles.None, CultureInfo.InvariantCulture, out long to) || from >= to || to > _size) return false;
            Add(from, to);
        }
        // A torn line must not become the beginning of the next.
        _journal.SetLength(Encoding.UTF8.GetByteCount(text.AsSpan(0, whole)));
        _journal.Seek(0, SeekOrigin.End);
        return true;
    }

    /// <summary>Ranges stay in order and apart.</summary>
    private void Add(long from, long to)
    {
        int i = 0;
        while (i < _there.Count && _there[i].To < from) i++;
        while (i < _there.Count && _there[i].From <= to)
        {
            from = Math.Min(from, _there[i].From);
            to = Math.Max(to, _there[i].To);
            _there.RemoveAt(i);
        }
        _there.Insert(i, (from, to));
    }
}
