namespace FlashOrleans.Engine.Tests;

/// <summary>In what order prompts enter a model.</summary>
public sealed class WaveQueueTests
{
    [Fact]
    public void One_user_s_many_prompts_leave_another_half_of_the_rows()
    {
        var queue = new WaveQueue(fair: true);
        for (int i = 0; i < 20; i++) queue.Enqueue(Of(user: 1, rows: 64));
        for (int i = 0; i < 5; i++) queue.Enqueue(Of(user: 2, rows: 64));
        var order = Take(queue, 10);
        Assert.InRange(order.Count(static u => u == 2), 4, 5);
    }

    [Fact]
    public void Rows_count_not_waves()
    {
        var queue = new WaveQueue(fair: true);
        for (int i = 0; i < 10; i++) queue.Enqueue(Of(user: 1, rows: 60));
        for (int i = 0; i < 30; i++) queue.Enqueue(Of(user: 2, rows: 20));
        var order = Take(queue, 20);
        Assert.InRange(order.Count(static u => u == 1), 4, 6);
    }

    [Fact]
    public void Nobody_saves_up_while_away()
    {
        var queue = new WaveQueue(fair: true);
        for (int i = 0; i < 50; i++) queue.Enqueue(Of(user: 1, rows: 64));
        Take(queue, 30);
        for (int i = 0; i < 20; i++) queue.Enqueue(Of(user: 2, rows: 64));
        Assert.InRange(Take(queue, 10).Count(static u => u == 2), 4, 6);
    }

    [Fact]
    public void Deeper_layers_take_waves_as_they_come()
    {
        var queue = new WaveQueue(fair: false);
        uint[] users = [1, 1, 2, 1, 3, 2];
        foreach (uint user in users) queue.Enqueue(Of(user, rows: 8));
        Assert.Equal(users, Take(queue, users.Length));
        Assert.False(queue.TryDequeue(out _));
    }

    private static Wave Of(uint user, int rows)
    {
        var wave = Wave.Rent(1, rows, 0);
        wave.Slots[0] = new Slot { Session = Guid.NewGuid(), Count = rows, User = user };
        return wave;
    }

    private static uint[] Take(WaveQueue queue, int count)
    {
        uint[] users = new uint[count];
        for (int i = 0; i < count; i++)
        {
            Assert.True(queue.TryDequeue(out var wave));
            users[i] = wave.Slots[0].User;
            wave.Return();
        }
        return users;
    }
}
