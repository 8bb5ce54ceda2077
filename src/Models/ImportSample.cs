using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// What storing a checkpoint will cost, from some of its rows: few rows in many places, of every matrix of every layer, quantised as the import would. All rows where the
/// checkpoint is small. Bounded by <see cref="Numbers"/> whatever the checkpoint's size, so that it takes seconds. One thread, as an import's.
/// </summary>
internal static class ImportSample
{
    /// <summary>Numbers that are quantised, about.</summary>
    private const long Numbers = 8 << 20;
    /// <summary>Rows that are read together.</summary>
    private const int Piece = 4;
    /// <summary>Rows that are columns in the file cost a read of every row there: no more matrices of them than this.</summary>
    private const int MostTurned = 8;

    /// <summary>Unit: of what is stored in slabs, turned, the neurons that they are cut from; else 0.</summary>
    private readonly record struct Matrix(string Kind, string Tensor, int First, int Rows, int Cols, WeightFormat Format, int Unit = 0);

    /// <summary>The error of each kind, and which share of the numbers that change at all was looked at (1: all of them).</summary>
    public static (IReadOnlyList<QuantizationError> Errors, double Share) Measure(Checkpoint checkpoint, WeightFormats formats, CancellationToken cancel, long numbers = Numbers)
    {
        var store = new RowStore(checkpoint.Path);
        Matrix[] all = [.. Matrices(checkpoint, formats)];
        bool[] kept = [.. all.Select(m => m.Unit > 0 ? checkpoint.KeptInSlabs(m.Tensor, m.Unit) == m.Format : ImportFormats.IsKept(checkpoint.Nearest(m.Tensor, m.First, m.Rows), m.Format))];
        long total = all.Where((_, i) => !kept[i]).Sum(static m => (long)m.Rows * m.Cols), seen = 0;
        double share = total == 0 ? 1 : Math.Min(1, (double)numbers / total);
        int turned = all.Count(m => checkpoint.IsTurned(m.Tensor)), at = 0;
        for (int i = 0; i < all.Length; i++)
        {
            // Of many turned ones those that are spread evenly.
            bool takes = !checkpoint.IsTurned(all[i].Tensor) || share == 1 || (at + 1) * MostTurned / turned > at++ * MostTurned / turned;
            if (kept[i]) store.Add(all[i].Kind, default);
            else if (takes) seen += all[i].Unit > 0 ? StoreSlabs(checkpoint, all[i], share, store, cancel) : Store(checkpoint, all[i], share, store, cancel);
        }
        return (store.Errors, total == 0 ? 1 : (double)seen / total);
    }

    /// <summary>Pieces in the middle of equal stretches of the matrix, at least one; returns the numbers looked at.</summary>
    private static long Store(Checkpoint checkpoint, Matrix m, double share, RowStore store, CancellationToken cancel)
    {
        int piece = Math.Min(m.Rows, share < 1 ? Piece : Math.Max(Piece, (1 << 20) / m.Cols)), stretches = (m.Rows + piece - 1) / piece;
        int take = Math.Clamp((int)Math.Round(stretches * share), 1, stretches);
        // Neighbouring columns share their reads.
        if (share < 1 && checkpoint.IsTurned(m.Tensor)) (piece, stretches, take) = (Math.Min(m.Rows, take * piece), Math.Max(1, m.Rows / (take * piece)), 1);
        int stride = WeightLayout.RowBytes(m.Format, m.Cols);
        float[] block = new float[piece * m.Cols];
        byte[] stored = new byte[piece * stride];
        long seen = 0;
        for (int k = 0; k < take; k++)
        {
            cancel.ThrowIfCancellationRequested();
            int first = (int)((k + 0.5) * stretches / take) * piece, count = Math.Min(piece, m.Rows - first);
            checkpoint.ReadRows(m.Tensor, m.First + first, count, block.AsSpan(0, count * m.Cols));
            store.Add(m.Kind, store.Store(m.Format, m.Kind, m.First + first, block, count, m.Cols, stored, stride, 0));
            seen += (long)count * m.Cols;
        }
        return seen;
    }

