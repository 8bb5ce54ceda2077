using Microsoft.Extensions.DependencyInjection;
using Orleans.Hosting;
using Orleans.Runtime;
using Orleans.Runtime.MembershipService.SiloMetadata;
using Orleans.Serialization;

namespace FlashOrleans.Grains;

/// <summary>Everything a silo needs to run models.</summary>
public static class GrainsHosting
{
    /// <summary>Adds the layer host, the placement of layers, and what keeps sessions.</summary>
    public static ISiloBuilder AddFlashOrleans(this ISiloBuilder silo, LayerHostOptions options)
    {
        ArgumentNullException.ThrowIfNull(silo);
        ArgumentNullException.ThrowIfNull(options);
        silo.Services.AddSingleton(options);
        silo.Services.AddSingleton<LayerHost>();
        silo.Services.AddSingleton<ILifecycleParticipant<ISiloLifecycle>>(static services => services.GetRequiredService<LayerHost>());
        silo.Services.AddSingleton<SessionStore>();
        silo.Services.AddSingleton<ILifecycleParticipant<ISiloLifecycle>>(static services => services.GetRequiredService<SessionStore>());
        silo.Services.AddSingleton(static services => new SessionLook(services.GetRequiredService<LayerHost>(), services.GetRequiredService<SessionStore>(), services.GetRequiredService<Serializer<TurnRecord>>()));
        silo.Services.AddSingleton<SessionSweeper>();
        silo.Services.AddSingleton<ILifecycleParticipant<ISiloLifecycle>>(static services => services.GetRequiredService<SessionSweeper>());
        silo.AddPlacementDirector<LayerPlacement, LayerPlacementDirector>();
        silo.UseSiloMetadata(new Dictionary<string, string> { [LayerPlacementDirector.MetadataKey] = options.Layers ?? "" });
        return silo;
    }
}
