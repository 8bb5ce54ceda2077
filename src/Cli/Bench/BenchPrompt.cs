using System.Globalization;
using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Cli.Bench;

/// <summary>
/// What the sessions of a benchmark say. A number P: P tokens, each session from another place of a built-in text, so that no two share a prompt and the
/// windows see different work; a model without a tokenizer gets seeded random ids. Anything else: that text, the same for all.
/// </summary>
internal sealed class BenchPrompt
{
    private const string Text = """
        The lamp at the end of the pier had not been lit for nine winters when the heron came to ask about it. "Whose is it?" she said, and the keeper's daughter,
        who was mending a net, answered without looking up that it belonged to whoever would climb the ladder. There were forty rungs. The seventh was missing and
        the twelfth could not be trusted. A fox who sold buttons in the market offered a wager: three silver buttons that the light would be seen from the hill before the
        snow was gone. Nobody took it, because nobody had ever seen the fox lose. So the heron borrowed a jar of oil, the baker's boy lent his flint, and an old bear who
        remembered the first keeper walked down through the birches with a wick rolled up in his paw. They worked until the tide turned. When the flame stood at
        last, small and yellow as a crocus, a boat that had been waiting in the fog since the day before put up its sail. It carried letters, seven sacks of
        barley, a drum with a torn skin, and a girl who had grown so much that her father knew her only by the way she laughed.
        """;

    private readonly int[] _ids;
    private readonly int _length;
    private readonly bool _same;

    public BenchPrompt(string prompt, FlashPackage package, ulong seed)
    {
        var codec = TextCodec.FromFiles(package.SideFile);
        _same = !int.TryParse(prompt, NumberStyles.None, CultureInfo.InvariantCulture, out _length);
        if (!_same && _length == 0) throw new UsageException("--prompt: a session needs at least one token");
        if (_same)
        {
            if (codec is null) throw new UsageException($"{package.Name} has no tokenizer.json: give --prompt as a number of tokens");
            _ids = codec.Encode(prompt, parseSpecial: false);
            _length = _ids.Length;
            if (_length == 0) throw new UsageException("--prompt: a session needs at least one token");
        }
        else if (codec is not null)
        {
            _ids = codec.Encode(Text, parseSpecial: false);
        }
        else
        {
            var random = new Random((int)(seed ^ (seed >> 32)));
            _ids = [.. Enumerable.Range(0, 1024).Select(_ => random.Next(package.Config.VocabSize))];
        }
    }

    public int Length => _length;

    public int[] For(int session)
    {
        if (_same) return _ids;
        // 37 is far enough from its neighbours and shares no factor with most lengths.
        int start = session * 37 % _ids.Length;
        return [.. Enumerable.Range(0, _length).Select(i => _ids[(start + i) % _ids.Length])];
    }
}
