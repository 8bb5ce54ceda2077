using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// Queries, keys and values that come from latents: they are made whole before they are stored, so that attention, its cache and what shares it know nothing of latents (docs/adr/0026-latent-attention.md).
/// </summary>
internal sealed unsafe partial class LayerStep
{
    private float* _projected, _latent, _keyParts;
    private byte* _latentQ;

    /// <summary>Fills q, k and v of every row, not yet rotated.</summary>
    private void Expand(LatentConfig latent, float* input)
    {
        var c = _layer.Config;
        var w = _layer.Weights!;
        var l = w.Latent;
        int width = c.ProjectedRows, queries = c.Heads * c.HeadDim, kv = width - latent.RopeDim - latent.KvRank;
        Multiply(w.QkvFormat, w.Qkv, width, c.HiddenSize, input, _q, _rows, _projected, null);
        if (latent.QueryRank > 0)
        {
            NormaliseLatents(0, latent.QueryRank, l.QueryNorm, latent.NormEps);
            Multiply(l.QueriesFormat, l.Queries, queries, latent.QueryRank, _latent, _latentQ, _rows, _qkv, null, c.QkvRows);
        }
        else
        {
            for (int r = 0; r < _rows; r++) Buffer.MemoryCopy(_projected + (long)r * width, _qkv + (long)r * c.QkvRows, queries * 4, queries * 4);
        }
        NormaliseLatents(kv, latent.KvRank, l.Norm, latent.NormEps);
        int own = c.HeadDim - latent.RopeDim;
        Multiply(l.KeysFormat, l.Keys, c.Heads * own, latent.KvRank, _latent, _latentQ, _rows, _keyParts, null);
        Multiply(l.ValuesFormat, l.Values, c.ValueRows, latent.KvRank, _latent, _latentQ, _rows, _qkv + queries + c.KvHeads * c.HeadDim, null, c.QkvRows);
        // Each half of a head: its half of the rotated part, then its half of the rest.
        int rotated = latent.RopeDim / 2 * 4, rest = own / 2 * 4;
        for (int r = 0; r < _rows; r++)
        {
            float* shared = _projected + (long)r * width + kv + latent.KvRank, part = _keyParts + (long)r * c.Heads * own, k = _qkv + (long)r * c.QkvRows + queries;
            for (int half = 0; half < 2 * c.Heads; half++, k += c.HeadDim / 2, part += own / 2)
            {
                Buffer.MemoryCopy(shared + (half & 1) * (latent.RopeDim / 2), k, rotated, rotated);
                Buffer.MemoryCopy(part, k + latent.RopeDim / 2, rest, rest);
            }
        }
    }

    /// <summary>Latents of all rows, behind each other, from where they lie in what the input was multiplied to.</summary>
    private void NormaliseLatents(int at, int rank, float* norm, float eps)
    {
        for (int r = 0; r < _rows; r++) kernels.RmsNorm(_projected + (long)r * _layer.Config.ProjectedRows + at, norm, rank, eps, _latent + (long)r * rank);
    }
}
