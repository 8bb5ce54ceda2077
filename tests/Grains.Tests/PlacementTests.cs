using System.Net;
using Orleans.Runtime;

namespace FlashOrleans.Grains.Tests;

public sealed class PlacementTests
{
    private static readonly SiloAddress[] s_silos = [.. Enumerable.Range(1, 4).Select(i => SiloAddress.New(IPAddress.Loopback, 11000 + i, i))];

    private static SiloAddress Choose(string key, params (SiloAddress Silo, string? Layers)[] silos) =>
        LayerPlacementDirector.Choose(key, [.. silos.Select(s => s.Silo)], silo => silos.Single(s => s.Silo.Equals(silo)).Layers is { } l ? LayerRanges.Parse(l) : null);

    [Fact]
    public void A_layer_goes_to_the_silo_that_names_it()
    {
        for (int layer = 0; layer < 8; layer++)
        {
            SiloAddress chosen = Choose($"abc/{layer}", (s_silos[0], "0-3"), (s_silos[1], "4,5,6-7"), (s_silos[2], null));
            Assert.Equal(layer < 4 ? s_silos[0] : s_silos[1], chosen);
        }
    }

    [Fact]
    public void A_silo_whose_metadata_is_unknown_is_better_than_one_that_names_other_layers() =>
        Assert.Equal(s_silos[1], Choose("abc/5", (s_silos[0], "0-3"), (s_silos[1], null)));

    [Fact]
    public void When_the_named_silo_is_gone_another_takes_the_layer() =>
        Assert.Equal(s_silos[0], Choose("abc/5", (s_silos[0], "0-3")));

    [Fact]
    public void Without_metadata_all_layers_of_a_package_share_a_silo_whatever_the_order_of_silos()
    {
        (SiloAddress, string?)[] silos = [.. s_silos.Select(s => (s, (string?)null))];
        SiloAddress first = Choose("abc/0", silos);
        for (int layer = 1; layer < 32; layer++) Assert.Equal(first, Choose($"abc/{layer}", [.. silos.Reverse()]));
        // Packages spread.
        Assert.True(Enumerable.Range(0, 64).Select(p => Choose($"package{p}/0", silos)).Distinct().Count() > 1);
    }

    [Fact]
    public void A_package_stays_where_it_is_when_another_silo_leaves()
    {
        (SiloAddress Silo, string?)[] silos = [.. s_silos.Select(s => (s, (string?)null))];
        for (int p = 0; p < 32; p++)
        {
            SiloAddress before = Choose($"package{p}/0", silos);
            foreach (SiloAddress left in s_silos.Where(s => !s.Equals(before)))
                Assert.Equal(before, Choose($"package{p}/0", [.. silos.Where(s => !s.Silo.Equals(left))]));
        }
    }

    [Theory]
    [InlineData("")]
    [InlineData("3-1")]
    [InlineData("a")]
    [InlineData("1-")]
    [InlineData("-1")]
    public void What_is_not_a_list_of_layers_is_an_error(string text) => Assert.Throws<FormatException>(() => LayerRanges.Parse(text));

    [Theory]
    [InlineData("abc", false)]
    [InlineData("abc/", false)]
    [InlineData("/3", false)]
    [InlineData("abc/-1", false)]
    [InlineData("abc/12", true)]
    public void A_layer_key_is_a_hash_and_a_number(string key, bool valid)
    {
        Assert.Equal(valid, LayerKey.TryParse(key, out LayerKey parsed));
        if (valid) Assert.Equal(key, parsed.ToString());
    }
}
