using System.CommandLine;
using FlashOrleans.Abstractions;
using FlashOrleans.Engine;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Cli.Options;

/// <summary>How tokens are chosen; what is not given comes from the model's generation_config.json.</summary>
internal sealed class SamplingFlags
{
    private readonly Option<float?> _temperature = Flags.Float("--temperature", "0 always takes the best token (default: the model's)", 0, SamplingAdvice.MaxTemperature);
    private readonly Option<int?> _topK = Flags.Int("--top-k", "K", "Of the K best tokens; 0 of all (default: the model's)", 0);
    private readonly Option<float?> _topP = Flags.Float("--top-p", "Of the best tokens that together reach this probability (default: the model's)", 0, 1);
    private readonly Option<float?> _minP = Flags.Float("--min-p", "Of tokens with at least this share of the best one's probability (default: the model's)", 0, 1);
    private readonly Option<ulong?> _seed = Flags.Seed();

    public SamplingFlags(Command command)
    {
        foreach (Option option in new Option[] { _temperature, _topK, _topP, _minP, _seed }) command.Add(option);
    }

    /// <summary>What the package's makers recommend, unless the flags say otherwise.</summary>
    public SamplingOptions Over(FlashPackage package, ParseResult parse)
    {
        Sampling advice = SamplingAdvice.Of(package.SideFile(SamplingAdvice.FileName));
        return Over(new SamplingOptions { Temperature = advice.Temperature, TopK = advice.TopK, TopP = advice.TopP, MinP = advice.MinP }, parse);
    }

    private SamplingOptions Over(SamplingOptions model, ParseResult parse) => new()
    {
        Temperature = parse.GetValue(_temperature) ?? model.Temperature,
        TopK = parse.GetValue(_topK) ?? model.TopK,
        TopP = parse.GetValue(_topP) ?? model.TopP,
        MinP = parse.GetValue(_minP) ?? model.MinP,
        Seed = parse.GetValue(_seed),
    };
}
