using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli.Bench;

/// <summary>
/// What fio reads of a package's own slices, as an independent word beside the start-up probe: the same sizes at random, past the page cache, as many under way, a second each. Only where it is asked
/// for; that there is no fio, or that it fails, is one line. Blocks.
/// </summary>
internal static class FioProbe
{
    public static IReadOnlyList<ReadCost> Measure(string package, IEnumerable<int> sizes)
    {
        // Colons part its file names.
        string[] files = [.. Directory.EnumerateFiles(package, "*.slice", SearchOption.AllDirectories).Order(StringComparer.Ordinal).Select(static f => Path.GetFullPath(f).Replace(":", "\\:", StringComparison.Ordinal))];
        List<ReadCost> costs = [];
        foreach (int size in sizes)
        {
            // Of a size that is no multiple of a sector the reader, too, reads whole ones.
            long block = (size + PackageLayout.Sector - 1L) / PackageLayout.Sector * PackageLayout.Sector;
            if (files.Length == 0 || Directory.EnumerateFiles(package, "*.slice", SearchOption.AllDirectories).Max(static f => new FileInfo(f).Length) < block) continue;
            if (Rate(files, block) is > 0 and var rate) costs.Add(new ReadCost(size, 1 / rate));
        }
        return costs;
    }

    private static double Rate(string[] files, long block)
    {
        var start = new ProcessStartInfo("fio") { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (string argument in (string[])["--name=flash", "--filename=" + string.Join(':', files), "--readonly", "--direct=1", "--ioengine=io_uring", "--rw=randread", "--norandommap", "--file_service_type=random",
            "--bs=" + block.ToString(CultureInfo.InvariantCulture), $"--iodepth={ReadLoad.Depth}", "--iodepth_batch_submit=16", "--iodepth_batch_complete_min=16", $"--iodepth_batch_complete_max={ReadLoad.Depth}",
            "--time_based", "--runtime=1", "--output-format=json"]) start.ArgumentList.Add(argument);
        try
        {
            using Process fio = Process.Start(start)!;
            Task<string> error = fio.StandardError.ReadToEndAsync();
            string said = fio.StandardOutput.ReadToEnd();
            fio.WaitForExit();
            if (fio.ExitCode != 0) throw new CliException($"--fio: {error.Result.ReplaceLineEndings(" ").Trim()}");
            // Warnings may come before the JSON.
            using JsonDocument report = JsonDocument.Parse(said[Math.Max(0, said.IndexOf('{', StringComparison.Ordinal))..]);
            return report.RootElement.GetProperty("jobs")[0].GetProperty("read").GetProperty("iops").GetDouble();
        }
        catch (Win32Exception)
        {
            throw new CliException("--fio: there is no fio on the PATH; install it or leave the option out");
        }
        catch (JsonException e)
        {
            throw new CliException($"--fio: what it said is not JSON: {e.Message}");
        }
    }
}
