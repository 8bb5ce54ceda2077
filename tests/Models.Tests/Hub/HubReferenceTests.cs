using FlashOrleans.Flash;
using FlashOrleans.Models.Hub;

namespace FlashOrleans.Models.Tests.Hub;

public sealed class HubReferenceTests
{
    [Theory]
    [InlineData("fox/lantern", "fox/lantern", "main", null)]
    [InlineData("hf.co/fox/lantern", "fox/lantern", "main", null)]
    [InlineData("huggingface.co/fox/lantern-7B_v1.0", "fox/lantern-7B_v1.0", "main", null)]
    [InlineData("https://huggingface.co/fox/lantern", "fox/lantern", "main", null)]
    [InlineData("https://huggingface.co/fox/lantern/", "fox/lantern", "main", null)]
    [InlineData("hf.co/fox/lantern:Q4_K_M", "fox/lantern", "main", "Q4_K_M")]
    [InlineData("fox/lantern:lantern-Q8_0.gguf", "fox/lantern", "main", "lantern-Q8_0.gguf")]
    [InlineData("fox/lantern:Q8_0/lantern-00001-of-00002.gguf", "fox/lantern", "main", "Q8_0/lantern-00001-of-00002.gguf")]
    [InlineData("https://huggingface.co/fox/lantern/tree/v2", "fox/lantern", "v2", null)]
    [InlineData("https://huggingface.co/fox/lantern/blob/main/lantern.gguf", "fox/lantern", "main", "lantern.gguf")]
    [InlineData("https://huggingface.co/fox/lantern/resolve/main/a/lantern.gguf?download=true", "fox/lantern", "main", "a/lantern.gguf")]
    public void A_model_of_the_hub_is_understood_in_every_way_people_write_it(string text, string repository, string revision, string? choice)
    {
        Assert.True(HubReference.TryParse(text, out HubReference? reference, out string fault), fault);
        Assert.Equal((repository, revision, choice, null), (reference.Repository, reference.Revision, reference.Choice, reference.Url));
        Assert.Equal(repository.Split('/')[1], reference.ModelName);
    }

    [Theory]
    [InlineData("http://example.com/models/lantern%20two-Q4_0.gguf?x=1", "lantern-two-Q4_0")]
    [InlineData("https://example.com/lantern-00001-of-00003.gguf", "lantern")]
    [InlineData("https://example.com/..%2e.gguf", "model")]
    public void The_address_of_a_gguf_file_is_a_reference_whose_name_the_store_takes(string text, string name)
    {
        Assert.True(HubReference.TryParse(text, out HubReference? reference, out string fault), fault);
        Assert.Equal((null, name), (reference.Repository, reference.ModelName));
        Assert.True(PackageStore.IsValidName(reference.ModelName));
        Assert.Equal(new Uri(text), reference.Url);
    }

    [Theory]
    [InlineData("", "owner/model")]
    [InlineData("emberling", "owner/model")]
    [InlineData("a/b/c", "owner/model")]
    [InlineData("../lantern", "flash import")]
    [InlineData("/home/fox/lantern", "flash import")]
    [InlineData("fox/..", "owner/model")]
    [InlineData("fox/lan tern", "owner/model")]
    [InlineData("fox/lantern?x", "owner/model")]
    [InlineData("fox/lantern:", "chooses nothing")]
    [InlineData("fox/lantern:../x", "chooses nothing")]
    [InlineData("fox/lantern:../x.gguf", "owner/model")]
    [InlineData("fox/lantern:Q4 K", "chooses nothing")]
    [InlineData("https://huggingface.co/fox/lantern/blob/main/model.safetensors", "pull fox/lantern")]
    [InlineData("https://huggingface.co/fox/lantern/tree/a%20b", "owner/model")]
    [InlineData("https://example.com/model.safetensors", "not the address of a .gguf file")]
    [InlineData("https://example.com/", "not the address of a .gguf file")]
    [InlineData("https://example.com/a%2f..%2fb.gguf", "not the address of a .gguf file")]
    [InlineData("ftp://example.com/lantern.gguf", "owner/model")]
    [InlineData("file:///etc/passwd", "owner/model")]
    public void Anything_else_is_refused_with_what_would_be_right(string text, string says)
    {
        Assert.False(HubReference.TryParse(text, out _, out string fault));
        Assert.Contains(says, fault, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("a")]
    [InlineData("a/b.json")]
    [InlineData("a/.../b", false)]
    [InlineData("..", false)]
    [InlineData("../a", false)]
    [InlineData("a/../../b", false)]
    [InlineData("/etc/passwd", false)]
    [InlineData("a//b", false)]
    [InlineData("a/", false)]
    [InlineData("a\\..\\b", false)]
    [InlineData("c:a", false)]
    [InlineData("a\0b", false)]
    [InlineData("a\nb", false)]
    [InlineData("", false)]
    [InlineData("a /b", false)]
    public void A_path_of_a_server_stays_below_its_folder_or_is_refused(string path, bool safe = true)
    {
        Assert.Equal(safe, RemotePath.IsSafe(path));
        if (safe) Assert.StartsWith("/here/", RemotePath.Under("/here", path), StringComparison.Ordinal);
        else Assert.Throws<HubException>(() => RemotePath.Under("/here", path));
    }
}
