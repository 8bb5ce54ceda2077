namespace FlashOrleans.Engine.Tests;

public sealed class WaveFormatTests
{
    private static Wave Make(params int[] counts)
    {
        var wave = Wave.Rent(counts.Length, 6, 4);
        for (int i = 0; i < counts.Length; i++) wave.Slots[i] = new Slot { Session = Guid.NewGuid(), Count = counts[i] };
        return wave;
    }

    [Fact]
    public void A_wave_whose_slots_have_as_many_tokens_as_it_has_rows_is_taken()
    {
        var wave = Make(1, 2, 3);
        Assert.Equal(6, new Wave(wave.Array, wave.Length).RowCount);
        wave.Return();
    }

    [Theory]
    [InlineData(1, 2, 2)]
    [InlineData(1, 2, 4)]
    [InlineData(0, 3, 3)]
    [InlineData(-1, 3, 4)]
    [InlineData(int.MaxValue, int.MaxValue, 8)]
    public void A_wave_whose_slots_and_rows_disagree_is_refused(int a, int b, int c)
    {
        var wave = Make(a, b, c);
        Assert.Throws<InvalidDataException>(() => new Wave(wave.Array, wave.Length));
        wave.Return();
    }
}
