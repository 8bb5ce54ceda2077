using FlashOrleans.Abstractions;
using FlashOrleans.Cli.Chat;
using FlashOrleans.Engine;

namespace FlashOrleans.Cli.Tests;

public sealed class SettingsTests
{
    private static readonly ChatSettings s_chat = new() { Sampling = new SamplingOptions { Temperature = 0.7f, TopP = 0.9f }, MaxTokens = 512 };
    private static readonly LayerOptions s_layer = new();

    [Fact]
    public void A_setting_changes_itself_alone()
    {
        Assert.Equal((s_chat, s_layer with { Window = 0.1 }), SetCommand.Apply("window", "10%", s_chat, s_layer));
        Assert.Equal((s_chat, s_layer with { Mode = FeedForwardMode.Dense }), SetCommand.Apply("mode", "dense", s_chat, s_layer));
        Assert.Equal((s_chat, s_layer with { Prefetch = false }), SetCommand.Apply("prefetch", "off", s_chat, s_layer));
        Assert.Equal((s_chat, s_layer with { Kv = KvType.F16 }), SetCommand.Apply("kv", "f16", s_chat, s_layer));
        Assert.Equal((s_chat with { Sampling = s_chat.Sampling with { Temperature = 1.5f } }, s_layer), SetCommand.Apply("temperature", "1.5", s_chat, s_layer));
        Assert.Equal((s_chat with { Sampling = s_chat.Sampling with { Seed = 7 } }, s_layer), SetCommand.Apply("seed", "7", s_chat, s_layer));
        Assert.Equal((s_chat with { System = "Be brief." }, s_layer), SetCommand.Apply("system", "Be brief.", s_chat, s_layer));
    }

    [Theory]
    [InlineData("window", "30")]
    [InlineData("window", "0%")]
    [InlineData("mode", "2")]
    [InlineData("prefetch", "yes")]
    [InlineData("temperature", "-1")]
    [InlineData("temperature", "NaN")]
    [InlineData("top-p", "2")]
    [InlineData("top-k", "-1")]
    [InlineData("max-tokens", "0")]
    [InlineData("seed", "x")]
    [InlineData("threads", "4")]
    [InlineData("colour", "red")]
    public void What_makes_no_sense_is_refused(string name, string value) =>
        Assert.Throws<UsageException>(() => SetCommand.Apply(name, value, s_chat, s_layer));

    [Theory]
    [InlineData("25%", 0.25)]
    [InlineData("12.5 %", 0.125)]
    [InlineData("0.25", 0.25)]
    [InlineData("1", 1)]
    public void Shares_are_percent_or_fractions(string text, double share)
    {
        Assert.True(Units.TryShare(text, out double parsed));
        Assert.Equal(share, parsed, 1e-12);
    }
}
