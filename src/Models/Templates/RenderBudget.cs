using System.Runtime.CompilerServices;

namespace FlashOrleans.Models.Templates;

/// <summary>
/// What one rendering may use: steps (an evaluated node, an item, or 32 characters looked at), characters of text made (output and every string on the way),
/// and depth of nesting. The first two grow with the input, which the caller holds in memory anyway; a template alone gets two million steps and 16 Mi
/// characters. Whoever exceeds one gets a <see cref="TemplateException"/>. Not thread-safe: one per rendering.
/// </summary>
internal sealed class RenderBudget(long inputChars)
{
    public const int MaxDepth = 600;
    /// <summary>What an item of a list costs, in characters.</summary>
    private const int ItemChars = 16;

    private long _steps = 2_000_000 + 8 * inputChars;
    private long _text = (16L << 20) + 24 * inputChars;
    private int _depth;

    public void Step()
    {
        if (--_steps < 0) throw TooMuch();
    }

    /// <summary>Characters looked at.</summary>
    public void Look(long chars)
    {
        _steps -= 1 + chars / 32;
        if (_steps < 0) throw TooMuch();
    }

    /// <summary>Characters about to be made: asked for before they are.</summary>
    public void Make(long chars)
    {
        Look(chars);
        _text -= chars;
        if (_text < 0) throw new TemplateException("the template makes too much text; it was stopped");
    }

    /// <summary>Items of a list or mapping about to be made.</summary>
    public void MakeItems(long items) => Make(Math.Min(items, int.MaxValue) * ItemChars);

    /// <summary>One level deeper. No finally pairs it with <see cref="Leave"/>: an exception ends the rendering.</summary>
    public void Enter()
    {
        Step();
        if (++_depth > MaxDepth || !RuntimeHelpers.TryEnsureSufficientExecutionStack())
            throw new TemplateException($"the template nests deeper than {MaxDepth} levels (a macro that calls itself?); it was stopped");
    }

    public void Leave() => _depth--;

    private static TemplateException TooMuch() => new("the template takes too many steps; it was stopped");
}
