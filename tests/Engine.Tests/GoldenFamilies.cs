namespace FlashOrleans.Engine.Tests;

/// <summary>The families of tests/data/golden/models: tiny checkpoints with what Hugging Face computes from them.</summary>
internal static class GoldenFamilies
{
    /// <summary>Those whose feed-forward has experts.</summary>
    public static readonly string[] Experts = ["mixtral", "qwen3-moe", "olmoe", "gpt-oss", "qwen2-moe", "granite-moe", "glm4-moe", "dots1", "ernie4_5-moe", "deepseek-v2"];

    public static readonly string[] All =
    [
        .. Experts,
        "llama", "llama-relu", "llama-relu-bf16", "llama-linear-rope", "llama3-rope", "llama-yarn", "llama-dynamic-rope", "mistral", "qwen2", "qwen3", "phi3", "phi3-longrope",
        "gemma", "gemma2", "gemma3-text", "olmo2", "granite", "smollm3", "cohere", "stablelm", "prosparse", "bamboo",
        "opt", "opt-350m-like", "gpt2", "falcon", "falcon-7b-like", "falcon-relu", "phi", "persimmon", "starcoder2",
    ];
}
