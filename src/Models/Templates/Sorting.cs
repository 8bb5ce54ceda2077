namespace FlashOrleans.Models.Templates;

/// <summary>A stable sort that charges for its comparisons and lets their errors through.</summary>
internal static class Sorting
{
    public static T[] By<T>(T[] items, Func<T, Value> key, RenderBudget budget, bool descending = false)
    {
        var keys = Array.ConvertAll(items, item => key(item));
        var order = new int[items.Length];
        for (int i = 0; i < order.Length; i++) order[i] = i;
        Merge(order, new int[order.Length], 0, order.Length, (a, b) =>
        {
            budget.Step();
            if (keys[a] is UndefinedValue && keys[b] is UndefinedValue) return 0;
            int compared = Operators.Order(keys[a], keys[b], budget);
            return compared == 2 ? 0 : descending ? -compared : compared;
        });
        return Array.ConvertAll(order, i => items[i]);
    }

    private static void Merge(int[] order, int[] space, int from, int to, Comparison<int> compare)
    {
        if (to - from < 2) return;
        int middle = (from + to) / 2, left = from, right = middle, at = from;
        Merge(order, space, from, middle, compare);
        Merge(order, space, middle, to, compare);
        while (left < middle && right < to) space[at++] = compare(order[left], order[right]) <= 0 ? order[left++] : order[right++];
        while (left < middle) space[at++] = order[left++];
        while (right < to) space[at++] = order[right++];
        Array.Copy(space, from, order, from, to - from);
    }
}
