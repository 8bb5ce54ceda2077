using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using FlashOrleans.Cli.Options;
using FlashOrleans.Flash;
using FlashOrleans.Models.Templates;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash template NAME`: the prompt that a conversation becomes, exact to the character. Starts no silo and needs no tokenizer.</summary>
internal static class TemplateVerb
{
    public static Command Create(App app)
    {
        var name = Flags.Name("Model name, a package, a folder with tokenizer_config.json or chat_template.jinja, or a .jinja file");
        var messages = new Option<string>("--messages") { HelpName = "FILE", Description = "JSON: a list of messages, or an object with messages, tools and further variables", Required = true };
        var tools = Flags.Text("--tools", "FILE", "JSON: a list of tools");
        var bare = new Option<bool>("--no-generation-prompt") { Description = "Do not open an answer" };
        var bos = Flags.Text("--bos", "S", "The bos_token of the template (default: the model's)");
        var eos = Flags.Text("--eos", "S", "The eos_token of the template (default: the model's)");
        var now = new Option<DateTimeOffset?>("--now")
        {
            HelpName = "DATE",
            Description = "What the template takes for now: 2026-01-31 or 2026-01-31T08:30:00",
            CustomParser = static result =>
            {
                if (DateTimeOffset.TryParse(result.Tokens[0].Value, CultureInfo.InvariantCulture, DateTimeStyles.AssumeLocal, out var time)) return time;
                result.AddError($"--now: '{result.Tokens[0].Value}' is not a date like 2026-01-31");
                return null;
            },
        };
        var verb = new Verb("template", "Print the prompt that a conversation becomes", "",
            "flash template emberling --messages chat.json", "flash template ./llama3.jinja --messages chat.json --tools tools.json --bos \"<|begin_of_text|>\" --eos \"<|eot_id|>\" --now 2026-01-31")
        { name, messages, tools, bare, bos, eos, now };
        verb.SetAction(parse =>
        {
            var input = Read(parse.GetRequiredValue(messages), parse.GetValue(tools)) with { Now = parse.GetValue(now) };
            if (parse.GetValue(bare)) input = input with { AddGenerationPrompt = false };
            var over = new Dictionary<string, string>(StringComparer.Ordinal);
            if (parse.GetValue(bos) is { } begin) over["bos_token"] = begin;
            if (parse.GetValue(eos) is { } end) over["eos_token"] = end;
            string prompt = Render(app, parse.GetRequiredValue(name), input, over);
            app.Screen.Out.Write(prompt);
            if (app.Screen.OutIsTerminal && !prompt.EndsWith('\n')) app.Screen.Out.WriteLine();
        });
        return verb;
    }

    private static string Render(App app, string name, TemplateInput input, Dictionary<string, string> over)
    {
        try
        {
            if (TemplateFile.FromGguf(name) is { } gguf) return Render(name, gguf, input, over);
            if (File.Exists(name)) return JinjaTemplate.Parse(File.ReadAllText(name)).Render(input, over);
            bool folder = Directory.Exists(name) && !File.Exists(Path.Combine(name, PackageLayout.ManifestPath));
            if (folder) return FromFiles(name, file => Path.Combine(name, file) is var path && File.Exists(path) ? File.ReadAllBytes(path) : null, input, over);
            using var package = app.Library.Open(name, quant: null, app.Interrupts.Stop);
            return FromFiles(name, package.SideFile, input, over);
        }
        catch (TemplateException e)
        {
            throw new CliException($"{name}: {e.Message}");
        }
    }

    private static string FromFiles(string name, Func<string, byte[]?> file, TemplateInput input, Dictionary<string, string> over) =>
        Render(name, TemplateFile.FromFiles(file), input, over);

    private static string Render(string name, TemplateFile template, TemplateInput input, Dictionary<string, string> over)
    {
        return template.Default is null
            ? throw new CliException($"{name} has no chat template (no {TemplateFile.JinjaName}, none in {TemplateFile.ConfigName})")
            : template.Render(input, over);
    }

    private static TemplateInput Read(string messages, string? tools)
    {
        var root = Json(messages);
        var input = root.ValueKind switch
        {
            JsonValueKind.Array => new TemplateInput { Messages = root },
            JsonValueKind.Object when root.TryGetProperty("messages", out var list) && list.ValueKind == JsonValueKind.Array => FromObject(root, list),
            _ => throw new CliException($"{messages}: neither a list of messages nor an object with one as \"messages\""),
        };
        return tools is null ? input : input with { Tools = Json(tools) is { ValueKind: JsonValueKind.Array } given ? given : throw new CliException($"{tools}: not a list of tools") };
    }

    private static TemplateInput FromObject(JsonElement root, JsonElement messages)
    {
        JsonElement? Get(string name) => root.TryGetProperty(name, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;
        // What has no meaning of its own is a variable for the template; those under "extra" come last.
        var variables = new Dictionary<string, JsonElement>(StringComparer.Ordinal);
        foreach (var property in root.EnumerateObject())
            if (property.Name is not ("messages" or "tools" or "documents" or "add_generation_prompt" or "extra")) variables[property.Name] = property.Value;
        if (Get("extra") is { ValueKind: JsonValueKind.Object } extra)
            foreach (var property in extra.EnumerateObject()) variables[property.Name] = property.Value;
        return new TemplateInput
        {
            Messages = messages,
            Tools = Get("tools"),
            Documents = Get("documents"),
            AddGenerationPrompt = Get("add_generation_prompt") is not { ValueKind: JsonValueKind.False },
            Extra = JsonSerializer.SerializeToElement(variables),
        };
    }

    private static JsonElement Json(string path)
    {
        try
        {
            using var document = JsonDocument.Parse(File.ReadAllBytes(path));
            return document.RootElement.Clone();
        }
        catch (JsonException e)
        {
            throw new CliException($"{path}: not valid JSON at line {e.LineNumber + 1}");
        }
    }
}
