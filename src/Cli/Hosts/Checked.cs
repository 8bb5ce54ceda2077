using System.Runtime.CompilerServices;
using FlashOrleans.Abstractions;

namespace FlashOrleans.Cli.Hosts;

/// <summary>A turn whose failure is an exception: for tools that have no use for half an answer.</summary>
internal static class Checked
{
    public static async IAsyncEnumerable<TokenChunk> SendAsync(IModelSession session, TurnRequest turn, [EnumeratorCancellation] CancellationToken cancel)
    {
        await foreach (var chunk in session.SendAsync(turn, cancel).WithCancellation(cancel))
        {
            yield return chunk;
            switch (chunk.Finish)
            {
                case FinishReason.Failed:
                    throw new CliException(chunk.Error ?? "the turn failed");
                case FinishReason.Cancelled or FinishReason.Abandoned:
                    throw new OperationCanceledException();
            }
        }
        cancel.ThrowIfCancellationRequested();
    }
}
