namespace FlashOrleans.Engine;

/// <summary>
/// What a layer does with what it produced: the one seam between the engine and its surroundings. Implementations: grains
/// (an outbox per layer grain), <c>DirectRouter</c> (the engine alone, the oracle and the ablation that measures Orleans), and the way out of <see cref="LayerByLayer"/>.
/// All calls come from the conductor thread and must only enqueue.
/// </summary>
public interface ILayerRouter
{
    /// <summary>The output wave of a step; ownership passes.</summary>
    void Forward(Wave wave);
    /// <summary>A wave of these slots, or of some of them, will come when it is computed. <see cref="Forward"/> or <see cref="Withdraw"/> follows. The span is only valid during the call.</summary>
    void Announce(ReadOnlySpan<Slot> slots) { }
    /// <summary>What was announced does not come.</summary>
    void Withdraw() { }
    /// <summary>The last layer only.</summary>
    void Complete(in StepResult result);
    void Fault(in SlotFault fault);
    /// <summary>The layer that comes next if it lives in this host, for look-ahead; else null.</summary>
    Layer? Next { get; }
    /// <summary>Predicted units of <see cref="Next"/>, ascending. The span is only valid during the call.</summary>
    void Hint(ReadOnlySpan<int> units);
    /// <summary>Predicted units of the layer itself: of the first one, which none comes before. The span is only valid during the call.</summary>
    void HintOwn(ReadOnlySpan<int> units) { }
    /// <summary>Hidden rows entering this layer, for a next layer on another silo; rows x width. Only when <see cref="Next"/> is null and <see cref="WantsRows"/>.</summary>
    void HintRows(ReadOnlySpan<float> rows, int count, int width);
    bool WantsRows { get; }
}
