using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using FlashOrleans.Flash;
using FlashOrleans.Models;
using FlashOrleans.Models.Gguf;
using FlashOrleans.Models.Pickle;
using FlashOrleans.Models.Templates;
using FlashOrleans.Models.Tests.Pickle;
using FlashOrleans.Models.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Fuzz.Bench;

/// <summary>
/// A format that is read from strangers: its name, the exception that refuses a file, and how a case is made: <c>Prepare(random, folder)</c> damages good files of the repository
/// into the folder, which is the calling thread's own, and returns what reads them as the product does. Only that is measured.
/// </summary>
internal sealed record Format(string Name, Type Refusal, Func<Random, string, Action> Prepare)
{
    public static Format[] All { get; } =
    [
        new("safetensors", typeof(ModelFormatException), Safetensors),
        new("gguf", typeof(ModelFormatException), Gguf),
        new("tokenizer", typeof(ModelFormatException), Tokenizer),
        new("config", typeof(ModelFormatException), Config),
        new("template", typeof(TemplateException), Template),
        new("pickle", typeof(ModelFormatException), Pickle),
        new("package", typeof(FlashException), PackageCase.Prepare),
    ];

    private static readonly Lazy<(byte[] Weights, byte[] Config)> s_checkpoint = new(static () => (Data("bad", "ok-checkpoint", "model.safetensors"), Data("bad", "ok-checkpoint", "config.json")));

    private static readonly Lazy<(byte[] Bytes, int Front)[]> s_ggufs = new(static () => [.. new[] { "bad/gguf-ok.gguf", "llama-Q4_0.gguf", "llama-relu-Q8_0.gguf", "qwen2-Q8_0.gguf" }.Select(static name =>
    {
        string path = Repository("gguf", name);
        using GgufFile file = GgufFile.Open(path);
        // The data begin where the first tensor is; what is before is the front.
        return (File.ReadAllBytes(path), (int)file.Tensors.Values.Min(static t => t.Offset));
    })]);

    private static readonly Lazy<(byte[] Tokenizer, byte[] Config)[]> s_tokenizers = new(static () =>
        [.. Directory.EnumerateDirectories(Repository("tokenizers")).Where(static f => File.Exists(Path.Combine(f, "tokenizer.json"))).Order(StringComparer.Ordinal)
            .Select(static f => (TokenizerMutations.Shorten(f), Path.Combine(f, "tokenizer_config.json") is var side && File.Exists(side) ? File.ReadAllBytes(side) : "{\"eos_token\":\"</s>\"}"u8.ToArray()))]);

    private static readonly Lazy<byte[][]> s_configs = new(static () =>
        [.. Directory.EnumerateFiles(Repository("golden", "models"), "config*.json", SearchOption.AllDirectories).Order(StringComparer.Ordinal).Select(File.ReadAllBytes)]);

    private static readonly string[] s_configWords =
    [
        "llama", "mistral", "qwen2", "qwen3_moe", "gemma2", "gemma3_text", "gpt2", "gpt_oss", "opt", "falcon", "mixtral", "phi3", "cohere", "relu", "relu2", "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "fatrelu",
        "default", "linear", "dynamic", "yarn", "longrope", "llama3", "sliding_attention", "full_attention", "bfloat16",
    ];

    private static readonly Lazy<(string Template, JsonElement Golden, JsonElement[] Cases)[]> s_templates = new(static () =>
        [.. Directory.EnumerateFiles(Repository("chat"), "*.json").Order(StringComparer.Ordinal).Select(static file => JsonDocument.Parse(File.ReadAllBytes(file)).RootElement)
            .Select(static g => (g.GetProperty("template").GetString()!, g, g.GetProperty("cases").EnumerateArray().ToArray()))]);

