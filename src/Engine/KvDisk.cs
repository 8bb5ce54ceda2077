using System.Globalization;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>Keys and values on disk: where, and how much.</summary>
public sealed record KvDiskOptions
{
    /// <summary>Made where it is not, for its owner alone.</summary>
    public required string Folder { get; init; }
    /// <summary>Of all models together. One takes at most half of what is left, so that the next finds room.</summary>
    public required long Bytes { get; init; }
    /// <summary>Told why nothing is saved any more; one line.</summary>
    public Action<string>? Log { get; init; }
    /// <summary>Called before a write with the bytes written so far (tests).</summary>
    internal Action<long>? Writing { get; init; }
}

/// <summary>
/// The thread that saves keys and values and brings them back, one engine's, and the buffers between it and the conductor. The conductor copies a block into a buffer and goes on: where none is free the block waits.
/// What was saved is read in long runs and checked before anybody sees it. An error of the device while writing ends the saving, with one line to the log; while reading it is a block
/// less. Layers are opened by the loader thread; everything else is asked for by the conductor thread, which hears of the end by a command.
/// </summary>
internal sealed unsafe class KvDisk : IDisposable
{
    private const int BufferBytes = 1 << 20, LeastBuffers = 4, MostBuffers = 64, RunBytes = 1 << 20, IndexBytes = 2 << 20;
    private readonly KvDiskOptions _options;
    private readonly MemoryLedger _ledger;
    private readonly Action<Action> _command;
    private readonly Thread _thread;
    private readonly object _gate = new();
    private readonly Queue<Action> _reads = new(), _writes = new();
    private readonly Dictionary<string, KvFolder> _folders = [];
    private bool _stop;
    private volatile bool _off;
    private long _written, _read;

    public KvDisk(KvDiskOptions options, MemoryLedger ledger, Action<Action> command)
    {
        _options = options;
        _ledger = ledger;
        _command = command;
        _thread = new Thread(Loop, 1 << 20) { IsBackground = true, Name = "flash-kv" };
        _thread.Start();
    }

    /// <summary>Nothing is saved any more.</summary>
    public bool IsOff => _off;
    public long BytesWritten => Interlocked.Read(ref _written);
    public long BytesRead => Interlocked.Read(ref _read);

    /// <summary>Native memory for a model with blocks of this size: buffers, and what blocks are read into.</summary>
    public static long MemoryFor(int blockBytes)
    {
        long slot = KvFile.SlotBytesFor(blockBytes);
        return Buffers(slot) * slot + Run(slot) * slot;
    }

    /// <summary>Native memory for a layer's index.</summary>
    public static long IndexFor(KvDiskOptions options, int layers, int blockBytes) => (long)SlotsFor(options.Bytes / 2, layers, blockBytes) * KvTable.BytesPerBlock;

    private static int SlotsFor(long bytes, int layers, int blockBytes) => (int)Math.Min(bytes / layers / (KvFile.SlotBytesFor(blockBytes) + sizeof(KvEntry)),
        // Small blocks would need an index that is large beside the model.
        Math.Max(IndexBytes / KvTable.BytesPerBlock / layers, 256));

    private static long Buffers(long slot) => Math.Clamp(BufferBytes / slot, LeastBuffers, MostBuffers);

    private static long Run(long slot) => Math.Max(1, RunBytes / slot);

