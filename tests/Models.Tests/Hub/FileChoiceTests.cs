using System.Text;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Hub;

public sealed class FileChoiceTests : IDisposable
{
    private readonly PullBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Fact]
    public async Task Of_a_safetensors_repository_what_the_importer_reads_is_taken_and_nothing_else()
    {
        Add("README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "model.safetensors",
            "pytorch_model.bin", "onnx/model.onnx", "onnx/tokenizer.json", "lantern-Q4_K_M.gguf", "consolidated.safetensors", "tokenizer.model");
        Assert.Equal(["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"], await PathsAsync());
    }

    [Fact]
    public async Task Shards_are_those_that_the_index_names()
    {
        var files = Add("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model-00003-of-00002.safetensors");
        files["model.safetensors.index.json"] = Index("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors");
        Assert.Equal(["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"], await PathsAsync());
    }

    [Theory]
    [InlineData("model-00002-of-00002.safetensors", "does not have")]
    [InlineData("../model.safetensors", "refused")]
    [InlineData("/etc/passwd", "refused")]
    [InlineData("a/b.safetensors", "refused")]
    public async Task An_index_that_names_what_is_not_beside_it_is_refused(string shard, string says)
    {
        Add("config.json")["model.safetensors.index.json"] = Index(shard);
        Assert.Contains(says, await _bench.FailureAsync(), StringComparison.Ordinal);
        Assert.Empty(_bench.Files());
    }

    [Theory]
    [InlineData("", "a-Q4_K_M.gguf")]
    [InlineData(":Q4_K_M", "a-Q4_K_M.gguf")]
    [InlineData(":q4_k_m", "a-Q4_K_M.gguf")]
    [InlineData(":Q4_K", "a-Q4_K.gguf")]
    [InlineData(":Q8_0", "a.Q8_0.gguf")]
    [InlineData(":Q4_XS", "a-UD-Q4_XS.gguf")]
    [InlineData(":IQ4_XS", "a-IQ4_XS.gguf")]
    [InlineData(":F16", "f16/a-f16.gguf")]
    [InlineData(":BF16", "bf16/a-bf16-00001-of-00002.gguf bf16/a-bf16-00002-of-00002.gguf")]
    [InlineData(":a-Q4_K.gguf", "a-Q4_K.gguf")]
    [InlineData(":a-f16.gguf", "f16/a-f16.gguf")]
    [InlineData(":bf16/a-bf16-00002-of-00002.gguf", "bf16/a-bf16-00001-of-00002.gguf bf16/a-bf16-00002-of-00002.gguf")]
    public async Task Of_a_gguf_repository_exactly_one_model_is_taken_with_all_its_parts(string choice, string files)
    {
        Add("README.md", "config.json", "a-Q2_K.gguf", "a-Q4_K.gguf", "a-Q4_K_M.gguf", "a-IQ4_XS.gguf", "a-UD-Q4_XS.gguf", "a.Q8_0.gguf", "mmproj-a-f32.gguf", "f16/a-f16.gguf",
            "bf16/a-bf16-00001-of-00002.gguf", "bf16/a-bf16-00002-of-00002.gguf");
        Assert.Equal(files.Split(' '), await PathsAsync(PullBench.Repository + choice));
    }

    [Fact]
    public async Task The_only_model_is_taken_and_q8_where_there_is_no_q4_k_m()
    {
        Add("a-IQ1_S.gguf", "mmproj-a-Q8_0.gguf");
        Assert.Equal(["a-IQ1_S.gguf"], await PathsAsync());
        _bench.Hub.Repositories.Clear();
        Add("a-IQ1_S.gguf", "a-Q8_0.gguf", "a-F16.gguf");
        Assert.Equal(["a-Q8_0.gguf"], await PathsAsync());
    }

    [Theory]
    [InlineData("", "a-F16.gguf b-Q2_K.gguf", "several models", "FILE being one of a-F16.gguf, b-Q2_K.gguf")]
    [InlineData("", "a-Q4_K_M.gguf b-Q4_K_M.gguf", "several models", "a-Q4_K_M.gguf, b-Q4_K_M.gguf")]
    [InlineData(":Q5_K", "a-F16.gguf b-Q5_K_M.gguf", "no model 'Q5_K'", "a-F16.gguf, b-Q5_K_M.gguf")]
    [InlineData(":F16", "a-F16.gguf b-F16.gguf c-F32.gguf", "more than one model 'F16'", "a-F16.gguf, b-F16.gguf")]
    [InlineData(":c.gguf", "a-F16.gguf b-F16.gguf", "no model 'c.gguf'", "a-F16.gguf, b-F16.gguf")]
    [InlineData(":a-00001-of-00003.gguf", "a-00001-of-00003.gguf a-00003-of-00003.gguf", "lacks a-00002-of-00003.gguf", "")]
    [InlineData(":Q4_K_M", "config.json model.safetensors", "has no GGUF files", "for its safetensors")]
    [InlineData("", "model.safetensors", "no config.json", "")]
    [InlineData("", "config.json pytorch_model.bin", "neither model.safetensors nor GGUF", "pytorch_model.bin")]
    [InlineData("", "README.md", "neither model.safetensors nor GGUF", "")]
    public async Task What_cannot_be_chosen_is_one_line_that_lists_what_could_be(string choice, string files, string what, string offer)
    {
        Add(files.Split(' '));
        string message = await _bench.FailureAsync(PullBench.Repository + choice);
        Assert.Contains(what, message, StringComparison.Ordinal);
        Assert.Contains(offer, message, StringComparison.Ordinal);
        Assert.Empty(_bench.Files());
    }

    private Dictionary<string, byte[]> Add(params string[] paths)
    {
        var files = _bench.Hub.Add(PullBench.Repository);
        foreach (string path in paths) files.Add(path, Encoding.UTF8.GetBytes(path));
        return files;
    }

    private static byte[] Index(params string[] shards) =>
        Encoding.UTF8.GetBytes($"{{\"weight_map\":{{{string.Join(',', shards.Select((s, i) => $"\"t{i}\":\"{s}\""))}}}}}");

    private async Task<string[]> PathsAsync(string reference = PullBench.Repository) => [.. (await _bench.PlanAsync(reference)).Paths.Order(StringComparer.Ordinal)];
}
