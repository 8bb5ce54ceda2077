using System.CommandLine;
using FlashOrleans.Cli.Options;

namespace FlashOrleans.Cli.Verbs;

/// <summary>`flash rm NAME`: deletes packages of the store, by name only.</summary>
internal static class RemoveVerb
{
    public static Command Create(App app)
    {
        var names = new Argument<string[]>("NAME") { Description = "Model names", Arity = ArgumentArity.OneOrMore };
        var verb = new Verb("rm", "Remove models from $FLASH_HOME", "", "flash rm emberling") { names };
        verb.SetAction(parse =>
        {
            foreach (string name in parse.GetRequiredValue(names))
            {
                app.Store.Remove(name);
                app.Screen.Remark($"removed {name}");
            }
        });
        return verb;
    }
}
