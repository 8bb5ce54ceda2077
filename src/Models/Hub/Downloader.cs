using System.Buffers;
using System.Globalization;

namespace FlashOrleans.Models.Hub;

/// <summary>
/// Files of a server → files of a folder, byte for byte. Rounds: the missing ranges of all files, cut into pieces, are fetched by a few connections at once and
/// written where they belong; the connection that brings a file's last piece checks its sum and gives it its name. A file whose server turns out to ignore
/// ranges, to have changed it, or whose sum is wrong is begun again in the next round, once per reason. Memory is a buffer per connection. Failure: a
/// <see cref="HubException"/>, or cancellation; either way the ranges that arrived stay noted for the next attempt. Runs on pool threads.
/// </summary>
internal sealed class Downloader(HubClient client, HubOptions options, HubRetries retries)
{
    private const int BufferBytes = 256 << 10;
    /// <summary>A connection that brought so much before it broke was worth it: patience starts anew.</summary>
    private const int WorthIt = 1 << 20;

    /// <param name="besides">Bytes that the disk must have room for afterwards.</param>
    /// <param name="described">Called when everything but the weights is there: it may refuse a model before it costs hours.</param>
    public async Task RunAsync(IReadOnlyList<HubFile> files, string folder, long besides, Action? described, PullMeter meter, CancellationToken cancel)
    {
        meter.Total = files.Sum(static f => f.Size);
        var transfers = new List<Transfer>();
        try
        {
            foreach (HubFile file in files)
            {
                string target = RemotePath.Under(folder, file.Path);
                if (await IsThereAsync(file, target, meter, cancel)) meter.Found(file.Size);
                else transfers.Add(new Transfer(file, PartFile.Open(target, file.Size, file.Identity)));
            }
            foreach (Transfer transfer in transfers) meter.Found(transfer.Part.BytesThere);
            CheckSpace(folder, meter.Total - meter.Done, besides);
            meter.Step(PullMeter.Downloading);
            await RoundsAsync([.. transfers.Where(static t => !IsWeights(t.File))], meter, cancel);
            described?.Invoke();
            await RoundsAsync([.. transfers.Where(static t => IsWeights(t.File))], meter, cancel);
        }
        finally
        {
            foreach (Transfer transfer in transfers) transfer.Dispose();
        }
    }

    private static bool IsWeights(HubFile file) => GgufName.Is(file.Path) || file.Path.EndsWith(".safetensors", StringComparison.Ordinal);

    private async Task RoundsAsync(List<Transfer> left, PullMeter meter, CancellationToken cancel)
    {
        for (; left.Count > 0; left = [.. left.Where(static t => !t.Done)]) await RoundAsync(left, meter, cancel);
    }

    private async Task RoundAsync(List<Transfer> transfers, PullMeter meter, CancellationToken cancel)
    {
        var pieces = new List<Piece>();
        foreach (Transfer transfer in transfers)
        {
            long before = transfer.Part.BytesThere;
            List<Piece> missing = transfer.Begin(options.PieceBytes);
            meter.Found(transfer.Part.BytesThere - before);
            pieces.AddRange(missing);
            // Everything was here when the last attempt ended, or there is nothing to fetch.
            if (missing.Count == 0) await FinishAsync(transfer, meter, cancel);
        }
        // The first that fails stops the others, and is the one that is reported.
        await Parallel.ForEachAsync(pieces, new ParallelOptions { MaxDegreeOfParallelism = options.Connections, CancellationToken = cancel },
            async (piece, token) => await FetchAsync(piece, meter, token));
    }

