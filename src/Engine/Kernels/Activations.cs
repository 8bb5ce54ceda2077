using FlashOrleans.Flash;

namespace FlashOrleans.Engine;

/// <summary>
/// What neurons make of their pre-activations, and the soft caps: scalar, one code for every kernel variant, so that the bits are the same by construction. SiLU of
/// dense models, the one that decode time hangs on, has SIMD twins in <see cref="Kernels.Silu"/>. All functions are built on <see cref="FloatMath.Exp(float)"/>.
/// </summary>
internal static unsafe class Activations
{
    /// <summary>pre_i := act(pre_i), without the part that up plays (<see cref="Combine"/>).</summary>
    public static void Apply(Kernels kernels, ModelConfig c, float* pre, int n)
    {
        switch (c.Activation)
        {
            case Activation.Relu or Activation.DRelu:
                for (int i = 0; i < n; i++) pre[i] = pre[i] > 0 ? pre[i] : 0;
                break;
            case Activation.Relu2:
                for (int i = 0; i < n; i++) pre[i] = pre[i] > 0 ? pre[i] * pre[i] : 0;
                break;
            case Activation.FatRelu:
                for (int i = 0; i < n; i++) pre[i] = pre[i] > c.ActivationParameter ? pre[i] : 0;
                break;
            case Activation.Silu:
                kernels.Silu(pre, n);
                break;
            case Activation.Gelu:
                for (int i = 0; i < n; i++) pre[i] = 0.5f * pre[i] * (1f + Erf(pre[i] * 0.70710678f));
                break;
            case Activation.GeluTanh:
                // (1 + tanh z) / 2 = 1 / (1 + e^-2z)
                for (int i = 0; i < n; i++) pre[i] /= 1f + FloatMath.Exp(-1.5957691f * (pre[i] + 0.044715f * pre[i] * pre[i] * pre[i]));
                break;
            case Activation.ClampedSwiglu:
                for (int i = 0; i < n; i++)
                {
                    float g = MathF.Min(pre[i], c.ActivationParameter);
                    pre[i] = g / (1f + FloatMath.Exp(-1.702f * g));
                }
                break;
        }
    }

    /// <summary>a_i := a_i times what up gives (gated feed-forwards).</summary>
    public static void Combine(ModelConfig c, float* a, float* up, int n)
    {
        switch (c.Activation)
        {
            case Activation.DRelu:
                for (int i = 0; i < n; i++) a[i] *= up[i] > 0 ? up[i] : 0;
                break;
            case Activation.ClampedSwiglu:
                for (int i = 0; i < n; i++) a[i] *= Math.Clamp(up[i], -c.ActivationParameter, c.ActivationParameter) + 1f;
                break;
            default:
                for (int i = 0; i < n; i++) a[i] *= up[i];
                break;
        }
    }

    /// <summary>x_i := cap · tanh(x_i / cap).</summary>
    public static void Softcap(float* x, int n, float cap)
    {
        // tanh z = 1 - 2 / (e^2z + 1)
        for (int i = 0; i < n; i++) x[i] = cap * (1f - 2f / (FloatMath.Exp(2f * (x[i] / cap)) + 1f));
    }

    /// <summary>The error function, 1.5e-7 at worst (Abramowitz and Stegun 7.1.26).</summary>
    public static float Erf(float x)
    {
        float z = MathF.Abs(x), t = 1f / (1f + 0.3275911f * z);
        float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
        float y = 1f - p * FloatMath.Exp(-z * z);
        return x < 0 ? -y : y;
    }

    /// <summary>
    /// The router's choice: of <paramref name="e"/>.Count logits the Active largest (the lower id among equals) become weights, the others 0. Weights are the softmax over
    /// all experts, scaled to sum 1 where <paramref name="e"/>.Normalised.
    /// </summary>
    public static void ChooseExperts(ExpertConfig e, float* logits)
    {
        Span<float> all = new(logits, e.Count);
        float max = float.NegativeInfinity;
        foreach (float l in all) max = l > max ? l : max;
        float sum = 0, chosen = 0;
        for (int i = 0; i < e.Count; i++) sum += all[i] = FloatMath.Exp(all[i] - max);
        Span<bool> isChosen = e.Count <= 1024 ? stackalloc bool[e.Count] : new bool[e.Count];
        for (int k = 0; k < e.Active; k++)
        {
            int best = -1;
            for (int i = 0; i < e.Count; i++)
                if (!isChosen[i] && (best < 0 || all[i] > all[best])) best = i;
            isChosen[best] = true;
        }
        // Summed in ascending order of ids, whatever the order of choice.
        for (int i = 0; i < e.Count; i++) chosen += isChosen[i] ? all[i] : 0;
        float total = e.Normalised ? chosen : sum;
        for (int i = 0; i < e.Count; i++) all[i] = isChosen[i] ? all[i] / total : 0;
    }
}
