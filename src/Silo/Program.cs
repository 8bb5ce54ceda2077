using FlashOrleans.Silo;

// A silo as a program of its own: serves the packages of a models folder on 127.0.0.1 until Ctrl-C or SIGTERM.
// Exit codes: 0, 1 failure, 2 wrong usage.
try
{
    FlashSiloOptions options = SiloArguments.Parse(args);
    SiloBudget.Enter(options, Console.Error.WriteLine);
    await using FlashSilo silo = await FlashSilo.StartAsync(options);
    Console.WriteLine($"ready: silo {silo.SiloEndpoint}, gateway {silo.GatewayEndpoint}, models in {Path.GetFullPath(options.ModelsDirectory)}{(silo.HttpEndpoint is { } http ? $", http://{http}" : "")}");
    await silo.WaitForShutdownAsync();
    return 0;
}
catch (SiloUsageException e)
{
    Console.Error.WriteLine(e.Message);
    return 2;
}
catch (FlashSiloException e)
{
    Console.Error.WriteLine(e.Message);
    return 1;
}
