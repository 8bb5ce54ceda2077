using System.Globalization;
using System.Text.Json;
using FlashOrleans.Models.Templates;
using FlashOrleans.Tests;

namespace FlashOrleans.Models.Tests.Templates;

/// <summary>Small expressions and templates with what Jinja2 3.1.6 makes of them: operators, methods, filters, tests, formats, scopes, white space, errors.</summary>
public sealed class PythonSemanticsTests
{
    [Fact]
    public void Expressions_give_what_they_give_in_Python()
    {
        var data = TestData.Json(TestData.Repo("tests", "data", "chat", "python", "semantics.json"));
        var variables = data.GetProperty("variables");
        var input = new TemplateInput
        {
            Messages = variables.GetProperty("messages"),
            Extra = variables,
            Now = DateTimeOffset.Parse(data.GetProperty("now").GetString()!, CultureInfo.InvariantCulture),
        };
        var wrong = new List<string>();
        int compared = 0;
        foreach (var c in data.GetProperty("cases").EnumerateArray())
        {
            string template = c.GetProperty("template").GetString()!, expected = c.GetProperty("expected").GetString()!;
            bool fails = c.TryGetProperty("error_message", out var message);
            string actual;
            try
            {
                actual = JinjaTemplate.Parse(template).Render(input);
            }
            catch (TemplateException e)
            {
                actual = fails ? expected : $"error: {e.Message}";
            }
            if (actual != expected) wrong.Add($"{template}\n  expected: {(fails ? message.GetString() : expected)}\n  actual:   {actual}");
            compared++;
        }
        Assert.True(wrong.Count == 0, $"{wrong.Count} of {compared}:\n{string.Join('\n', wrong)}");
        Assert.True(compared > 600);
    }
}