    /// <summary>Loader thread: a layer's saved blocks; null when they cannot be had, and the log says why.</summary>
    public KvStore? Open(FlashPackage package, int layer, KvType type, int blockBytes)
    {
        if (_off) return null;
        string name = string.Create(CultureInfo.InvariantCulture, $"{package.Hash}-{Numerics.Version}-{type.ToString().ToLowerInvariant()}");
        KvFolder? folder = null;
        try
        {
            lock (_folders)
            {
                if (!_folders.TryGetValue(name, out folder))
                {
                    long bytes = (_options.Bytes - _folders.Values.Sum(static f => f.Bytes)) / 2;
                    int slots = SlotsFor(bytes, package.Config.Layers, blockBytes);
                    if (slots == 0) throw new IOException($"{bytes} bytes are too few for {package.Config.Layers} layers");
                    string path = Path.Combine(_options.Folder, name);
                    MakeRoom(path, _options.Bytes - bytes);
                    long slot = KvFile.SlotBytesFor(blockBytes);
                    _folders.Add(name, folder = new KvFolder(path, bytes, slots, new NativeBuffer(Buffers(slot) * slot + Run(slot) * slot, _ledger, "kv buffers"), slot, (int)Run(slot)));
                }
                folder.Layers++;
            }
            var file = KvFile.Open(Path.Combine(folder.Path, string.Create(CultureInfo.InvariantCulture, $"layer{layer:000}.kv")), TokenChain.StartOf($"{name}/{layer}"), blockBytes, folder.Slots);
            return new KvStore(file, folder);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FlashException)
        {
            if (folder != null) Leave(folder);
            _options.Log?.Invoke($"keys and values of {package.Name}, layer {layer}, are not saved: {e.Message}");
            return null;
        }
    }

    /// <summary>A layer is gone: nothing of it is under way.</summary>
    public void Close(KvStore store)
    {
        store.Dispose();
        Leave(store.Folder);
    }

    /// <summary>Writes a buffer, which is free again by then, and says whether that went well.</summary>
    public void Write(KvStore store, int slot, KvEntry entry, byte* buffer, Action<bool> done) => Do(_writes, () =>
    {
        bool good = !_off;
        try
        {
            if (good) _options.Writing?.Invoke(BytesWritten);
            if (good) store.File.Write(slot, entry, buffer);
            Interlocked.Add(ref _written, good ? store.File.SlotBytes : 0);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ObjectDisposedException)
        {
            good = false;
            TurnOff(e.Message);
        }
        _command(() =>
        {
            store.Folder.Free.Push((nint)buffer);
            done(good);
        });
    });

    /// <summary>Reads slots in the order they lie; and says of each whether it is what it should be.</summary>
    public void Read(KvStore store, KvPiece[] pieces, int blockBytes, Action done) => Do(_reads, () =>
    {
        try
        {
            ReadAll(store, pieces, blockBytes);
        }
        catch (Exception e) when (e is IOException or FlashException or ObjectDisposedException)
        {
            foreach (var piece in pieces) piece.Intact = false;
        }
        _command(done);
    });

    public void Erase(KvStore store, int slot, Action done) => Do(_writes, () =>
    {
        try
        {
            store.File.Erase(slot);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ObjectDisposedException)
        {
            TurnOff(e.Message);
        }
        _command(done);
    });

    public void Dispose()
    {
        lock (_gate)
        {
            _stop = true;
            Monitor.Pulse(_gate);
        }
        _thread.Join();
        foreach (var folder in _folders.Values) folder.Memory.Dispose();
    }

    private void ReadAll(KvStore store, KvPiece[] pieces, int blockBytes)
    {
        Array.Sort(pieces, static (a, b) => a.Slot.CompareTo(b.Slot));
        var folder = store.Folder;
        for (int i = 0, n; i < pieces.Length; i += n)
        {
            for (n = 1; n < folder.RunSlots && i + n < pieces.Length && pieces[i + n].Slot == pieces[i].Slot + n;) n++;
            int got = store.File.Read(pieces[i].Slot, n, folder.RunBuffer);
            Interlocked.Add(ref _read, (long)got * store.File.SlotBytes);
            for (int k = 0; k < got; k++)
            {
                var piece = pieces[i + k];
                byte* from = folder.RunBuffer + (long)k * store.File.SlotBytes;
                piece.Intact = store.File.IsIntact(piece.Slot, from, piece.Start, piece.Hash, piece.Position);
                if (piece.Intact) Buffer.MemoryCopy(from, piece.Block, blockBytes, blockBytes);
            }
        }
    }

