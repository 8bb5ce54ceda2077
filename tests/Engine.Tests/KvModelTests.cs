using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Thousands of random operations on one layer's keys and values, beside a naive model that knows every session's tokens: what is read is what was written for those very tokens, and the blocks add up.</summary>
public sealed unsafe class KvModelTests
{
    private sealed class Session
    {
        public Guid Id = Guid.NewGuid();
        public ulong Start;
        public List<int> Tokens = [];
        public long Step;
        /// <summary>Positions that it believes to be computed.</summary>
        public int Computed;

        public ulong[] Chain(int length)
        {
            ulong[] chain = new ulong[length + 1];
            chain[0] = Start;
            for (int i = 0; i < length; i++) chain[i + 1] = TokenChain.Next(chain[i], Tokens[i]);
            return chain;
        }
    }

    [Theory]
    [InlineData(1, 24)]
    [InlineData(2, 24)]
    [InlineData(3, 9)]
    [InlineData(4, 0)]
    [InlineData(5, 60)]
    [InlineData(6, 0)]
    [InlineData(7, 24, 400)]
    [InlineData(8, 9, 400)]
    [InlineData(9, 0, 400)]
    [InlineData(10, 12, 15)]
    [InlineData(11, 0, 7)]
    public void Whatever_sessions_do_each_reads_what_was_written_for_its_own_tokens_and_no_block_is_lost_or_held_twice(int seed, int blocks, int slots = 0)
    {
        var random = new Random(seed);
        var ledger = new MemoryLedger();
        var config = TinyPackage.Llama();
        // With a disk what it says comes when the test looks: sooner or later, often in the middle of something else.
        using var tiny = TinyPackage.Create(config, WeightFormat.F32);
        using var disk = new Disk(tiny, slots, ledger);
        long blockBytes = KvCache.BlockBytes(config, KvType.F32);
        using (var kv = new KvCache(config, KvType.F32, ledger, "kv", blocks, cachedBytes: 12 * blockBytes))
        {
            if (slots > 0) kv.SaveIn(disk.Saves, tiny.Package, 0);
            var sessions = new List<Session>();
            long adopted = 0, shared = 0, refused = 0;
            for (int i = 0; i < 6000; i++)
            {
                if (sessions.Count < 6 && random.Next(8) == 0) sessions.Add(new Session { Start = TokenChain.StartOf($"user {random.Next(2)}") });
                if (random.Next(4) == 0) disk.Hear();
                if (sessions.Count == 0) continue;
                var s = sessions[random.Next(sessions.Count)];
                switch (random.Next(10))
                {
                    case 0:
                        bool keep = random.Next(3) > 0;
                        kv.Close(s.Id, keep);
                        if (!keep) kv.Forget(s.Chain(s.Tokens.Count));
                        sessions.Remove(s);
                        break;
                    case 1:
                        kv.Settle(s.Id);
                        break;
                    case 2:
                        int at = random.Next(s.Tokens.Count + 1);
                        s.Tokens.RemoveRange(at, s.Tokens.Count - at);
                        s.Computed = Math.Min(s.Computed, s.Tokens.Count);
                        break;
                    case 3 when blocks == 0:
                        kv.EvictTo(random.Next(20) * blockBytes);
                        break;
                    case 4 when s.Tokens.Count > 0:
                        s.Computed = disk.Restore(kv, s.Id, s.Chain(s.Tokens.Count), random);
                        adopted += s.Computed;
                        break;
                    default:
                        // Few texts, so that many sessions begin the same way.
                        int more = random.Next(1, 90);
                        int text = random.Next(2);
                        for (int t = 0; t < more && s.Tokens.Count < 400; t++) s.Tokens.Add(random.Next(300) == 0 ? random.Next(100) : (s.Tokens.Count / 50 + text) % 3);
                        if (random.Next(2) == 0 && s.Tokens.Count > 0) s.Computed = disk.Restore(kv, s.Id, s.Chain(s.Tokens.Count - 1), random);
                        if (!Compute(kv, s, random)) refused++;
                        break;
                }
                if (i % 7 != 0) continue;
                if (slots > 0) disk.HearAll(kv);
                Check(kv, sessions, blocks);
                foreach (var sequence in kv.Sequences.Values)
                    for (int b = 0; b < sequence.BlockCount; b++)
                        if (kv.Table[sequence.Id(b)].Refs > 1) shared++;
            }
            disk.HearAll(kv);
            Check(kv, sessions, blocks);
            if (slots > 0) Assert.True(disk.Saves.BytesRead > 50 * blockBytes, $"{disk.Saves.BytesRead} bytes were read");
            Assert.True(adopted > 1000, $"{adopted} positions were found");
            Assert.True(shared > 10, $"{shared} blocks were shared");
        }
        Assert.Equal(0, ledger.Total);
    }

    /// <summary>A disk whose answers lie in a queue until somebody looks.</summary>
    private sealed class Disk : IDisposable
    {
        private readonly System.Collections.Concurrent.ConcurrentQueue<Action> _answers = new();
        private readonly string _folder = Directory.CreateTempSubdirectory("kv").FullName;