    private static readonly string[] s_pieces =
    [
        "{{", "}}", "{%", "%}", "{#", "#}", "-%}", "{%-", "(", ")", "[", "]", "{", "}", "'", "\"", "\\", "|", ".", ",", ":", "~", "**", "*", "%", "//", "-", "::-1", " in ", " is ", " not ", " if ", " else ", "999999999", "0", "none",
        "loop", "messages", "caller()", "range(99999)", "*99999", "|tojson", "|length", "|list", "|string", "|map('tojson')", "|sort", "|join", ".items()", ".split()", ".replace('', messages|string)", "|tojson(indent=99)",
        "{% for x in messages %}", "{% endfor %}", "{% if x %}", "{% endif %}", "{% set ns.x = ns %}", "{% set ns.x = ns.x + ns.x %}", "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}", "{{ m(1) }}", "{% break %}",
        "{% generation %}", "{{ '%999999s' % messages }}", "{{ '{:>99999}'.format(messages) }}", "{{ messages|string * 999 }}", "\n", "\uD800", "é", "\0",
    ];

    private static readonly Lazy<byte[][]> s_pickles = new(static () =>
    [
        TorchArchive.Predictor(4, 8, 16, static i => i, static i => -i),
        TorchArchive.Build(TorchArchive.StateDict(Pickled.Contiguous("fc1.weight", "FloatStorage", "0", 2, 8), Pickled.Contiguous("fc2.weight", "BFloat16Storage", "1", 3, 2)), [("0", new byte[64]), ("1", new byte[12])]),
        TorchArchive.Build(TorchArchive.Dict(new Pickled("fc1.weight", "HalfStorage", "0", 40, 0, [4, 6], [6, 1]), new Pickled("fc2.weight", "HalfStorage", "0", 40, 24, [4, 4], [4, 1])), [("0", TorchArchive.Halves(40, static i => i))]),
    ]);

    /// <summary>Opcodes that a pickle of tensors has, and those of which there must be none.</summary>
    private static readonly byte[] s_opcodes = [.. ".(}]){NQRbcstuqrhjKMJXGIilo\u0080\u0081\u0082\u0085\u0086\u0087\u0088\u0089\u008a\u008c\u0093\u0094\u0095".Select(static c => (byte)c)];

