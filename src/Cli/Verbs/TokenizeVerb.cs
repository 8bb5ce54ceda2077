using System.CommandLine;
using System.Text.Json;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash tokenize NAME`: text to ids and back, one from the command line or many from a file. Starts no silo.</summary>
internal static class TokenizeVerb
{
    public static Command Create(App app)
    {
        var text = Flags.Text("--text", "S", "Text to encode");
        var decode = Flags.Ints("--decode", "Token ids to decode");
        var input = Flags.Text("--input", "FILE", "One {\"text\":S} to encode or {\"ids\":[1,2]} to decode a line, each with \"special\":true|false if wanted; one JSON line out for each");
        var special = new Option<bool>("--special") { Description = "Names of special tokens in the text become those tokens; decoding prints them" };
        var json = Flags.Json();
        var verb = new Verb("tokenize", "Turn text into token ids, or ids into text", "",
            "flash tokenize emberling --text \"Once upon a time\"", "flash tokenize emberling --text \"<|im_start|>user\" --special --json", "flash tokenize emberling --decode 642,261 --json",
            "flash tokenize ./checkpoint --input texts.jsonl --json")
        { text, decode, input, special, json };
        var model = new ModelFlags(verb, "Model name, or path to a package (a NAME.flash folder) or to a folder with a tokenizer.json");
        verb.SetAction(parse =>
        {
            string? encode = parse.GetValue(text), file = parse.GetValue(input);
            int[] ids = parse.GetValue(decode) ?? [];
            if ((encode is null ? 0 : 1) + (ids.Length > 0 ? 1 : 0) + (file is null ? 0 : 1) != 1) throw new UsageException("give one of --text S, --decode 1,2,3 and --input FILE");
            if (file is not null && !parse.GetValue(json)) throw new UsageException("--input answers in JSON: add --json");
            var source = TextSource.Open(app, parse, model);
            bool names = parse.GetValue(special);
            if (file is not null)
            {
                Lines(app.Screen, source, file, names);
                return;
            }
            if (encode is not null)
            {
                int[] encoded = source.Codec.Encode(encode, parseSpecial: names);
                if (parse.GetValue(json)) app.Screen.Json(new { ids = encoded });
                else app.Screen.Out.WriteLine(string.Join(' ', encoded));
                return;
            }
            Tokens.Demand(ids, source.VocabSize);
            string decoded = source.Codec.Decode(ids, skipSpecial: !names);
            if (parse.GetValue(json)) app.Screen.Json(new { text = decoded });
            else app.Screen.Out.WriteLine(decoded);
        });
        return verb;
    }

    private static void Lines(Screen screen, TextSource source, string file, bool names)
    {
        int number = 0;
        foreach (string line in File.ReadLines(file))
        {
            number++;
            if (string.IsNullOrWhiteSpace(line)) continue;
            try
            {
                using var document = JsonDocument.Parse(line);
                var root = document.RootElement;
                if (root.ValueKind != JsonValueKind.Object) throw Wrong("is not a JSON object");
                bool special = !root.TryGetProperty("special", out var flag) ? names
                    : flag.ValueKind is JsonValueKind.True or JsonValueKind.False ? flag.GetBoolean() : throw Wrong("has a \"special\" that is not true or false");
                bool hasText = root.TryGetProperty("text", out var text), hasIds = root.TryGetProperty("ids", out var ids);
                if (hasText && !hasIds && text.ValueKind == JsonValueKind.String) screen.Json(new { ids = source.Codec.Encode(text.GetString()!, parseSpecial: special) });
                else if (hasIds && !hasText && ids.ValueKind == JsonValueKind.Array) screen.Json(new { text = source.Codec.Decode(Ids(ids), skipSpecial: !special) });
                else throw Wrong("has neither a \"text\" string nor an \"ids\" array, or both");
            }
            catch (JsonException)
            {
                throw Wrong("is not valid JSON");
            }
            catch (InvalidOperationException)
            {
                // What JsonElement throws for a string that is no valid Unicode.
                throw Wrong("holds text that is not valid Unicode");
            }
        }

        int[] Ids(JsonElement array)
        {
            int[] ids = new int[array.GetArrayLength()];
            for (int i = 0; i < ids.Length; i++)
            {
                if (array[i].ValueKind != JsonValueKind.Number || !array[i].TryGetInt32(out ids[i]) || (uint)ids[i] >= (uint)source.VocabSize)
                    throw Wrong($"has an id outside the vocabulary of {source.VocabSize}");
            }
            return ids;
        }

        CliException Wrong(string what) => new($"{file}: line {number} {what}; expected {{\"text\":\"…\"}} or {{\"ids\":[1,2]}}");
    }
}

internal static class Tokens
{
    public static void Demand(int[] ids, int vocabSize)
    {
        foreach (int id in ids)
            if (id >= vocabSize) throw new UsageException($"token {id} is outside the vocabulary of {vocabSize}");
    }

    /// <summary>Ids of this model, and room for what is asked.</summary>
    public static void Demand(int[] ids, ModelConfig config, int generate = 0)
    {
        Demand(ids, config.VocabSize);
        if (ids.Length + generate > config.MaxPositions)
            throw new UsageException($"{ids.Length} tokens and {generate} to generate are more than the model's {config.MaxPositions} positions");
    }
}
