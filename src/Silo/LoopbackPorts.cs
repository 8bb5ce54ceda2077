using System.Net;
using System.Net.Sockets;

namespace FlashOrleans.Silo;

/// <summary>Free ports of 127.0.0.1, so that several silos live on one machine and in one process.</summary>
internal static class LoopbackPorts
{
    /// <summary>Fills in free ports where 0 was asked for. Both are held at once while they are looked up, so they differ.</summary>
    public static (int Silo, int Gateway) Fill(int silo, int gateway)
    {
        using Socket a = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp), b = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        a.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        b.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return (silo != 0 ? silo : Port(a), gateway != 0 ? gateway : Port(b));
    }

    /// <summary>True when somebody listens there. Orleans listens with address reuse, which on Linux would let two silos share a port and each get half the
    /// connections, so a port that was asked for is tried without it first.</summary>
    public static bool IsListening(int port)
    {
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Bind(new IPEndPoint(IPAddress.Loopback, port));
            socket.Listen(1);
            return false;
        }
        catch (SocketException)
        {
            return true;
        }
    }

    public static bool IsTaken(Exception? error)
    {
        for (; error is not null; error = error.InnerException)
        {
            if (error is SocketException { SocketErrorCode: SocketError.AddressAlreadyInUse } or Microsoft.AspNetCore.Connections.AddressInUseException) return true;
            if (error is AggregateException many && many.InnerExceptions.Any(IsTaken)) return true;
        }
        return false;
    }

    private static int Port(Socket socket) => ((IPEndPoint)socket.LocalEndPoint!).Port;
}
