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

    /// <summary>1 / (1 + e^-x).</summary>
    public static float Sigmoid(float x) => 1f / (1f + FloatMath.Exp(-x));

    /// <summary>
    /// The router's choice: of <paramref name="e"/>.Count logits become scores, of those the Active largest (the lower id among equals; <paramref name="choiceBias"/>, where there is one, added for
    /// the choice alone) weights, the others 0 (<see cref="ExpertConfig"/>).
    /// </summary>
    public static void ChooseExperts(ExpertConfig e, float* logits, float* choiceBias)
    {
        Span<float> all = new(logits, e.Count);
        // What scores are yet to be divided by.
        float sum = e.Score == RouterScore.Softmax ? Exponentials(all) : 1;
        for (int i = 0; i < e.Count && e.Score == RouterScore.Sigmoid; i++) all[i] = Sigmoid(all[i]);
        Span<bool> isChosen = e.Count <= 1024 ? stackalloc bool[e.Count] : new bool[e.Count];
        Span<bool> isOpen = e.Groups <= 256 ? stackalloc bool[e.Groups] : new bool[e.Groups];
        if (e.Groups > 0) OpenGroups(e, all, sum, choiceBias, isOpen);
        for (int k = 0; k < e.Active; k++)
        {
            int best = -1;
            float most = 0;
            for (int i = 0; i < e.Count; i++)
            {
                if (isChosen[i] || (e.Groups > 0 && !isOpen[i / (e.Count / e.Groups)])) continue;
                float value = ChoiceScore(all, sum, choiceBias, i);
                if (best < 0 || value > most) (best, most) = (i, value);
            }
            isChosen[best] = true;
        }
        float chosen = 0, scale = e.Scale ?? 1;
        // Summed in ascending order of ids, whatever the order of choice.
        for (int i = 0; i < e.Count; i++) chosen += isChosen[i] ? all[i] : 0;
        float total = e.Normalised ? MathF.Max(chosen + e.SumEps * sum, e.SumFloor * sum) : sum;
        for (int i = 0; i < e.Count; i++) all[i] = isChosen[i] ? all[i] / total * scale : 0;
    }

    private static float ChoiceScore(ReadOnlySpan<float> scores, float sum, float* choiceBias, int i) => choiceBias == null ? scores[i] : scores[i] / sum + choiceBias[i];

    /// <summary>The groups whose best experts have the largest scores together: the lower one among equals.</summary>
    private static void OpenGroups(ExpertConfig e, ReadOnlySpan<float> scores, float sum, float* choiceBias, Span<bool> isOpen)
    {
        int size = e.Count / e.Groups;
        for (int k = 0; k < e.UsedGroups; k++)
        {
            int best = -1;
            float most = 0;
            for (int g = 0; g < e.Groups; g++)
            {
                if (isOpen[g]) continue;
                float worth = GroupWorth(e, scores, sum, choiceBias, g * size, size);
                if (best < 0 || worth > most) (best, most) = (g, worth);
            }
            isOpen[best] = true;
        }
    }

    /// <summary>The sum of the largest scores from <paramref name="first"/> on, the largest first: of which experts they are does not matter.</summary>
    private static float GroupWorth(ExpertConfig e, ReadOnlySpan<float> scores, float sum, float* choiceBias, int first, int size)
    {
        float worth = 0, last = float.PositiveInfinity;
        for (int taken = 0; taken < e.GroupBest;)
        {
            // The next lower score, as often as it is there.
            float next = float.NegativeInfinity;
            int times = 0;
            for (int i = first; i < first + size; i++)
            {
                float score = ChoiceScore(scores, sum, choiceBias, i);
                if (!(score < last) || score < next) continue;
                times = score > next ? 1 : times + 1;
                next = score;
            }
            if (times == 0) break;
            for (; times > 0 && taken < e.GroupBest; times--, taken++) worth += next;
            last = next;
        }
        return worth;
    }

    /// <summary>e^(x - the largest), and their sum.</summary>
    private static float Exponentials(Span<float> x)
    {
        float max = float.NegativeInfinity, sum = 0;
        foreach (float l in x) max = l > max ? l : max;
        for (int i = 0; i < x.Length; i++) sum += x[i] = FloatMath.Exp(x[i] - max);
        return sum;
    }
}
