using System.Globalization;
using FlashOrleans.Client;
using FlashOrleans.Grains;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;

namespace FlashOrleans.Silo.Http;

/// <summary>/v1/sessions: what is kept, as the store says it, and deleting it, which its grain does. A session is asked for as requests name it: by the id of one, or by any key. Stateless; any thread.</summary>
internal static class SessionRoutes
{
    private const int Most = 1000, Usual = 100;

    public static void Map(WebApplication app, FlashClient client, SessionStore store, SessionLook look)
    {
        app.MapGet("/v1/sessions", async (HttpContext context) =>
        {
            int most = Number(context.Request, "limit") ?? Usual;
            Guid? after = context.Request.Query["after"].ToString() is { Length: > 0 } id ? RequestReader.SessionOf("session", id) : null;
            // One more than asked for says whether there are more.
            IReadOnlyList<SessionInfo> found = await store.ListAsync(most + 1, after);
            await WireJson.WriteAsync(context.Response, new SessionList("list", await Task.WhenAll(found.Take(most).Select(look.AtAsync).Select(OutAsync)), found.Count > most), WireJson.Shared.SessionList);
        });
        app.MapGet("/v1/sessions/{id}", async (HttpContext context) => await WireJson.WriteAsync(context.Response, await OutAsync(look.AtAsync(await FindAsync(context, store))), WireJson.Shared.SessionOut));
        app.MapDelete("/v1/sessions/{id}", async (HttpContext context) =>
        {
            Guid id = (await FindAsync(context, store)).Id;
            await client.OpenSession(id).CloseAsync();
            await WireJson.WriteAsync(context.Response, new SessionDeleted(id, "session.deleted", true), WireJson.Shared.SessionDeleted);
        });
    }

    private static async Task<SessionInfo> FindAsync(HttpContext context, SessionStore store)
    {
        string key = (string)context.Request.RouteValues["id"]!;
        return await store.FindAsync(RequestReader.SessionOf("session", key))
            ?? throw new ApiException(new ApiError(StatusCodes.Status404NotFound, "there is no such session; GET /v1/sessions lists those that are kept", Param: "id", Code: "session_not_found"));
    }

    private static int? Number(HttpRequest request, string name)
    {
        string text = request.Query[name].ToString();
        if (text.Length == 0) return null;
        return int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int value) && value is >= 1 and <= Most
            ? value
            : throw new ApiException(ApiError.Wrong(name, $"{name} must be between 1 and {Most}"));
    }

    private static async Task<SessionOut> OutAsync(Task<SessionSight> looking)
    {
        (SessionInfo s, string? user, int? memory, int? disk) = await looking;
        return new(s.Id, "session", s.Model, Named(user), s.Tokens, s.Created.ToUnixTimeSeconds(), s.Used.ToUnixTimeSeconds(), new SessionTurnOut(s.Turn, s.Over), memory is null ? null : new SessionKvOut(memory.Value, disk ?? 0));
    }

    /// <summary>Who is fairly served is not always somebody with a name (<see cref="RequestReader"/>).</summary>
    private static string? Named(string? user) => user is null || user.StartsWith("session:", StringComparison.Ordinal) || user.StartsWith("request:", StringComparison.Ordinal) ? null
        : user.StartsWith("user:", StringComparison.Ordinal) ? user["user:".Length..] : user;
}