    private async Task FetchAsync(Piece piece, PullMeter meter, CancellationToken cancel)
    {
        Transfer transfer = piece.Transfer;
        byte[] buffer = ArrayPool<byte>.Shared.Rent(BufferBytes);
        try
        {
            while (!piece.IsComplete && !transfer.Restarting)
            {
                await retries.RunAsync(async token =>
                {
                    long before = piece.Done;
                    try
                    {
                        await AttemptAsync(piece, buffer, meter, token);
                    }
                    catch (HubException e) when (e.MayPass && transfer.Ranges && piece.Done - before >= WorthIt)
                    {
                        // A new attempt, not another one.
                    }
                    return true;
                }, (e, wait) => meter.Step(string.Create(CultureInfo.InvariantCulture, $"waiting {wait.TotalSeconds:0.#} s, {e.Message}")), cancel);
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
        if (transfer.PieceDone()) await FinishAsync(transfer, meter, cancel);
    }

    /// <summary>One request for what is missing of the piece.</summary>
    private async ValueTask AttemptAsync(Piece piece, byte[] buffer, PullMeter meter, CancellationToken cancel)
    {
        // Cut after its last byte.
        if (piece.IsComplete) return;
        Transfer transfer = piece.Transfer;
        long size = transfer.File.Size, had = piece.Done;
        // Without ranges nothing that a cut left is of use.
        if (transfer.Whole) piece.StartOver();
        bool asRange = piece.From + piece.Done != 0 || piece.To != size;
        try
        {
            await using HubResponse response = await client.GetAsync(transfer.File.Label, transfer.File.Url, asRange ? (piece.From + piece.Done, piece.To) : null, cancel);
            bool accepted = transfer.Accept(response, piece, asRange);
            meter.Found(piece.Done - had);
            had = piece.Done;
            if (!accepted) return;
            int read;
            while (!transfer.Restarting && (read = await response.ReadAsync(buffer.AsMemory(0, BufferBytes))) > 0)
            {
                if (read > piece.To - piece.From - piece.Done) throw new HubException($"{transfer.File.Label}: {response.Url.Authority} sends more than the {size} bytes that are listed");
                await transfer.Part.WriteAsync(buffer.AsMemory(0, read), piece.From + piece.Done, cancel);
                piece.Done += read;
                had = piece.Done;
                meter.Arrived(read);
                if (piece.Done - piece.Noted >= options.JournalBytes) Note(piece);
            }
            if (!piece.IsComplete && !transfer.Restarting)
                throw new HubException($"{transfer.File.Label}: {response.Url.Authority} ends after {piece.From + piece.Done} of {piece.To} bytes") { MayPass = true };
        }
        finally
        {
            meter.Found(piece.Done - had);
            if (transfer.Restarting) meter.Found(piece.Noted - piece.Done);
            else Note(piece);
        }
    }

    private static void Note(Piece piece)
    {
        piece.Transfer.Part.Note(piece.From + piece.Noted, piece.From + piece.Done);
        piece.Noted = piece.Done;
    }

    private static async Task FinishAsync(Transfer transfer, PullMeter meter, CancellationToken cancel)
    {
        if (transfer.File.Sum is { } sum)
        {
            meter.Step($"checking {transfer.File.Path}");
            if (!await sum.MatchesAsync(transfer.Part.Data, cancel))
            {
                meter.Step($"{transfer.File.Path} arrived damaged, once more");
                transfer.Again(Restart.Damaged, "arrived damaged twice: its checksum is not the one that the repository lists; the server or something on the way is broken");
                return;
            }
        }
        transfer.Complete();
    }

    /// <summary>A file that is complete already. One with another length or sum is not it, and goes.</summary>
    private static async Task<bool> IsThereAsync(HubFile file, string target, PullMeter meter, CancellationToken cancel)
    {
        if (!File.Exists(target)) return false;
        using (var handle = PartFile.Disk(target, () => File.OpenHandle(target, options: FileOptions.Asynchronous | FileOptions.SequentialScan)))
        {
            meter.Step($"checking {file.Path}");
            if (RandomAccess.GetLength(handle) == file.Size && (file.Sum == null || await file.Sum.MatchesAsync(handle, cancel))) return true;
        }
        return PartFile.Disk(target, () =>
        {
            File.Delete(target);
            return false;
        });
    }

    private void CheckSpace(string folder, long download, long besides)
    {
        long free = options.FreeBytes(folder);
        if (free >= download + besides) return;
        throw new HubException(string.Create(CultureInfo.InvariantCulture,
            $"{folder}: {download / 1e9:0.00} GB to download and about {besides / 1e9:0.00} GB for the package do not fit into the {free / 1e9:0.00} GB that are free; make room, or set FLASH_HOME to another disk"));
    }
}