        public Disk(TinyPackage tiny, int slots, MemoryLedger ledger)
        {
            long slot = KvFile.SlotBytesFor((int)KvCache.BlockBytes(tiny.Package.Config, KvType.F32)) + 64;
            Saves = new KvDisk(new KvDiskOptions { Folder = _folder, Bytes = 2 * tiny.Package.Config.Layers * slots * slot, Log = Assert.Fail }, ledger, _answers.Enqueue);
        }

        public KvDisk Saves { get; }

        public void Hear()
        {
            if (_answers.TryDequeue(out var answer)) answer();
        }

        public void HearAll(KvCache kv)
        {
            while (kv.IsBusy || !_answers.IsEmpty)
                if (_answers.TryDequeue(out var answer)) answer();
                else Thread.Yield();
        }

        /// <summary>Waits for the answer, or does not and knows nothing.</summary>
        public int Restore(KvCache kv, Guid session, ulong[] chain, Random random)
        {
            int held = -1;
            kv.Restore(session, chain, h => held = h);
            if (held < 0 && random.Next(4) == 0) return 0;
            while (held < 0)
                if (_answers.TryDequeue(out var answer)) answer();
                else Thread.Yield();
            return held;
        }

        public void Dispose()
        {
            Saves.Dispose();
            Directory.Delete(_folder, recursive: true);
        }
    }

    internal static int Restore(KvCache kv, Guid session, ulong[] chain)
    {
        int held = -1;
        kv.Restore(session, chain, h => held = h);
        return held;
    }

    /// <summary>Chunks as the conductor runs them; now and then one dies.</summary>
    private static bool Compute(KvCache kv, Session s, Random random)
    {
        while (s.Computed < s.Tokens.Count)
        {
            int count = Math.Min(random.Next(1, 65), s.Tokens.Count - s.Computed);
            ulong[] chain = s.Chain(s.Computed + count);
            var slot = new Slot { Session = s.Id, Epoch = 1, Step = ++s.Step, Position = s.Computed, Count = count, PrefixHash = chain[s.Computed] };
            switch (kv.Admit(slot, s.Tokens.GetRange(s.Computed, count).ToArray(), out var sequence))
            {
                case Admission.Miss:
                    s.Computed = sequence is { } held && held.HashAt(Math.Min(held.Length, s.Computed)) == chain[Math.Min(held.Length, s.Computed)] ? Math.Min(held.Length, s.Computed) : 0;
                    continue;
                case Admission.Full:
                    return false;
                case Admission.Old:
                    Assert.Fail("a new step is old");
                    break;
            }
            sequence!.Pins++;
            bool dies = random.Next(30) == 0;
            for (int p = s.Computed; p < s.Computed + count; p++) *(ulong*)kv.Key(sequence, 1, p) = dies ? 0 : chain[p + 1];
            if (random.Next(20) == 0) kv.Settle(s.Id);
            kv.Unpin(sequence, dies ? 0 : s.Computed + count);
            if (!dies) s.Computed += count;
        }
        return true;
    }

    private static void Check(KvCache kv, List<Session> sessions, int blocks)
    {
        var refs = new Dictionary<int, int>();
        foreach (var (id, sequence) in kv.Sequences)
        {
            var session = sessions.Single(s => s.Id == id);
            Assert.Equal(0, sequence.Pins);
            Assert.True(sequence.BlockCount * KvCache.BlockPositions >= sequence.Length);
            // Its tokens may have been cut since; what it holds is still its own chain, so every mark is the hash beside it.
            for (int p = 0; p < sequence.Valid; p++) Assert.Equal(sequence.HashAt(p + 1), *(ulong*)kv.Key(sequence, 1, p));
            int agreed = sequence.Agrees(session.Chain(session.Tokens.Count));
            Assert.True(agreed >= Math.Min(session.Computed, sequence.Valid) || session.Start != sequence.Start);
            for (int b = 0; b < sequence.BlockCount; b++)
            {
                refs[sequence.Id(b)] = refs.GetValueOrDefault(sequence.Id(b)) + 1;
                Assert.True(sequence.Block(b) == kv.Table[sequence.Id(b)].Data);
            }
        }
        foreach (var (id, count) in refs)
        {
            Assert.Equal(count, kv.Table[id].Refs);
            Assert.True(count == 1 || kv.Table[id].IsSealed, "a block that is written into is shared");
        }
        int cached = 0;
        for (int id = kv.Table.Oldest; id != KvTable.None; id = kv.Table[id].Unused.Behind, cached++)
        {
            Assert.Equal(0, kv.Table[id].Refs);
            Assert.Equal(id, kv.Table.Find(kv.Table[id].Start, kv.Table[id].End, kv.Table[id].Position));
        }
        Assert.Equal(kv.Table.Cached, cached);
        Assert.Equal((refs.Count + cached) * KvCache.BlockBytes(TinyPackage.Llama(), KvType.F32), kv.UsedBytes);
        if (blocks > 0) Assert.InRange(refs.Count + cached, 0, blocks);
    }
}
