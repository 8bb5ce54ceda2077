using System.Text.Json;
using CsCheck;
using FlashOrleans.Models.Templates;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Templates;

/// <summary>A template comes with a download. It may fail, with one kind of exception; it may not crash, hang, or take memory without end.</summary>
public sealed class HostileTemplateTests
{
    /// <summary>What a rendering may allocate over its life; what it holds at a time is less.</summary>
    private const long MostBytes = 400L << 20;

    private static readonly JsonElement s_messages = Parse("""[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]""");

    private static JsonElement Parse(string json)
    {
        using var document = JsonDocument.Parse(json);
        return document.RootElement.Clone();
    }

    private static string? Render(string template, JsonElement? messages = null)
    {
        long before = GC.GetAllocatedBytesForCurrentThread();
        try
        {
            return JinjaTemplate.Parse(template).Render(new() { Messages = messages ?? s_messages, Now = DateTimeOffset.UnixEpoch });
        }
        catch (TemplateException e)
        {
            Assert.DoesNotContain('\n', e.Message);
            return null;
        }
        finally
        {
            Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, MostBytes);
        }
    }

    public static TheoryData<string> Bad => ["infinite", "memory", "recursion", "sandbox", "syntax-error", "unknown-filter"];

    [Theory]
    [MemberData(nameof(Bad))]
    public void Every_bad_template_of_the_golden_set_is_refused(string name)
    {
        var bad = TestData.Json(TestData.Repo("tests", "data", "chat", "bad", $"template-{name}.json"));
        Assert.Null(Render(bad.GetProperty("template").GetString()!, bad.GetProperty("messages")));
    }

    [Theory]
    [InlineData("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}")]
    [InlineData("{{ 'x' * 1000000000 }}")]
    [InlineData("{{ [0] * 1000000000 }}")]
    [InlineData("{{ 2 ** 1000000000 }}")]
    [InlineData("{% set ns = namespace(n=2) %}{% for i in range(100) %}{% set ns.n = ns.n * ns.n %}{% endfor %}")]
    [InlineData("{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}")]
    [InlineData("{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}")]
    [InlineData("{% set ns = namespace(l=[0]) %}{% for i in range(64) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == [ns.l[0], ns.l[1]] }}{{ ns.l }}")]
    [InlineData("{% set ns = namespace(l=[0]) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}{% endfor %}")]
    [InlineData("{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(9) %}{% set ns.s = ns.s.replace('x', ns.s) %}{% endfor %}")]
    [InlineData("{{ '%999999999s' % 1 }}")]
    [InlineData("{{ '{:999999999}'.format(1) }}")]
    [InlineData("{{ 'x'.center(999999999) }}")]
    [InlineData("{{ [[[[1]]]] | tojson(indent=999999999) | length }}{{ 1 / 0 }}")]
    [InlineData("{{ '%.999999f' % 1 }}")]
    [InlineData("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}")]
    [InlineData("{% macro a() %}{% call a() %}{% endcall %}{{ caller }}{% endmacro %}{{ a() }}")]
    [InlineData("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}")]
    [InlineData("{{ range(-2147483648, 2147483647) }}")]
    [InlineData("{{ messages | batch(2000000000, 0) | list }}")]
    [InlineData("{{ messages | slice(2000000000) | list }}")]
    [InlineData("{{ messages.append(1) }}")]
    [InlineData("{{ messages[0].update({'role': 'system'}) }}")]
    [InlineData("{{ messages.__class__.__base__ }}")]
    [InlineData("{{ raise_exception.__globals__['x'] }}")]
    [InlineData("{{ '{0.__class__}'.format(1) }}")]
    [InlineData("{% include '/etc/passwd' %}")]
    [InlineData("{% import 'os' as os %}")]
    public void Greed_and_escapes_are_stopped(string template) => Assert.Null(Render(template));

    [Theory]
    [InlineData("(")]
    [InlineData("[")]
    [InlineData("{1:")]
    [InlineData("not ")]
    [InlineData("-")]
    [InlineData("a[")]
    [InlineData("a(")]
    [InlineData("a if ")]
    [InlineData("a if b else ")]
    [InlineData("1 + ")]
    [InlineData("a.")]
    [InlineData("a|upper|")]
    [InlineData("'x' ")]
    public void Deep_nesting_is_refused(string piece) => Assert.Null(Render("{{ " + string.Concat(Enumerable.Repeat(piece, 20_000))));

    [Theory]
    [InlineData("{% if true %}", "{% endif %}")]
    [InlineData("{% for x in [1] %}", "{% endfor %}")]
    [InlineData("{% set x %}", "{% endset %}")]
    [InlineData("{% macro m() %}", "{% endmacro %}")]
    public void Deep_blocks_are_refused(string open, string close) =>
        Assert.Null(Render(string.Concat(Enumerable.Repeat(open, 5_000)) + string.Concat(Enumerable.Repeat(close, 5_000))));

    [Fact]
    public void Long_chains_are_refused_and_not_a_stack_overflow()
    {
        Assert.Null(Render("{{ 1" + string.Concat(Enumerable.Repeat(" + 1", 100_000)) + " }}"));
        Assert.Null(Render("{{ 'x'" + string.Concat(Enumerable.Repeat("|upper", 50_000)) + " }}"));
    }

    [Fact]
    public void A_long_conversation_is_no_attack()
    {
        var golden = GoldenTemplateTests.Golden("qwen3");
        var messages = JsonSerializer.SerializeToElement(Enumerable.Range(0, 10_000).Select(static i => new { role = i % 2 == 0 ? "user" : "assistant", content = new string('x', 300) }));
        string prompt = JinjaTemplate.Parse(golden.GetProperty("template").GetString()!).Render(new() { Messages = messages }, GoldenTemplateTests.Special(golden));
        Assert.True(prompt.Length > 3_000_000);
    }

    [Fact]
    public void Half_a_surrogate_pair_in_a_message_is_an_error_of_its_own_kind() =>
        Assert.Null(Render("{{ messages }}", Parse("""[{"role":"user","content":"\ud800"}]""")));

    /// <summary>Golden templates with pieces cut out, doubled, swapped and put in.</summary>
    [Fact]
    public void Mutated_templates_render_or_fail_cleanly()
    {
        (string Template, JsonElement Golden, JsonElement[] Cases)[] all =
            [.. GoldenTemplateTests.Names.Select(static n => GoldenTemplateTests.Golden(n)).Select(static g => (g.GetProperty("template").GetString()!, g, g.GetProperty("cases").EnumerateArray().ToArray()))];
        string[] pieces =
        [
            "{{", "}}", "{%", "%}", "{#", "#}", "-%}", "{%-", "(", ")", "[", "]", "{", "}", "'", "\"", "\\", "|", ".", ",", ":", "::-1", "==", " in ", " is ", " not ", " if ", " else ", " and ", "~", "**", "*", "%", "//", "-", "1",
            "999999999", "0", "none", "loop", "messages", "ns", "caller()", "range(99999)", "|tojson", "|length", "|list", "|string", "|map('tojson')", "|sort", "|join", ".items()", ".split()", ".replace('', messages|string)",
            "*99999", "{% for x in messages %}", "{% endfor %}", "{% if x %}", "{% endif %}", "{% set ns.x = ns %}", "{% macro m(x) %}{{ m(x) }}{% endmacro %}", "{{ m(1) }}", "{% break %}", "{% generation %}", "\n", "\uD800", "é",
        ];
        var edit = Gen.Select(Gen.Int[0, 4], Gen.Double[0, 1], Gen.Double[0, 1], Gen.Int[0, pieces.Length - 1]);
        Gen.Select(Gen.Int[0, all.Length - 1], Gen.Int[0, 1000], edit.Array[1, 6]).Sample((which, c, edits) =>
        {
            var (template, golden, cases) = all[which];
            foreach (var (kind, from, span, piece) in edits)
            {
                int at = (int)(from * template.Length), length = Math.Min((int)(span * span * span * 60), template.Length - at);
                template = kind switch
                {
                    0 => template.Remove(at, length),
                    1 => template.Insert(at, template.Substring(at, length)),
                    2 => template.Remove(at, length).Insert((int)(span * (template.Length - length)), template.Substring(at, length)),
                    _ => template.Insert(at, pieces[piece]),
                };
            }
            long before = GC.GetAllocatedBytesForCurrentThread();
            try
            {
                JinjaTemplate.Parse(template).Render(GoldenTemplateTests.Input(golden, cases[c % cases.Length]), GoldenTemplateTests.Special(golden));
            }
            catch (TemplateException)
            {
                // The other of the two permitted outcomes.
            }
            return GC.GetAllocatedBytesForCurrentThread() - before < MostBytes;
        }, iter: 3000, print: static t => $"template {t.Item1}, case {t.Item2}, edits {string.Join(' ', t.Item3)}");
    }
}
