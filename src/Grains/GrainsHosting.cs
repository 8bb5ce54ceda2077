using Microsoft.Extensions.DependencyInjection;
using Orleans.Hosting;
using Orleans.Runtime;
using Orleans.Runtime.MembershipService.SiloMetadata;
using Orleans.Serialization;
using Orleans.Storage;

namespace FlashOrleans.Grains;

/// <summary>Everything a silo needs to run models.</summary>
public static class GrainsHosting
{
    /// <summary>Name of the storage that keeps sessions.</summary>
    public const string SessionStorage = "sessions";

    /// <summary>Adds the layer host, the placement of layers, and session storage in memory.</summary>
    public static ISiloBuilder AddFlashOrleans(this ISiloBuilder silo, LayerHostOptions options)
    {
        ArgumentNullException.ThrowIfNull(silo);
        ArgumentNullException.ThrowIfNull(options);
        silo.Services.AddSingleton(options);
        silo.Services.AddSingleton<LayerHost>();
        silo.Services.AddSingleton<ILifecycleParticipant<ISiloLifecycle>>(static services => services.GetRequiredService<LayerHost>());
        silo.AddPlacementDirector<LayerPlacement, LayerPlacementDirector>();
        silo.UseSiloMetadata(new Dictionary<string, string> { [LayerPlacementDirector.MetadataKey] = options.Layers ?? "" });
        // The records are wire types, so they are kept in the wire's own format.
        silo.AddMemoryGrainStorage(SessionStorage, static storage => storage.Configure<Serializer>(
            static (o, serializer) => o.GrainStorageSerializer = new OrleansGrainStorageSerializer(serializer)));
        return silo;
    }
}
