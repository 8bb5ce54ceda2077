using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>What the forward pass is made of: products, norms, rotation, softmax, the error function.</summary>
public sealed partial class ReferenceModel
{
    /// <summary>y = W x + b; W is (rows, x.Length).</summary>
    private static float[] MatVec(float[] w, float[]? b, float[] x, int rows)
    {
        float[] y = new float[rows];
        for (int r = 0; r < rows; r++) y[r] = b != null ? Dot(w, r, x) + b[r] : Dot(w, r, x);
        return y;
    }

    private static float Dot(float[] w, int row, float[] x)
    {
        ReadOnlySpan<float> r = w.AsSpan(row * x.Length, x.Length);
        float sum = 0;
        for (int j = 0; j < r.Length; j++) sum += r[j] * x[j];
        return sum;
    }

    private static void AddNeuron(float[] y, float a, float[] down, int i)
    {
        for (int j = 0; j < y.Length; j++) y[j] += a * down[i * y.Length + j];
    }

    private float[] Norm(float[] x, NormWeights w) => Norm(x, w, Config.NormEps);

    private float[] Norm(float[] x, NormWeights w, float eps)
    {
        int d = x.Length;
        float mean = 0, square = 0;
        if (Config.Norm == NormKind.Layer)
        {
            for (int j = 0; j < d; j++) mean += x[j];
            mean /= d;
        }
        for (int j = 0; j < d; j++) square += (x[j] - mean) * (x[j] - mean);
        float inverse = 1f / MathF.Sqrt(square / d + eps);
        float[] y = new float[d];
        for (int j = 0; j < d; j++) y[j] = (x[j] - mean) * inverse * w.Weight[j] + (w.Bias != null ? w.Bias[j] : 0);
        return y;
    }

    /// <summary>The same norm for every run of numbers as long as its weights: each head, or all of them.</summary>
    private float[] NormRuns(float[] x, NormWeights w)
    {
        int n = w.Weight.Length;
        return [.. Enumerable.Range(0, x.Length / n).SelectMany(r => Norm(x[(r * n)..((r + 1) * n)], w))];
    }

    /// <summary>Rotary positions: within each head number j and number j + headDim/2 are turned as a pair.</summary>
    private void Rotate(float[] x, int heads, int pos, float[] frequencies, float factor)
    {
        int hd = Config.HeadDim, half = hd / 2;
        for (int j = 0; j < half; j++)
        {
            if (frequencies[j] == 0) continue;                                       // beyond the rotated part
            float angle = pos * frequencies[j];
            float cos = MathF.Cos(angle) * factor, sin = MathF.Sin(angle) * factor;
            for (int h = 0; h < heads; h++)
            {
                float a = x[h * hd + j], b = x[h * hd + j + half];
                x[h * hd + j] = a * cos - b * sin;
                x[h * hd + j + half] = b * cos + a * sin;
            }
        }
    }

    /// <summary>Shares of the scores; a sink takes part and is left out.</summary>
    private static void Softmax(float[] p, float? sink = null)
    {
        float max = sink ?? float.NegativeInfinity;
        foreach (float s in p) max = MathF.Max(max, s);
        float sum = sink is { } extra ? Exp(extra - max) : 0;
        for (int t = 0; t < p.Length; t++) sum += p[t] = Exp(p[t] - max);
        for (int t = 0; t < p.Length; t++) p[t] /= sum;
    }

    private static float Exp(float x) => (float)Math.Exp(x);

    private static float Sigmoid(float x) => 1 / (1 + Exp(-x));

    /// <summary>The error function by its series (small x) or continued fraction (large x), in double.</summary>
    private static float Erf(float x)
    {
        double z = Math.Abs(x);
        if (z > 6) return Math.Sign(x);
        if (z < 2.5)
        {
            double term = z, sum = z;
            for (int n = 1; n < 60; n++) sum += (term *= -z * z / n) / (2 * n + 1);
            return (float)(Math.Sign(x) * 2 / Math.Sqrt(Math.PI) * sum);
        }
        double fraction = 0;
        for (int n = 60; n > 0; n--) fraction = n / 2.0 / (z + fraction);
        return (float)(Math.Sign(x) * (1 - Math.Exp(-z * z) / Math.Sqrt(Math.PI) / (z + fraction)));
    }

    private static void Cap(float[] x, float cap)
    {
        for (int j = 0; j < x.Length && cap != 0; j++) x[j] = cap * MathF.Tanh(x[j] / cap);
    }

    private static void Scale(float[] x, float factor)
    {
        for (int j = 0; j < x.Length && factor != 1; j++) x[j] *= factor;
    }

    private static float[] Row(float[] matrix, int row, int cols) => matrix[(row * cols)..((row + 1) * cols)];

    private static void AddTo(float[] x, float[] y)
    {
        for (int j = 0; j < x.Length; j++) x[j] += y[j];
    }
}
