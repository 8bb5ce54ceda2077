using System.CommandLine;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash tokenize NAME`: text to ids and back. Starts no silo.</summary>
internal static class TokenizeVerb
{
    public static Command Create(App app)
    {
        var text = Flags.Text("--text", "S", "Text to encode");
        var decode = Flags.Ints("--decode", "Token ids to decode");
        var special = new Option<bool>("--special") { Description = "Names of special tokens in the text become those tokens; decoding prints them" };
        var json = Flags.Json();
        var verb = new Verb("tokenize", "Turn text into token ids, or ids into text", "",
            "flash tokenize emberling --text \"Once upon a time\"", "flash tokenize emberling --text \"<|im_start|>user\" --special --json", "flash tokenize emberling --decode 642,261 --json")
        { text, decode, special, json };
        var model = new ModelFlags(verb);
        verb.SetAction(parse =>
        {
            string? encode = parse.GetValue(text);
            int[] ids = parse.GetValue(decode) ?? [];
            if (encode is not null == ids.Length > 0) throw new UsageException("give either --text S or --decode 1,2,3");
            using var package = model.Open(app, parse);
            var codec = Codec(package);
            bool names = parse.GetValue(special);
            if (encode is not null)
            {
                int[] encoded = codec.Encode(encode, parseSpecial: names);
                if (parse.GetValue(json)) app.Screen.Json(new { ids = encoded });
                else app.Screen.Out.WriteLine(string.Join(' ', encoded));
                return;
            }
            Tokens.Demand(ids, package.Config);
            string decoded = codec.Decode(ids, skipSpecial: !names);
            if (parse.GetValue(json)) app.Screen.Json(new { text = decoded });
            else app.Screen.Out.WriteLine(decoded);
        });
        return verb;
    }

    public static TextCodec Codec(FlashPackage package) => TextCodec.FromFiles(package.SideFile)
        ?? throw new CliException($"{package.Name} has no tokenizer.json: it takes token ids only (flash logits {package.Name} --tokens 1,2,3)");
}

internal static class Tokens
{
    /// <summary>Ids of this model, and room for what is asked.</summary>
    public static void Demand(int[] ids, ModelConfig config, int generate = 0)
    {
        foreach (int id in ids)
            if (id >= config.VocabSize) throw new UsageException($"token {id} is outside the vocabulary of {config.VocabSize}");
        if (ids.Length + generate > config.MaxPositions)
            throw new UsageException($"{ids.Length} tokens and {generate} to generate are more than the model's {config.MaxPositions} positions");
    }
}
