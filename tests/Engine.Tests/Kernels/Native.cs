using System.Runtime.InteropServices;
using CsCheck;
using FlashOrleans.Flash;

namespace FlashOrleans.Engine.Tests;

/// <summary>Native bytes at a chosen offset from a 64-byte boundary, with sentinels on both sides: a kernel that writes where it should not changes them.</summary>
internal sealed unsafe class Native : IDisposable
{
    private const int Fence = 128;
    private readonly byte* _start;
    private readonly int _total;

    public Native(int bytes, int offset)
    {
        Bytes = bytes;
        _total = Fence + offset + bytes + Fence;
        _start = (byte*)NativeMemory.AlignedAlloc((nuint)_total, 64);
        new Span<byte>(_start, _total).Fill(0xA5);
        Pointer = _start + Fence + offset;
    }

    public static Native Of<T>(ReadOnlySpan<T> values, int offset) where T : unmanaged
    {
        ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes(values);
        Native native = new(bytes.Length, offset);
        bytes.CopyTo(new Span<byte>(native.Pointer, bytes.Length));
        return native;
    }

    public byte* Pointer { get; }

    public int Bytes { get; }

    public float* Floats => (float*)Pointer;

    public ReadOnlySpan<float> AsFloats => new(Pointer, Bytes / 4);

    /// <summary>Everything, fences included, is the same in both.</summary>
    public bool Same(Native other) => new Span<byte>(_start, _total).SequenceEqual(new Span<byte>(other._start, other._total));

    public void Dispose() => NativeMemory.AlignedFree(_start);
}

/// <summary>Kinds of numbers a kernel must survive.</summary>
public enum Kind
{
    Ordinary,
    Extreme,
    Zero,
    Tiny,
    Huge,
}

/// <summary>Stored rows, panels and activations of every kind, made byte by byte so that values no quantiser would choose occur too.</summary>
internal static unsafe class Made
{
    public static readonly Kind[] Kinds = Enum.GetValues<Kind>();

    public static readonly Gen<Kind> AnyKind = Gen.Int[0, 4].Select(static i => (Kind)i);

    public static float[] Floats(int n, Kind kind, int seed)
    {
        Random random = new(seed);
        float[] values = Numbers.Normal(n, seed, 1);
        for (int i = 0; i < n; i++)
            values[i] = kind switch
            {
                Kind.Ordinary => values[i],
                Kind.Extreme => random.Next(2) == 0 ? 1f : -1f,
                Kind.Zero => random.Next(2) == 0 ? 0f : -0f,
                Kind.Tiny => values[i] * (random.Next(2) == 0 ? 1e-30f : 1e-41f),
                _ => values[i] * 1e16f,
            };
        return values;
    }

    public static byte[] Row(WeightFormat format, int cols, Kind kind, int seed)
    {
        byte[] row = new byte[WeightLayout.RowBytes(format, cols)];
        float[] values = Floats(cols, kind, seed);
        Random random = new(seed + 1);
        switch (format)
        {
            case WeightFormat.F32:
                MemoryMarshal.AsBytes(values.AsSpan()).CopyTo(row);
                return row;
            case WeightFormat.BF16:
                Span<ushort> narrow = MemoryMarshal.Cast<byte, ushort>(row.AsSpan());
                for (int k = 0; k < cols; k++) narrow[k] = FloatMath.ToBFloat16(values[k]);
                return row;
        }
        int integers = WeightLayout.IntegerBytes(format, cols);
        random.NextBytes(row);
        for (int i = 0; i < integers; i++)
            row[i] = kind switch
            {
                Kind.Extreme when format == WeightFormat.Q8 => (byte)(sbyte)(random.Next(2) == 0 ? 127 : -128),
                Kind.Extreme => random.Next(2) == 0 ? (byte)0 : (byte)0xFF,
                Kind.Zero => format == WeightFormat.Q4 ? (byte)0x88 : (byte)0,
                _ => row[i],
            };
        int end = integers + cols / WeightLayout.Block * WeightLayout.ParameterBytes(format);
        Span<ushort> halves = MemoryMarshal.Cast<byte, ushort>(row.AsSpan(integers, end - integers));
        for (int h = 0; h < halves.Length; h++)
            // q4k: d and dmin only; the 6-bit numbers are any (of the extreme kind all 0 or all 63).
            if (format != WeightFormat.Q4K || h % 8 < 2)
                halves[h] = BitConverter.HalfToUInt16Bits((Half)(kind switch
                {
                    Kind.Tiny => (random.NextDouble() - 0.5) * 1e-5,
                    Kind.Huge => (random.NextDouble() - 0.5) * 130000,
                    _ => (random.NextDouble() - 0.5) * 0.1,
                }));
            else if (kind == Kind.Extreme) halves[h] = h % 4 < 2 ? (ushort)0xFFFF : (ushort)0;
        row.AsSpan(end).Clear();
        return row;
    }

    public static byte[] Panels(WeightFormat format, int rows, int cols, Kind kind, int seed)
    {
        int rowBytes = WeightLayout.RowBytes(format, cols), panelBytes = WeightLayout.PanelBytes(format, cols);
        byte[] panels = new byte[WeightLayout.MatrixBytes(format, rows, cols)];
        for (int p = 0; p < WeightLayout.Panels(rows); p++)
        {
            int count = Math.Min(16, rows - 16 * p);
            byte[] woven = new byte[count * rowBytes];
            for (int r = 0; r < count; r++) Row(format, cols, kind, seed + (16 * p + r) * 7).CopyTo(woven, r * rowBytes);
            Panel.Pack(format, woven, count, cols, panels.AsSpan(p * panelBytes));
        }
        return panels;
    }

    /// <summary>An activation row as the format's kernels want it: floats, or quantised by the scalar kernel (of the extreme kind: every integer ±127).</summary>
    public static byte[] Activation(WeightFormat format, int cols, Kind kind, int seed)
    {
        float[] x = Floats(cols, kind, seed);
        if (!WeightLayout.IsQuantized(format)) return MemoryMarshal.AsBytes(x.AsSpan()).ToArray();
        byte[] quantized = new byte[Kernels.QuantizedBytes(cols)];
        fixed (float* px = x)
        fixed (byte* pq = quantized)
            Kernels.Choose("scalar").QuantizeRow(px, cols, pq);
        return quantized;
    }
}
