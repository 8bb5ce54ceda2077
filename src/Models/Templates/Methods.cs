namespace FlashOrleans.Models.Templates;

/// <summary>
/// Methods of strings, lists and mappings. Those that would change a value are refused, as Jinja's sandbox does; of everything else that Python's objects have
/// nothing is there.
/// </summary>
internal static class Methods
{
    public static FunctionValue? Find(Value target, string name)
    {
        Func<Call, Value>? body = target switch
        {
            TextValue text => TextMethod(text, name),
            MapValue map => MapMethod(map, name),
            ListValue list => ListMethod(list, name),
            _ => null,
        };
        return body is null ? null : new(name, body);
    }

    public static ListValue Entries(MapValue map, Call call)
    {
        call.Budget.MakeItems(4L * map.Count);
        return new([.. map.Entries.Select(static e => new ListValue([e.Key, e.Value], ListKind.Tuple))], ListKind.Iterator);
    }

    private static Func<Call, Value>? MapMethod(MapValue map, string name) => name switch
    {
        "items" => call =>
        {
            call.Bind();
            return Entries(map, call);
        }
        ,
        "keys" => call => All(map.Keys, call),
        "values" => call => All(map.Values, call),
        "get" => call =>
        {
            var given = call.Bind("key", "default");
            return map.Find(call.Required(given[0], "key")) ?? given[1] ?? NoneValue.Instance;
        }
        ,
        "copy" => call =>
        {
            call.Bind();
            return map;
        }
        ,
        "clear" or "pop" or "popitem" or "setdefault" or "update" => Changes(name),
        _ => null,
    };

    private static ListValue All(IList<Value> items, Call call)
    {
        call.Bind();
        call.Budget.MakeItems(items.Count);
        return new([.. items], ListKind.Iterator);
    }

    private static Func<Call, Value>? ListMethod(ListValue list, string name) => (list.Kind, name) switch
    {
        (ListKind.Iterator, _) => null,
        (_, "count") => call => new IntegerValue(list.Items.Count(item => Operators.AreEqual(item, call.Required(call.Bind("value")[0], "value"), call.Budget))),
        (_, "index") => call =>
        {
            var wanted = call.Required(call.Bind("value")[0], "value");
            for (int i = 0; i < list.Items.Count; i++)
                if (Operators.AreEqual(list.Items[i], wanted, call.Budget)) return new IntegerValue(i);
            throw new TemplateException("the value is not in the list");
        }
        ,
        (ListKind.Tuple, _) => null,
        (_, "copy") => call =>
        {
            call.Bind();
            return list;
        }
        ,
        (_, "append" or "clear" or "extend" or "insert" or "pop" or "remove" or "reverse" or "sort") => Changes(name),
        _ => null,
    };

    private static Func<Call, Value> Changes(string name) => _ => throw new TemplateException($"{name} would change a value; a template may not do that");

    private static Func<Call, Value>? TextMethod(TextValue text, string name) => name switch
    {
        "strip" => call => Texts.Strip(text, call.Bind("chars")[0], left: true, right: true, call.Budget),
        "lstrip" => call => Texts.Strip(text, call.Bind("chars")[0], left: true, right: false, call.Budget),
        "rstrip" => call => Texts.Strip(text, call.Bind("chars")[0], left: false, right: true, call.Budget),
        "split" or "rsplit" => call =>
        {
            var given = call.Bind("sep", "maxsplit");
            return Texts.Split(text, given[0] is null or NoneValue ? null : call.Text(given[0], "sep"), call.Int(given[1], "maxsplit", -1), fromRight: name == "rsplit", call.Budget);
        }
        ,
        "splitlines" => call => Texts.SplitLines(text, call.Flag(call.Bind("keepends")[0]), call.Budget),
        "partition" or "rpartition" => call => Texts.Partition(text, call.Text(call.Bind("sep")[0], "sep"), last: name == "rpartition", call.Budget),
        "startswith" or "endswith" => call => BooleanValue.Of(Texts.Begins(text, call, atEnd: name == "endswith")),
        "removeprefix" => call => call.Text(call.Bind("prefix")[0], "prefix").Chars is var p && text.Chars.StartsWith(p, StringComparison.Ordinal) ? text.Slice(p.Length, text.Chars.Length - p.Length, call.Budget) : text,
        "removesuffix" => call => call.Text(call.Bind("suffix")[0], "suffix").Chars is { Length: > 0 } s && text.Chars.EndsWith(s, StringComparison.Ordinal) ? text.Slice(0, text.Chars.Length - s.Length, call.Budget) : text,
        "replace" => call =>
        {
            var given = call.Bind("old", "new", "count");
            return Texts.Replace(text, call.Text(given[0], "old"), call.Text(given[1], "new"), call.Int(given[2], "count", -1), call.Budget);
        }
        ,
        "join" => call => Joined(text, call),
        "format" => call => BraceFormat.Apply(text, call),
        "find" or "rfind" or "index" or "rindex" => call => Texts.Find(text, call, last: name[0] == 'r', orFail: name.EndsWith("index", StringComparison.Ordinal)),
        "count" => call => new IntegerValue(Texts.Count(text, call.Text(call.Bind("sub")[0], "sub"), call.Budget)),
        "upper" => call => Texts.Upper(text, Bare(call)),
        "lower" or "casefold" => call => Texts.Lower(text, Bare(call)),
        "capitalize" => call => Texts.Capitalize(text, Bare(call)),
        "title" => call => Texts.Title(text, Bare(call)),
        "swapcase" => call => Texts.SwapCase(text, Bare(call)),
        "ljust" or "rjust" or "center" => call =>
        {
            var given = call.Bind("width", "fillchar");
            return Texts.Pad(text, call.Int(call.Required(given[0], "width"), "width", 0), name[0] == 'l' ? -1 : name[0] == 'r' ? 1 : 0, given[1] is null ? null : call.Text(given[1], "fillchar"), call.Budget);
        }
        ,
        "zfill" => call => Texts.ZeroFill(text, call.Int(call.Required(call.Bind("width")[0], "width"), "width", 0), call.Budget),
        "isdigit" or "isdecimal" or "isnumeric" => call => All(text, call, char.IsDigit),
        "isalpha" => call => All(text, call, char.IsLetter),
        "isalnum" => call => All(text, call, char.IsLetterOrDigit),
        "isspace" => call => All(text, call, TemplateLexer.IsSpace),
        "isupper" => call => BooleanValue.Of(Texts.IsUpper(text) && Bare(call) is not null),
        "islower" => call => BooleanValue.Of(Texts.IsLower(text) && Bare(call) is not null),
        _ => null,
    };

    private static RenderBudget Bare(Call call)
    {
        call.Bind();
        return call.Budget;
    }

    private static BooleanValue All(TextValue text, Call call, Func<char, bool> kind)
    {
        Bare(call).Look(text.Chars.Length);
        return BooleanValue.Of(text.Chars.Length > 0 && text.Chars.All(kind));
    }

    private static TextValue Joined(TextValue between, Call call)
    {
        var to = new TextValue.TextBuilder(call.Budget);
        bool first = true;
        foreach (var item in Operators.Items(call.Required(call.Bind("iterable")[0], "iterable"), call.Budget))
        {
            call.Budget.Step();
            if (!first) to.Append(between);
            first = false;
            to.Append(item as TextValue ?? throw new TemplateException($"join needs strings, not {item.TypeName}"));
        }
        return to.ToText();
    }
}
