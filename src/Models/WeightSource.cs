using FlashOrleans.Flash;
using FlashOrleans.Models.Text;

namespace FlashOrleans.Models;

/// <summary>
/// The tensors of a checkpoint by their names there, as floats, whatever file they are in. Each is seen as a matrix of rows as long as its last dimension. Any
/// thread; what is wrong with a file is a <see cref="ModelFormatException"/>.
/// </summary>
internal abstract class WeightSource : IDisposable
{
    /// <summary>The file, or the index, that says which tensors there are: for error messages.</summary>
    public abstract string Name { get; }
    public abstract IReadOnlyList<string> Paths { get; }
    public abstract long Bytes { get; }
    /// <summary>The tokenizer that comes with the weights, or null.</summary>
    public virtual VocabularySource? Vocabulary => null;
    /// <summary>Of random weights the seed; null: the weights are a model's.</summary>
    public virtual ulong? SyntheticSeed => null;

    public abstract bool Has(string tensor);
    /// <summary>Outermost dimension first.</summary>
    public abstract IReadOnlyList<long> Shape(string tensor);
    /// <summary>The file a tensor is in.</summary>
    public abstract string PathOf(string tensor);
    /// <summary>Refuses a tensor whose numbers cannot be weights.</summary>
    public abstract void DemandWeights(string tensor);

    public abstract void ReadRows(string tensor, long firstRow, int count, Span<float> destination);

    /// <summary>A rectangle: rows [firstRow, firstRow + rows) x columns [firstCol, firstCol + cols), row after row.</summary>
    public abstract void ReadBlock(string tensor, long firstRow, int rows, long firstCol, int cols, Span<float> destination);

    /// <summary>The package's format that is nearest to how a tensor's rows are stored, and whether it holds them without loss.</summary>
    public abstract (WeightFormat Format, bool Lossless) Nearest(string tensor);

    /// <summary>A row in the package's format, without a detour through floats; only where <see cref="Nearest"/> says that it is lossless.</summary>
    public abstract void ReadStored(string tensor, long row, WeightFormat format, Span<byte> destination);

    /// <summary>The tensor will be read in small pieces, before another one is: a source may keep it in memory meanwhile, if it is not too large.</summary>
    public virtual void Hold(string tensor, CancellationToken cancel) { }

    public abstract void Dispose();
}