    private void TurnOff(string why)
    {
        if (_off) return;
        _off = true;
        _options.Log?.Invoke($"keys and values are no longer saved in {_options.Folder}: {why}");
    }

    private void Leave(KvFolder folder)
    {
        lock (_folders)
        {
            if (--folder.Layers > 0) return;
            _folders.Remove(Path.GetFileName(folder.Path));
            folder.Memory.Dispose();
        }
    }

    /// <summary>What other models left is deleted, the longest unused first, until the rest and this one are within the limit.</summary>
    private void MakeRoom(string mine, long others)
    {
        var root = new DirectoryInfo(_options.Folder);
        if (!root.Exists) return;
        var left = root.GetDirectories().Where(d => d.FullName != mine && !_folders.ContainsKey(d.Name)).Select(static d => (Folder: d, Files: d.GetFiles("*.kv")))
            .Where(static f => f.Files.Length > 0).OrderByDescending(static f => f.Files.Max(static k => k.LastWriteTimeUtc)).ToArray();
        long sum = _folders.Values.Sum(static f => f.Bytes);
        foreach (var (folder, files) in left)
        {
            sum += files.Sum(static f => f.Length);
            if (sum > others) Delete(folder, files);
        }
    }

    private static void Delete(DirectoryInfo folder, FileInfo[] files)
    {
        try
        {
            // One that another process uses is not ours to delete.
            foreach (var file in files) File.OpenHandle(file.FullName, FileMode.Open, FileAccess.ReadWrite, FileShare.None).Dispose();
            folder.Delete(recursive: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It stays, and takes its room.
        }
    }

    private void Do(Queue<Action> queue, Action work)
    {
        lock (_gate)
        {
            queue.Enqueue(work);
            Monitor.Pulse(_gate);
        }
    }

    private void Loop()
    {
        while (true)
        {
            Action? work;
            lock (_gate)
            {
                // Somebody waits for what is read.
                while (!_reads.TryDequeue(out work) && !_writes.TryDequeue(out work))
                {
                    if (_stop) return;
                    Monitor.Wait(_gate);
                }
            }
            work();
        }
    }
}

/// <summary>What the layers of one model share on disk: a folder, and the buffers between it and memory. The conductor thread takes and gives buffers; the I/O thread alone reads into the last.</summary>
internal sealed unsafe class KvFolder
{
    public KvFolder(string path, long bytes, int slots, NativeBuffer memory, long slotBytes, int runSlots)
    {
        Path = path;
        Bytes = bytes;
        Slots = slots;
        Memory = memory;
        RunSlots = runSlots;
        RunBuffer = memory.Pointer;
        for (byte* p = memory.Pointer + runSlots * slotBytes; p < memory.Pointer + memory.Length; p += slotBytes) Free.Push((nint)p);
    }

    public string Path { get; }
    /// <summary>That it may take.</summary>
    public long Bytes { get; }
    /// <summary>Of each layer.</summary>
    public int Slots { get; }
    public NativeBuffer Memory { get; }
    public int RunSlots { get; }
    public byte* RunBuffer { get; }
    /// <summary>Buffers that nobody uses.</summary>
    public Stack<nint> Free { get; } = new();
    /// <summary>Caches with blocks that may wait for one.</summary>
    public List<KvCache> Caches { get; } = [];
    public int Layers { get; set; }
}

/// <summary>A block that is wanted of a chain: in memory, or in a slot and on its way to memory.</summary>
internal sealed unsafe class KvPiece
{
    /// <summary>Number in memory.</summary>
    public int Id;
    /// <summary>On disk; <see cref="KvTable.None"/>: it was in memory.</summary>
    public int Slot;
    public byte* Block;
    /// <summary>What it is: the chain's start, and its hash behind the block's last position.</summary>
    public ulong Start, Hash;
    public int Position;
    /// <summary>First position, and the one behind the last that the chain has, too: all of them or less.</summary>
    public int At, End;
    public bool Intact;
}
