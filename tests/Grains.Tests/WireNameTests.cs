using System.Reflection;
using FlashOrleans.Abstractions;
using Orleans.Runtime;

namespace FlashOrleans.Grains.Tests;

/// <summary>Names on the wire and in storage are chosen, not taken from the code: renaming a class loses no session.</summary>
public sealed class WireNameTests
{
    private static readonly Type[] s_types = [.. typeof(ISessionGrain).Assembly.GetTypes().Concat(typeof(LayerHost).Assembly.GetTypes()).Where(static t => t.Namespace?.StartsWith("FlashOrleans.", StringComparison.Ordinal) == true)];

    [Fact]
    public void Every_type_that_travels_and_every_grain_interface_has_an_alias()
    {
        Type[] wire = [.. s_types.Where(static t => t.GetCustomAttribute<GenerateSerializerAttribute>() is not null || (t.IsInterface && typeof(IAddressable).IsAssignableFrom(t))), typeof(WaveMessage), typeof(PrefetchHint)];
        Assert.True(wire.Length > 20);
        Assert.All(wire, static t => Assert.StartsWith("flashorleans.", t.GetCustomAttribute<AliasAttribute>()?.Alias ?? t.Name, StringComparison.Ordinal));
    }

    [Fact]
    public void Every_grain_class_has_the_type_name_that_its_stored_state_is_kept_under()
    {
        var grains = s_types.Where(static t => typeof(Grain).IsAssignableFrom(t) && !t.IsAbstract)
            .ToDictionary(static t => t.Name, static t => t.GetCustomAttribute<GrainTypeAttribute>()?.GetGrainType(null!, t).ToString());
        Assert.Equal(new Dictionary<string, string?> { ["LayerGrain"] = "layer", ["PrefetchGrain"] = "prefetch", ["ModelGrain"] = "model", ["SessionGrain"] = "session" }, grains);
    }
}
