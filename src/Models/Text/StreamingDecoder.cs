using System.Buffers;
using System.Text;

namespace FlashOrleans.Models.Text;

/// <summary>
/// Token ids to text one token at a time, for a stream: <see cref="Next"/> gives everything that is complete UTF-8 so far and keeps the
/// bytes of an unfinished character back, so no piece ever holds half a character or a stand-in for one. All pieces and <see cref="Flush"/> together are what
/// <see cref="TextCodec.Decode"/> gives for all ids; the text of token i follows from tokens 0..i alone, so a decoder made
/// anew from the tokens already delivered goes on where another stopped. One reader at a time.
/// </summary>
public sealed class StreamingDecoder
{
    private readonly TextCodec _codec;
    private readonly bool _skipSpecial;
    private readonly StringBuilder _text = new();
    private readonly byte[] _pending = new byte[4];
    private int _held;
    private TextPosition _position;

    /// <param name="codec">The model's codec.</param>
    /// <param name="skipSpecial">Special tokens have no text.</param>
    /// <param name="replay">Tokens whose text has been delivered before.</param>
    public StreamingDecoder(TextCodec codec, bool skipSpecial = true, ReadOnlySpan<int> replay = default)
    {
        ArgumentNullException.ThrowIfNull(codec);
        _codec = codec;
        _skipSpecial = skipSpecial;
        foreach (int token in replay) Append(token);
        _text.Clear();
    }

    /// <summary>The text that became complete with this token; often empty.</summary>
    public string Next(int token)
    {
        Append(token);
        return Take();
    }

    /// <summary>The end: an unfinished character becomes one U+FFFD. The decoder is as new afterwards.</summary>
    public string Flush()
    {
        if (_held > 0) _text.Append('\uFFFD');
        _held = 0;
        _position = default;
        return Take();
    }

    private string Take()
    {
        if (_text.Length == 0) return "";
        string text = _text.ToString();
        _text.Clear();
        return text;
    }

    private void Append(int token)
    {
        foreach (byte value in _codec.Bytes(token, _skipSpecial, ref _position))
        {
            _pending[_held++] = value;
            // At most twice: an ill-formed part gives one U+FFFD and leaves the byte that broke it to start anew.
            while (_held > 0)
            {
                var status = Rune.DecodeFromUtf8(_pending.AsSpan(0, _held), out var rune, out int used);
                if (status == OperationStatus.NeedMoreData) break;
                _text.Append(rune.ToString());
                _pending.AsSpan(used, _held - used).CopyTo(_pending);
                _held -= used;
            }
        }
    }
}
