using System.Net;
using FlashOrleans.Abstractions;
using FlashOrleans.Client;

// Talks to a silo in another process:
//   dotnet run --project src/Silo -- --models ~/.flash/models
//   dotnet run --project samples/HelloClient -- 30000 emberling "Once upon a time"
int gateway = args.Length > 0 ? int.Parse(args[0]) : 30000;
string model = args.Length > 1 ? args[1] : "emberling";
string prompt = args.Length > 2 ? args[2] : "Once upon a time";
int tokens = args.Length > 3 ? int.Parse(args[3]) : 100;

await using FlashClient client = await FlashClient.ConnectAsync(new() { Gateways = [new IPEndPoint(IPAddress.Loopback, gateway)] });
FlashSession session = client.OpenSession();
Console.Error.WriteLine($"session {session.Id}");
await foreach (TokenChunk chunk in session.SendAsync(new TurnRequest { Model = model, Text = prompt, MaxTokens = tokens }))
{
    Console.Write(chunk.Text);
    if (chunk.Error is { } error) Console.Error.WriteLine(error);
    if (chunk.Usage is { } usage) Console.WriteLine($"\n({usage.GeneratedTokens} tokens in {usage.Total.TotalSeconds:0.0} s, {chunk.Finish})");
}
await session.CloseAsync();
