using System.ClientModel;
using OpenAI;
using OpenAI.Chat;
using OpenAI.Models;

namespace FlashOrleans.Silo.Tests;

/// <summary>OpenAI's own .NET client, pointed here.</summary>
public sealed class OpenAiSdkTests(HttpSilo silo) : IClassFixture<HttpSilo>
{
    private OpenAIClient Client => new(new ApiKeyCredential("unused"), new OpenAIClientOptions { Endpoint = new Uri(silo.Http.BaseAddress!, "/v1"), RetryPolicy = new System.ClientModel.Primitives.ClientRetryPolicy(0) });

    [Fact]
    public async Task A_chat_is_answered_in_one_and_as_a_stream()
    {
        ChatClient chat = Client.GetChatClient("emberling");
        ChatMessage[] messages = [new SystemChatMessage("Be kind."), new UserChatMessage("Tell me a story about a fox.")];
        var options = new ChatCompletionOptions { MaxOutputTokenCount = 16, Temperature = 0.7f, TopP = 0.9f, IncludeLogProbabilities = true, TopLogProbabilityCount = 2, StopSequences = { "never said" } };
#pragma warning disable OPENAI001
        options.Seed = 5;
#pragma warning restore OPENAI001
        ChatCompletion whole = await chat.CompleteChatAsync(messages, options);
        Assert.Equal((ChatFinishReason.Length, ChatMessageRole.Assistant, "emberling"), (whole.FinishReason, whole.Role, whole.Model));
        Assert.Equal((16, 0), (whole.Usage.OutputTokenCount, whole.Usage.InputTokenDetails.CachedTokenCount));
        Assert.NotEmpty(whole.ContentTokenLogProbabilities);

        List<string> text = [];
        ChatFinishReason? finish = null;
        ChatTokenUsage? usage = null;
        await foreach (StreamingChatCompletionUpdate update in chat.CompleteChatStreamingAsync(messages, options))
        {
            text.AddRange(update.ContentUpdate.Select(static p => p.Text));
            finish ??= update.FinishReason;
            usage ??= update.Usage;
        }
        Assert.Equal(Assert.Single(whole.Content).Text, string.Concat(text));
        Assert.Equal(ChatFinishReason.Length, finish);
        Assert.Equal(whole.Usage.TotalTokenCount, usage?.TotalTokenCount);
    }

    [Fact]
    public async Task Models_are_listed()
    {
        OpenAIModelCollection list = await Client.GetOpenAIModelClient().GetModelsAsync();
        Assert.Equal("emberling", Assert.Single(list).Id);
        OpenAIModel one = await Client.GetOpenAIModelClient().GetModelAsync("emberling");
        Assert.Equal("flashorleans", one.OwnedBy);
    }

    [Fact]
    public async Task An_error_is_an_exception_with_its_status_and_line()
    {
        var error = await Assert.ThrowsAsync<ClientResultException>(() => Client.GetChatClient("nobody").CompleteChatAsync("hello"));
        Assert.Equal(404, error.Status);
        Assert.Contains("model_not_found", error.Message, StringComparison.Ordinal);
        Assert.Contains("nobody", error.Message, StringComparison.Ordinal);
    }
}
