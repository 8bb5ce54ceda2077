using System.Globalization;
using FlashOrleans.Cli.Options;
using FlashOrleans.Engine;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Cli.Chat;

/// <summary>`/set NAME VALUE`: settings as they were and a line, settings as they shall be. Throws <see cref="UsageException"/> with the line to show.</summary>
internal static class SetCommand
{
    public const string Names = "window, mode, prefetch, kv, temperature, top-k, top-p, min-p, seed, max-tokens, system";

    public static (ChatSettings Chat, LayerOptions Layer) Apply(string name, string value, ChatSettings chat, LayerOptions layer) => name switch
    {
        "window" => (chat, layer with { Window = Units.TryShare(value, out double share) ? share : throw Wrong(name, value, "a share: 25% or 0.25") }),
        "mode" => (chat, layer with { Mode = Word<FeedForwardMode>(name, value) }),
        "kv" => (chat, layer with { Kv = Word<KvType>(name, value) }),
        "prefetch" => (chat, layer with { Prefetch = value == "on" || (value == "off" ? false : throw Wrong(name, value, "on or off")) }),
        "temperature" => (chat with { Sampling = chat.Sampling with { Temperature = Float(name, value, 0, SamplingAdvice.MaxTemperature) } }, layer),
        "top-p" => (chat with { Sampling = chat.Sampling with { TopP = Float(name, value, 0, 1) } }, layer),
        "min-p" => (chat with { Sampling = chat.Sampling with { MinP = Float(name, value, 0, 1) } }, layer),
        "top-k" => (chat with { Sampling = chat.Sampling with { TopK = Int(name, value, 0) } }, layer),
        "max-tokens" => (chat with { MaxTokens = Int(name, value, 1) }, layer),
        "seed" => (chat with { Sampling = chat.Sampling with { Seed = value == "auto" ? null : ulong.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out ulong seed) ? seed : throw Wrong(name, value, "a whole number, or auto") } }, layer),
        "system" => (chat with { System = value.Length > 0 ? value : null }, layer),
        "threads" or "kernels" or "quant" => throw new UsageException($"{name} is fixed while a silo runs: leave with /bye and give --{name}"),
        _ => throw new UsageException($"there is no setting '{name}'; there are {Names}"),
    };

    public static string Show(ChatSettings chat, LayerOptions layer, BudgetOptions? budget = null)
    {
        var s = chat.Sampling;
        string engine = $"{(budget is null ? $"window {Units.Percent(layer.Window)}" : $"budget {budget.Size}")}, mode {Lower(layer.Mode)}, prefetch {(layer.Prefetch ? "on" : "off")}, kv {Lower(layer.Kv)}";
        string sampling = string.Create(CultureInfo.InvariantCulture, $"temperature {s.Temperature}, top-k {s.TopK}, top-p {s.TopP}, min-p {s.MinP}, seed {s.Seed?.ToString(CultureInfo.InvariantCulture) ?? "auto"}, max-tokens {chat.MaxTokens}");
        return chat.System is { } system ? $"{engine}, {sampling}, system \"{system}\"" : $"{engine}, {sampling}";
    }

    private static string Lower<T>(T value) where T : struct, Enum => value.ToString().ToLowerInvariant();

    private static T Word<T>(string name, string value) where T : struct, Enum =>
        Enum.GetNames<T>().Any(n => n.Equals(value, StringComparison.OrdinalIgnoreCase)) ? Enum.Parse<T>(value, ignoreCase: true)
            : throw Wrong(name, value, $"one of {string.Join(", ", Enum.GetValues<T>().Select(Lower))}");

    private static float Float(string name, string value, float least, float most) => Flags.TryFloat(value, least, most, out float number)
        ? number
        : throw Wrong(name, value, string.Create(CultureInfo.InvariantCulture, $"a number from {least} to {most}"));

    private static int Int(string name, string value, int least) =>
        int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int number) && number >= least ? number : throw Wrong(name, value, $"a whole number of at least {least}");

    private static UsageException Wrong(string name, string value, string right) => new($"{name}: '{value}' is not {right}");
}
