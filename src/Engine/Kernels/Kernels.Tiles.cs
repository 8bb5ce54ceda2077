using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>The down rows of neurons that lie in tiles (<see cref="BundleLayout.Panels"/>), for few tokens.</summary>
internal abstract unsafe partial class Kernels
{
    /// <summary>
    /// y_t[d] = fma(c_ti, w_i[d], y_t[d]), i ascending, as <see cref="Axpys"/>, for n rows (at most <see cref="ColumnRows"/>) of up to 256 columns; or, where <paramref name="whole"/>, that sum from +0, and
    /// then y_t[d] += sum. Tile k holds rows 16 k … 16 k + 15 one after another. Token t's a_i is a[t * aStride + i], y_t = y + t * yStride. <paramref name="next"/>: as many tiles that will be wanted
    /// next, or null (a hint).
    /// </summary>
    public virtual void Tiles(WeightFormat format, byte** tiles, int n, int columns, float* a, nint aStride, int tokens, float* y, nint yStride, bool whole, byte** next = null)
    {
        byte** rows = stackalloc byte*[ColumnRows];
        float* sum = stackalloc float[BundleLayout.TileColumns];
        int bytes = WeightLayout.RowBytes(format, columns);
        for (int i = 0; i < n; i++) rows[i] = tiles[i / WeightLayout.PanelRows] + i % WeightLayout.PanelRows * bytes;
        for (int t = 0; t < tokens; t++, a += aStride, y += yStride)
        {
            if (whole) new Span<float>(sum, columns).Clear();
            Axpys(format, a, rows, n, columns, whole ? sum : y);
            if (whole) Add(y, sum, columns);
        }
    }
}
