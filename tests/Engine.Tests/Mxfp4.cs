namespace FlashOrleans.Engine.Tests;

/// <summary>Blocks of 32 numbers in four bits each, as GGUF stores them: one scale 2^(e - 127), numbers 0 to 15 in low nibbles, 16 to 31 in high ones.</summary>
internal static class Mxfp4
{
    private static readonly float[] s_values = [0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6];

    public static byte[] Encode(float[] data)
    {
        byte[] bytes = new byte[data.Length / 32 * 17];
        for (int b = 0; b < data.Length / 32; b++)
        {
            ReadOnlySpan<float> block = data.AsSpan(b * 32, 32);
            float most = 0;
            foreach (float x in block) most = MathF.Max(most, MathF.Abs(x));
            int exponent = most == 0 ? 127 : Math.Clamp((int)MathF.Floor(MathF.Log2(most)) - 2 + 127, 1, 254);
            bytes[b * 17] = (byte)exponent;
            for (int i = 0; i < 16; i++) bytes[b * 17 + 1 + i] = (byte)(Nearest(block[i], exponent) | Nearest(block[i + 16], exponent) << 4);
        }
        return bytes;
    }

    public static float[] Decode(byte[] bytes)
    {
        float[] data = new float[bytes.Length / 17 * 32];
        for (int b = 0; b < bytes.Length / 17; b++)
        {
            float scale = MathF.Pow(2, bytes[b * 17] - 127);
            for (int i = 0; i < 32; i++) data[b * 32 + i] = scale * s_values[i < 16 ? bytes[b * 17 + 1 + i] & 15 : bytes[b * 17 + 1 + i - 16] >> 4];
        }
        return data;
    }

    private static int Nearest(float x, int exponent)
    {
        float scaled = x / MathF.Pow(2, exponent - 127);
        return Enumerable.Range(0, 16).MinBy(i => MathF.Abs(s_values[i] - scaled));
    }
}
