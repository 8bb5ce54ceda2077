using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Stands before a reader: notices a unit that is read twice at the same time, and makes reads of one unit fail. Any thread.</summary>
internal sealed class ReaderTwin(IFlashReader inner) : IFlashReader, IReadCompletion
{
    private readonly HashSet<(UnitRegion, int)> _reading = [];

    /// <summary>Units that were asked for while they were being read.</summary>
    public List<int> Overlaps { get; } = [];
    public int DemandUnits { get; private set; }
    public int PrefetchUnits { get; private set; }
    public int Promotions { get; private set; }
    /// <summary>Units that cannot be read.</summary>
    public Func<UnitRegion, int, bool>? Broken { get; set; }
    /// <summary>That were asked for.</summary>
    public int Refused { get; private set; }
    public ReaderStats Stats => inner.Stats;

    public bool TrySubmit(ReadRequest request)
    {
        lock (_reading)
        {
            var completion = request.Completion;
            request.State = completion;
            request.Completion = this;
            if (!inner.TrySubmit(request))
            {
                request.Completion = completion;
                return false;
            }
            // What completes meanwhile waits for this lock.
            for (int i = 0; i < request.Count; i++)
            {
                if (!_reading.Add((request.Region, request.Units[i]))) Overlaps.Add(request.Units[i]);
            }
            if (request.Class == ReadClass.Demand) DemandUnits += request.Count;
            else PrefetchUnits += request.Count;
            return true;
        }
    }

    public void Promote(ReadRequest request)
    {
        lock (_reading) Promotions++;
        inner.Promote(request);
    }

    public bool TryTakeBack(ReadRequest request)
    {
        lock (_reading)
        {
            if (!inner.TryTakeBack(request)) return false;
            for (int i = 0; i < request.Count; i++) _reading.Remove((request.Region, request.Units[i]));
            return true;
        }
    }

    public void Completed(ReadRequest request)
    {
        lock (_reading)
        {
            for (int i = 0; i < request.Count; i++)
            {
                _reading.Remove((request.Region, request.Units[i]));
                if (Broken?.Invoke(request.Region, request.Units[i]) != true) continue;
                Refused++;
                request.Faults[i] = ReadFault.Io;
                request.Error = $"{request.Region.File.Name}: unit {request.Units[i]} is broken by the test";
            }
        }
        ((IReadCompletion)request.State!).Completed(request);
    }
}
