using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>What was computed outlives the process, as a cache: whatever happens to the files costs computing, never a token.</summary>
public sealed class KvDiskTests : IDisposable
{
    private const int Vocabulary = 200;
    private static readonly ModelConfig s_long = TinyPackage.Llama(layers: 2) with { MaxPositions = 2048 };
    private readonly string _folder = Directory.CreateTempSubdirectory("kv").FullName;
    private readonly List<string> _log = [];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData(KvType.F16)]
    [InlineData(KvType.Q8)]
    [InlineData(KvType.F32)]
    public void A_session_resumes_after_a_restart_without_computing_and_gets_the_same_bits(KvType kv)
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(500, Vocabulary, 1);
        var expected = Alone(tiny, prompt, 6, kv);
        Compute(tiny, prompt, kv);
        using var engine = Open(tiny, kv);
        using var session = engine.OpenSession();
        session.Timeline.Append(prompt);
        Assert.Equal(499, session.Restore());
        ExactnessTests.AssertSame(expected, Tops(session, 6), "after a restart");
        Assert.Equal(6, engine.Layers[0].Stats.Rows);
        Assert.True(engine.Conductor.KvDiskBytes.Read > 0);
        Assert.Empty(_log);
    }

    [Fact]
    public void What_a_process_had_written_when_it_was_killed_is_there_for_the_next()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(500, Vocabulary, 1);
        string copy = Path.Combine(_folder, "killed");
        using (var engine = Open(tiny))
        {
            using var session = engine.OpenSession();
            session.Timeline.Append(prompt);
            session.Run(Sampling.Greedy);
            // Seven whole blocks in each of two layers; the last one is nobody's yet.
            WaitFor(engine, 14);
            // The files as they are in this very moment: nothing is closed or flushed.
            foreach (string file in Files()) Copy(file, copy);
        }
        using var next = Open(tiny, folder: copy);
        using var again = next.OpenSession();
        again.Timeline.Append(prompt);
        Assert.Equal(448, again.Restore());
        ExactnessTests.AssertSame(Alone(tiny, prompt, 4), Tops(again, 4), "after a kill");
    }

    public enum Damage { FlippedBit, TornBlock, TornEntry, Cut, Version, OtherUse, Garbage, Empty }

    [Theory]
    [InlineData(Damage.FlippedBit, 384)]
    [InlineData(Damage.TornBlock, 384)]
    [InlineData(Damage.TornEntry, 384)]
    [InlineData(Damage.Cut, 448)]
    [InlineData(Damage.Version, 0)]
    [InlineData(Damage.OtherUse, 0)]
    [InlineData(Damage.Garbage, 0)]
    [InlineData(Damage.Empty, 0)]
    public void Whatever_happened_to_a_file_its_bad_blocks_are_computed_again_and_no_bit_differs(Damage damage, int left)
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(500, Vocabulary, 1);
        Compute(tiny, prompt);
        string file = Files()[1];
        byte[] bytes = File.ReadAllBytes(file);
        int block = (int)KvCache.BlockBytes(s_long, KvType.F16), slot = KvFile.SlotBytesFor(block), slots = BitConverter.ToInt32(bytes, 16), data = bytes.Length - slots * slot;
        // The seventh block: positions from 384 on.
        int entry = Enumerable.Range(0, slots).First(i => BitConverter.ToInt32(bytes, 4096 + 64 * i + 16) == 448), last = Enumerable.Range(0, slots).Last(i => BitConverter.ToInt32(bytes, 4096 + 64 * i + 16) > 0);
        switch (damage)
        {
            case Damage.FlippedBit: bytes[data + entry * slot + 1000] ^= 4; break;
            case Damage.TornBlock: bytes.AsSpan(data + entry * slot, 4096).Clear(); break;
            case Damage.TornEntry: bytes[4096 + 64 * entry + 3] ^= 1; break;
            case Damage.Cut: Array.Resize(ref bytes, data + last * slot + 100); break;
            case Damage.Version: bytes[8]++; break;
            case Damage.OtherUse: bytes[24]++; break;
            case Damage.Garbage: new Random(1).NextBytes(bytes); break;
            case Damage.Empty: bytes = []; break;
        }
        File.WriteAllBytes(file, bytes);
        using var engine = Open(tiny);
        using var session = engine.OpenSession();
        session.Timeline.Append(prompt);
        Assert.Equal(left, session.Restore());
        ExactnessTests.AssertSame(Alone(tiny, prompt, 4), Tops(session, 4), damage.ToString());
    }

    [Fact]
    public void A_full_disk_ends_the_saving_with_one_line_and_nothing_else()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(800, Vocabulary, 2);
        using (var engine = Open(tiny, writing: static written =>
        {
            if (written > 100_000) throw new IOException("No space left on device");
        }))
        {
            using var session = engine.OpenSession();
            session.Timeline.Append(prompt);
            ExactnessTests.AssertSame(Alone(tiny, prompt, 5), Tops(session, 5), "on a full disk");
            session.Settle();
        }
        Assert.Contains("No space left", Assert.Single(_log), StringComparison.Ordinal);
    }

    [Fact]
    public void A_folder_that_cannot_be_made_or_is_in_use_is_a_line_and_no_saving()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(100, Vocabulary, 2);
        string file = Path.Combine(_folder, "file");
        File.WriteAllText(file, "");
        using (var engine = Open(tiny, folder: file)) Assert.Equal(3, ExactnessTests.Run(engine, prompt, 3, 64, 0).Length);
        Assert.Equal(2, _log.Count);
        using var first = Open(tiny);
        using var second = Open(tiny);
        ExactnessTests.AssertSame(Alone(tiny, prompt, 3), ExactnessTests.Run(second, prompt, 3, 64, Vocabulary), "beside another process");
        Assert.Equal(4, _log.Count);
    }

    [Fact]
    public void What_memory_drops_is_on_disk_and_comes_back_and_the_buffer_of_a_budget_never_grows()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        var budget = new BudgetOptions { Size = BudgetSize.TryParse("400MiB", out var size) ? size : default, Sessions = 1, Context = 640, Host = BudgetHost.Engine };
        using var engine = new LocalEngine(tiny.Package, new() { Budget = budget, KvDisk = Disk(_folder) }, new());
        long bytes = engine.Layers[0].Stats.KvBytes;
        int[][] prompts = [.. Enumerable.Range(0, 5).Select(i => ExactnessTests.Prompt(500, Vocabulary, 20 + i))];
        foreach (int[] prompt in prompts)
        {
            var session = engine.OpenSession();
            session.Timeline.Append(prompt);
            session.Run(Sampling.Greedy);
            session.Release();
            // Written before the next one takes the memory: eight blocks, the end included.
            WaitFor(engine, 16 * (Array.IndexOf(prompts, prompt) + 1));
        }
        Assert.InRange(engine.Conductor.Ledger.Total, 1, engine.Conductor.Plan!.Native);
        for (int i = 0; i < prompts.Length; i++)
        {
            using var session = engine.OpenSession();
            session.Timeline.Append(prompts[i]);
            long read = engine.Conductor.KvDiskBytes.Read;
            Assert.Equal(499, session.Restore());
            Assert.True(engine.Conductor.KvDiskBytes.Read > read);
            Assert.Equal(bytes, engine.Layers[0].Stats.KvBytes);
            ExactnessTests.AssertSame(Alone(tiny, prompts[i], 2), Tops(session, 2), $"session {i}");
            session.Release();
        }
    }

    [Fact]
    public void The_files_stay_within_their_limit_the_oldest_blocks_go_and_only_their_owner_can_read_them()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        int slot = KvFile.SlotBytesFor((int)KvCache.BlockBytes(s_long, KvType.F16));
        // Half of it is one model's: ten blocks in each of two layers.
        long limit = 2 * 2 * 10 * (slot + 64);
        using (var engine = Open(tiny, bytes: limit))
        {
            for (int i = 0; i < 4; i++)
            {
                var session = engine.OpenSession();
                session.Timeline.Append(ExactnessTests.Prompt(260, Vocabulary, 40 + i));
                session.Run(Sampling.Greedy);
                session.Release();
                WaitFor(engine, 10 * (i + 1));
            }
        }
        Assert.InRange(Files().Sum(static f => new FileInfo(f).Length), 1, limit);
        if (!OperatingSystem.IsWindows())
        {
            foreach (string f in Files()) Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(f));
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute, File.GetUnixFileMode(Path.GetDirectoryName(Files()[0])!));
        }
        using var next = Open(tiny, bytes: limit);
        int[] found = [.. Enumerable.Range(0, 4).Select(i =>
        {
            using var session = next.OpenSession();
            session.Timeline.Append(ExactnessTests.Prompt(260, Vocabulary, 40 + i));
            return session.Restore();
        })];
        Assert.Equal([0, 0, 259, 259], found);
    }

    [Fact]
    public void A_session_that_is_deleted_leaves_nothing_on_disk_but_what_others_hold()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        int[] common = ExactnessTests.Prompt(128, Vocabulary, 60), mine = [.. common, .. ExactnessTests.Prompt(200, Vocabulary, 61)], other = [.. common, .. ExactnessTests.Prompt(100, Vocabulary, 62)];
        using (var engine = Open(tiny))
        {
            var deleted = engine.OpenSession();
            deleted.Timeline.Append(mine);
            deleted.Run(Sampling.Greedy);
            deleted.Settle();
            using var stays = engine.OpenSession();
            stays.Timeline.Append(other);
            Assert.Equal(128, stays.Restore());
            stays.Run(Sampling.Greedy);
            WaitFor(engine, 2 * 7);
            ulong[] chain = deleted.Timeline.Chain.ToArray();
            foreach (var layer in engine.Layers) engine.Conductor.CloseSession(layer, deleted.Id, chain);
            stays.Release();
        }
        using var next = Open(tiny);
        using var looks = next.OpenSession();
        looks.Timeline.Append(mine);
        Assert.Equal(128, looks.Restore());
        using var alsoLooks = next.OpenSession();
        alsoLooks.Timeline.Append(other);
        Assert.Equal(227, alsoLooks.Restore());
    }

    [Fact]
    public async Task A_session_that_goes_on_by_itself_while_its_blocks_are_read_is_not_disturbed()
    {
        using var tiny = TinyPackage.Create(s_long, WeightFormat.Q8);
        int[] prompt = ExactnessTests.Prompt(300, Vocabulary, 70);
        Compute(tiny, prompt);
        using var engine = Open(tiny);
        using var session = engine.OpenSession();
        session.Timeline.Append(prompt);
        ulong[] chain = session.Timeline.Chain.ToArray();
        var asked = engine.Layers.Select(layer => engine.Conductor.RestoreAsync(layer, session.Id, chain)).ToArray();
        var top = session.Run(Sampling.Greedy, SlotFlags.Sample, Vocabulary).Top!;
        ExactnessTests.AssertSame(Alone(tiny, prompt, 1), [top], "without waiting");
        foreach (int answer in await Task.WhenAll(asked)) Assert.InRange(answer, 0, 300);
    }

    private static void WaitFor(LocalEngine engine, long blocks)
    {
        int slot = KvFile.SlotBytesFor((int)KvCache.BlockBytes(s_long, KvType.F16));
        Assert.True(SpinWait.SpinUntil(() => engine.Conductor.KvDiskBytes.Written >= blocks * slot, TimeSpan.FromSeconds(60)), $"{engine.Conductor.KvDiskBytes.Written / slot} blocks of {blocks} were written");
    }

    private KvDiskOptions Disk(string folder, long bytes = 64 << 20, Action<long>? writing = null) => new()
    {
        Folder = folder,
        Bytes = bytes,
        Writing = writing,
        Log = line =>
        {
            lock (_log) _log.Add(line);
        },
    };

    private LocalEngine Open(TinyPackage tiny, KvType kv = KvType.F16, string? folder = null, long bytes = 64 << 20, Action<long>? writing = null) =>
        new(tiny.Package, new() { KvDisk = Disk(folder ?? _folder, bytes, writing) }, new() { Kv = kv });

    /// <summary>An engine that computes a prompt and ends as it should: all of it is on disk then.</summary>
    private void Compute(TinyPackage tiny, int[] prompt, KvType kv = KvType.F16)
    {
        using var engine = Open(tiny, kv);
        var session = engine.OpenSession();
        session.Timeline.Append(prompt);
        session.Run(Sampling.Greedy);
    }

    private string[] Files() => [.. Directory.GetFiles(_folder, "*.kv", SearchOption.AllDirectories).Order(StringComparer.Ordinal)];

    private void Copy(string file, string folder)
    {
        string to = Path.Combine(folder, Path.GetRelativePath(_folder, file));
        Directory.CreateDirectory(Path.GetDirectoryName(to)!);
        using var process = System.Diagnostics.Process.Start("cp", [file, to]);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }

    private static (int, float)[][] Alone(TinyPackage tiny, int[] prompt, int tokens, KvType kv = KvType.F16)
    {
        using var engine = new LocalEngine(tiny.Package, new(), new() { Kv = kv });
        return ExactnessTests.Run(engine, prompt, tokens, 64, Vocabulary);
    }

    private static (int, float)[][] Tops(EngineSession session, int tokens)
    {
        var tops = new (int, float)[tokens][];
        for (int i = 0; i < tokens; i++)
        {
            var result = session.Run(Sampling.Greedy, SlotFlags.Sample, Vocabulary);
            tops[i] = result.Top!;
            session.Timeline.Append([result.Token]);
        }
        return tops;
    }
}
