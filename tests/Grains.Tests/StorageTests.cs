using System.Collections.Concurrent;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;
using Microsoft.Extensions.DependencyInjection;
using Orleans.Runtime;
using Orleans.Storage;

namespace FlashOrleans.Grains.Tests;

/// <summary>Storage that changes behind a session's back.</summary>
public sealed class StorageTests
{
    [Fact]
    public async Task A_record_that_storage_lost_is_written_again_and_the_session_goes_on()
    {
        using var model = new TestModel();
        var storage = new Fickle();
        await using GrainCluster cluster = await StartAsync(model, storage);
        FlashSession session = cluster.Client.OpenSession();
        int[] first = (await session.SendAsync(Turns.Of(model.Prompt(1), 5)).AllAsync()).Tokens();
        await Turns.UntilAsync(() => Task.FromResult(storage.Writes), static n => n == 3, "the end of the turn in storage");
        storage.Lose();
        List<TokenChunk> second = await session.SendAsync(Turns.Of([7], 5)).AllAsync();
        Assert.Equal(model.TokensAlone([.. model.Prompt(1), .. first, 7], 5), second.Tokens());
    }

    [Fact]
    public async Task A_record_that_another_activation_wrote_is_one_clear_line_and_then_goes_on_from_there()
    {
        using var model = new TestModel();
        var storage = new Fickle();
        await using GrainCluster cluster = await StartAsync(model, storage);
        FlashSession session = cluster.Client.OpenSession();
        await session.SendAsync(Turns.Of(model.Prompt(1), 5)).AllAsync();
        await Turns.UntilAsync(() => Task.FromResult(storage.Writes), static n => n == 3, "the end of the turn in storage");
        int[] theirs = [.. model.Prompt(2)];
        storage.Change(state => new SessionState { Epoch = state.Epoch + 100, Package = state.Package, Tokens = theirs });
        var error = await Assert.ThrowsAsync<TurnRejectedException>(() => session.StartAsync(Turns.Of([7], 5)));
        Assert.Contains("continued elsewhere", error.Message, StringComparison.Ordinal);
        List<TokenChunk> chunks = await session.SendAsync(Turns.Of([7], 5)).AllAsync();
        Assert.Equal(model.TokensAlone([.. theirs, 7], 5), chunks.Tokens());
    }

    private static Task<GrainCluster> StartAsync(TestModel model, Fickle storage) => GrainCluster.StartAsync(model.Folder,
        configure: silo => silo.Services.AddKeyedSingleton<IGrainStorage>(GrainsHosting.SessionStorage, storage));

    private sealed class Fickle : IGrainStorage
    {
        private readonly ConcurrentDictionary<GrainId, (SessionState State, string Tag)> _records = new();
        private int _writes;

        public int Writes => Volatile.Read(ref _writes);

        public void Lose() => _records.Clear();

        public void Change(Func<SessionState, SessionState> change)
        {
            foreach ((GrainId id, (SessionState state, string tag)) in _records) _records[id] = (change(state), tag + "!");
        }

        public Task ReadStateAsync<T>(string stateName, GrainId grainId, IGrainState<T> grainState)
        {
            grainState.RecordExists = _records.TryGetValue(grainId, out var record);
            grainState.ETag = record.Tag;
            grainState.State = (T)(object)Copy(record.State ?? new SessionState());
            return Task.CompletedTask;
        }

        public Task WriteStateAsync<T>(string stateName, GrainId grainId, IGrainState<T> grainState)
        {
            string? tag = _records.TryGetValue(grainId, out var record) ? record.Tag : null;
            if (tag != grainState.ETag) throw new InconsistentStateException("not what was read", tag ?? "", grainState.ETag);
            grainState.ETag = $"{Interlocked.Increment(ref _writes)}";
            grainState.RecordExists = true;
            _records[grainId] = (Copy((SessionState)(object)grainState.State!), grainState.ETag);
            return Task.CompletedTask;
        }

        public Task ClearStateAsync<T>(string stateName, GrainId grainId, IGrainState<T> grainState)
        {
            _records.TryRemove(grainId, out _);
            grainState.ETag = null;
            grainState.RecordExists = false;
            return Task.CompletedTask;
        }

        private static SessionState Copy(SessionState s) => new() { Epoch = s.Epoch, Package = s.Package, Tokens = s.Tokens, Turn = s.Turn };
    }
}
