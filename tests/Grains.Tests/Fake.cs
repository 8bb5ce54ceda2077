using System.Reflection;
using Orleans.Runtime;

namespace FlashOrleans.Grains.Tests;

/// <summary>An interface played by one function.</summary>
public class Fake : DispatchProxy
{
    private Func<MethodInfo, object?[], object?> _play = static (_, _) => null;

    public static T Of<T>(Func<MethodInfo, object?[], object?> play) where T : class
    {
        T fake = Create<T, Fake>();
        ((Fake)(object)fake)._play = play;
        return fake;
    }

    /// <summary>A layer host beside no silo: it finds no layer.</summary>
    internal static LayerHost Host(string models) => new(new LayerHostOptions { ModelsDirectory = models },
        Of<ILocalSiloDetails>(static (_, _) => SiloAddress.Zero), Of<ISiloStatusOracle>(static (_, _) => null), Microsoft.Extensions.Logging.Abstractions.NullLogger<LayerHost>.Instance);

    protected override object? Invoke(MethodInfo? targetMethod, object?[]? args) => _play(targetMethod!, args ?? []);
}