    /// <summary>The same for down in slabs, the first of each stretch.</summary>
    private static long StoreSlabs(Checkpoint checkpoint, Matrix m, double share, RowStore store, CancellationToken cancel)
    {
        const int most = BundleLayout.SlabNeurons;
        int each = BundleLayout.SlabsOf(m.Unit), slabs = m.Rows / m.Unit * each, take = Math.Clamp((int)Math.Round(slabs * share), 1, slabs), stride = WeightLayout.RowBytes(m.Format, most);
        float[] block = new float[most * m.Cols], turned = new float[m.Cols * most];
        byte[] stored = new byte[m.Cols * stride];
        long seen = 0;
        for (int k = 0; k < take; k++)
        {
            cancel.ThrowIfCancellationRequested();
            int slab = (int)((long)k * slabs / take), j = slab % each * most, n = Math.Min(most, m.Unit - j);
            checkpoint.ReadRows(m.Tensor, slab / each * m.Unit + j, n, block.AsSpan(0, n * m.Cols));
            Importer.Turn(block, n, m.Cols, turned);
            store.Add(m.Kind, store.Store(m.Format, m.Kind, 0, turned, m.Cols, most, stored, stride, 0));
            seen += (long)n * m.Cols;
        }
        return seen;
    }

    /// <summary>Every matrix of the package, in the order in which an import writes them.</summary>
    private static IEnumerable<Matrix> Matrices(Checkpoint checkpoint, WeightFormats formats)
    {
        ModelConfig c = checkpoint.Config;
        foreach (string matrix in (string[])["embed", "project_in", "project_out", "head"])
            if (checkpoint.Has(matrix)) yield return Whole(matrix, matrix, formats.Of(matrix));
        for (int i = 0; i < c.Layers; i++)
        {
            string prefix = $"layers.{i}.", qkv = prefix + "attn.qkv";
            int values = PackageLayout.ValuesApart(c, formats, i) ? c.ValueRows : 0;
            yield return new Matrix("attn.qkv", qkv, 0, c.ProjectedRows - values, c.HiddenSize, formats.Of(i, "attn.qkv"));
            if (values > 0) yield return new Matrix("attn.v", qkv, c.QkvRows - values, values, c.HiddenSize, formats.Of(i, "attn.v"));
            yield return Whole("attn.o", prefix + "attn.o", formats.Of(i, "attn.o"));
            if (c.ExpertsOf(i) is { } e) yield return Whole(e.RouterSection, prefix + e.RouterSection, PackageLayout.RouterFormat(formats));
            foreach (string matrix in PackageLayout.FittedMatrices)
                if (checkpoint.Has(prefix + matrix)) yield return Whole(matrix, prefix + matrix, PackageLayout.Fitting(formats.Of(i, matrix), checkpoint.Shape(prefix + matrix).Cols));
            foreach (string matrix in (string[])["ffn.up", "ffn.down", "ffn.gate"])
                if (checkpoint.Has(prefix + matrix)) yield return matrix == "ffn.down" && !c.HasSelector(i) ? Slabs(i, prefix + matrix) : Whole(matrix, prefix + matrix, formats.Of(i, matrix));
        }

        Matrix Slabs(int layer, string tensor) =>
            Whole("ffn.down", tensor, BundleLayout.DownOf(formats.Of(layer, "ffn.down"))) with { Unit = c.ExpertsOf(layer)?.Size ?? c.NeuronsOf(layer) };

        Matrix Whole(string kind, string tensor, WeightFormat format)
        {
            (int rows, int cols) = checkpoint.Shape(tensor);
            return new Matrix(kind, tensor, 0, rows, cols, format);
        }
    }
}