    /// <summary>Header as JSON, its length made to fit, or bytes of all of the file; then as the weights of a checkpoint.</summary>
    private static Action Safetensors(Random random, string folder)
    {
        (byte[] good, byte[] config) = s_checkpoint.Value;
        int header = 8 + (int)BinaryPrimitives.ReadInt64LittleEndian(good);
        byte[] bytes;
        if (random.Next(2) == 0)
        {
            byte[] json = JsonMutations.Make(good[8..header], good[8..header], ["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "__metadata__", "shape", "model.norm.weight"], random);
            bytes = [.. BitConverter.GetBytes((long)json.Length), .. json, .. good[header..]];
        }
        else
        {
            bytes = Mutations.Bytes(good, 0, random.Next(4) == 0 ? good.Length : header, random, "{}[]\",:0123456789-e\\F"u8);
        }
        string path = Write(folder, "model.safetensors", bytes);
        Write(folder, "config.json", config);
        return () =>
        {
            using (SafetensorsFile file = SafetensorsFile.Open(path))
            {
                foreach (TensorInfo tensor in file.Tensors.Values)
                {
                    if (!SafetensorsFile.IsFloat(tensor.Type) || tensor.Elements == 0) continue;
                    int cols = (int)(tensor.Shape.Count == 0 ? 1 : tensor.Shape[^1]);
                    file.ReadRows(tensor, 0, 1, new float[cols]);
                    file.ReadRows(tensor, tensor.Elements / cols - 1, 1, new float[cols]);
                }
            }
            ReadAll(folder);
        };
    }

    private static Action Gguf(Random random, string folder)
    {
        (byte[] good, int front) = Of(s_ggufs.Value, random);
        string path = Write(folder, "model.gguf", Mutations.Bytes(good, 0, random.Next(8) == 0 ? good.Length : front, random));
        return () =>
        {
            ModelFormatException? refusal = null;
            try
            {
                ReadAll(path);
            }
            catch (ModelFormatException e)
            {
                refusal = e;
            }
            if (TextCodec.FromGguf(path) is { } codec) Use(codec);
            if (refusal != null) throw refusal;
        };
    }

    private static Action Tokenizer(Random random, string folder)
    {
        (byte[] tokenizer, byte[] config) = Of(s_tokenizers.Value, random);
        (byte[] donor, byte[] donorConfig) = Of(s_tokenizers.Value, random);
        if (random.Next(8) == 0) config = JsonMutations.Make(config, donorConfig, ["</s>", "<s>", "eos_token", "chat_template", "{{ messages }}"], random);
        else tokenizer = JsonMutations.Make(tokenizer, donor, TokenizerMutations.Words, random);
        Write(folder, "tokenizer.json", tokenizer);
        Write(folder, "tokenizer_config.json", config);
        return () => Use(TextCodec.FromFolder(folder)!);
    }

    /// <summary>By itself, and then over weights that may lack everything it promises.</summary>
    private static Action Config(Random random, string folder)
    {
        Write(folder, "model.safetensors", s_checkpoint.Value.Weights);
        Write(folder, "config.json", JsonMutations.Make(random.Next(20) == 0 ? s_checkpoint.Value.Config : Of(s_configs.Value, random), Of(s_configs.Value, random), s_configWords, random));
        return () =>
        {
            ConfigReader.Read(folder);
            try
            {
                ReadAll(folder);
            }
            catch (ModelFormatException e) when (!e.Message.AsSpan().ContainsAny('\n', '\r'))
            {
                // The weights are not those of the configuration.
            }
        };
    }

    private static Action Template(Random random, string folder)
    {
        (string good, JsonElement golden, JsonElement[] cases) = Of(s_templates.Value, random);
        JsonElement c = Of(cases, random);
        string template = Mutations.Text(good, Of(s_templates.Value, random).Template, s_pieces, random);
        var input = new TemplateInput
        {
            Messages = c.GetProperty("messages"),
            Tools = c.TryGetProperty("tools", out JsonElement tools) && tools.ValueKind == JsonValueKind.Array ? tools : null,
            Extra = c.TryGetProperty("extra", out JsonElement extra) ? extra : null,
            AddGenerationPrompt = c.GetProperty("add_generation_prompt").GetBoolean(),
            Now = DateTimeOffset.Parse(golden.GetProperty("now").GetString()!, CultureInfo.InvariantCulture),
        };
        var special = new Dictionary<string, string> { ["bos_token"] = golden.GetProperty("bos").GetString()!, ["eos_token"] = golden.GetProperty("eos").GetString()! };
        return () => JinjaTemplate.Parse(template).Render(input, special);
    }

    private static Action Pickle(Random random, string folder)
    {
        byte[] good = Of(s_pickles.Value, random);
        string path = Write(folder, "model_0.pt", Mutations.Bytes(good, 0, good.Length, random, s_opcodes));
        return () =>
        {
            using (TorchFile file = TorchFile.Open(path))
            {
                foreach (TensorInfo tensor in file.Tensors.Values)
                    if (tensor.Elements > 0) file.ReadRows(tensor, 0, 1, new float[tensor.Shape.Count == 0 ? 1 : tensor.Shape[^1]]);
            }
            using PredictorLayer layer = PredictorLayer.Open(path, 0);
            layer.ReadFc1();
            layer.ReadFc2();
        };
    }

    /// <summary>Every tensor that a package takes.</summary>
    private static void ReadAll(string path)
    {
        using Checkpoint checkpoint = Checkpoint.Open(path);
        foreach (string name in checkpoint.Tensors) checkpoint.Read(name);
    }

    private static void Use(TextCodec codec)
    {
        int[] ids = codec.Encode("Some text, 1234 and\n\n  moré <|endoftext|></s> 中文😀\uD800", parseSpecial: true, addSpecial: true);
        codec.Decode(ids, skipSpecial: false);
    }

    private static T Of<T>(T[] all, Random random) => all[random.Next(all.Length)];

    private static string Repository(params string[] parts) => Path.Combine(["tests", "data", .. parts]);

    private static byte[] Data(params string[] parts) => File.ReadAllBytes(Repository(parts));

    private static string Write(string folder, string name, byte[] bytes)
    {
        string path = Path.Combine(folder, name);
        File.WriteAllBytes(path, bytes);
        return path;
    }
}
