using System.Buffers;
using System.Runtime.InteropServices;
using FlashOrleans.Engine;
using FlashOrleans.Flash;

namespace FlashOrleans.Models;

/// <summary>
/// A Hugging Face folder or a GGUF file → a flash package. Rows are read, stored in the package's format and written in blocks of about a MiB, several at a time
/// (<see cref="OrderedBlocks{TScratch}"/>), so that memory does not depend on the size of the model; <c>down_proj</c> is read by columns, out of memory where it is not too large (<see cref="TurnedParts"/>). The thread that calls
/// <see cref="Import"/> waits (never a grain turn). An error or a cancellation leaves nothing behind: a checkpoint at fault is a
/// <see cref="ModelFormatException"/>, a disk at fault a <see cref="FlashException"/>.
/// </summary>
public sealed partial class Importer
{
    /// <summary>Numbers of a block, per matrix: 1 MiB of floats for each worker.</summary>
    private const int BlockNumbers = 1 << 18;

    private readonly Checkpoint _checkpoint;
    private readonly ModelConfig _config;
    private readonly PackageWriter _writer;
    private readonly WeightFormats _formats;
    private readonly RowStore _store;
    private readonly PredictorSource? _predictors;
    private readonly ImportStudy? _study;
    private readonly OrderedBlocks<Block> _blocks = new(static () => new Block());
    private readonly Action<string> _step;
    private readonly CancellationToken _cancel;

    /// <summary>What a worker holds of the block that it makes.</summary>
    private sealed class Block
    {
        public Scratch<float> Numbers { get; } = new();
        public Scratch<float> Turned { get; } = new();
        public Scratch<byte> Stored { get; } = new();
        public Scratch<byte> Panels { get; } = new();
        public List<(string Kind, RowCost Cost)> Costs { get; } = [];
    }

    private Importer(Checkpoint checkpoint, PackageWriter writer, WeightFormats formats, PredictorSource? predictors, ImportStudy? study, RowPreparation? prepare, Action<string> step, CancellationToken cancel)
    {
        _checkpoint = checkpoint;
        _config = checkpoint.Config;
        _writer = writer;
        _formats = formats;
        _store = new RowStore(checkpoint.Path, prepare);
        _predictors = predictors;
        _study = study;
        _step = step;
        _cancel = cancel;
    }

    /// <summary>Imports a checkpoint folder or a GGUF file into the package folder <paramref name="packagePath"/> (…/name.flash), replacing one that is there.</summary>
    public static ImportResult Import(string source, string packagePath, ImportOptions? options = null, IProgress<ImportProgress>? progress = null, CancellationToken cancel = default)
    {
        ThreadRole.AssertNotGrainTurn("importing a model");
        using Checkpoint checkpoint = Checkpoint.Open(source);
        return Import(checkpoint, packagePath, options, progress, cancel);
    }

    /// <summary>Imports a checkpoint that is open already; its owner closes it.</summary>
    internal static ImportResult Import(Checkpoint checkpoint, string packagePath, ImportOptions? options = null, IProgress<ImportProgress>? progress = null, CancellationToken cancel = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(packagePath);
        packagePath = Path.TrimEndingDirectorySeparator(Path.GetFullPath(packagePath));
        // A package is replaced; anything else that lies there is the user's.
        if (File.Exists(packagePath) || (Directory.Exists(packagePath) && !File.Exists(Path.Combine(packagePath, PackageLayout.ManifestPath))))
            throw new ModelFormatException(packagePath, "exists and is not a package; choose another name");
        options ??= new ImportOptions();
        if (options.Activation is { } activation) checkpoint.Override(activation);
        if (options.Lean) checkpoint.TakeLean();
        var notes = new List<string>();
        WeightFormats formats = options.Formats?.Invoke(checkpoint) ?? ImportFormats.Choose(checkpoint, options.Quant, notes);
        using PredictorSource? predictors = options.RandomPredictors is { } random ? PredictorSource.Random(checkpoint.Config, random) : Predictors(checkpoint, options, notes);
        List<(string Name, byte[] Bytes)> sideFiles = ImportSources.SideFiles(checkpoint);
        notes.AddRange(ImportSources.TextNotes(sideFiles));

        string step = "reading";
        string name = options.Name ?? Path.GetFileNameWithoutExtension(packagePath);
        var spec = new PackageSpec
        {
            Name = name,
            Config = checkpoint.Config,
            Format = formats,
            Predictors = predictors?.Config,
            Lean = options.Lean,
            Activity = options.Drawn,
            Routing = options.Routing,
            Provenance = ImportSources.Origin(checkpoint, []),
        };
        ImportStudy? study = null;
        if (ImportStudy.IsNeeded(options, predictors))
        {
            ImportStudy.Demand(checkpoint, options);
            study = Study(checkpoint, packagePath, spec, formats, predictors, sideFiles, options, notes, s => progress?.Report(new ImportProgress(s, 0, 0)), cancel);
            spec = spec with { Predictors = predictors?.Config, Permutation = options.Order };
        }
        using PackageWriter writer = PackageWriter.Create(packagePath, spec,
            progress == null ? null : (done, total) => progress.Report(new ImportProgress(step, done, total)), cancel);
        using var hashing = new BackgroundWork<IReadOnlyList<SourceFile>>(stop => ImportSources.Checksums(checkpoint, predictors, stop), cancel);
        var importer = new Importer(checkpoint, writer, formats, predictors, study, options.Prepare, s => step = s, cancel);
        importer.WriteEdge();
        for (int i = 0; i < checkpoint.Config.Layers; i++) importer.WriteSlice(i);
        foreach ((string file, byte[] bytes) in sideFiles) writer.AddSideFile(file, bytes);
        // Random weights have nothing to measure.
        if (options.Measure && checkpoint.SyntheticSeed == null)
        {
            using FlashPackage written = writer.Open();
            (writer.Measured, string? note) = Calibration.Run(written, s => progress?.Report(new ImportProgress(s, 0, 0)), cancel);
            if (note != null) notes.Add(note);
        }
        progress?.Report(new ImportProgress("checksums", 0, 0));
        writer.Provenance = ImportSources.Origin(checkpoint, hashing.Result);
        step = "done";
        string hash = writer.Complete();
        return new ImportResult
        {
            Path = packagePath,
            Name = name,
            Hash = hash,
            Config = checkpoint.Config,
            Formats = formats,
            Predictors = predictors?.Config,
            Lean = options.Lean,
            SourceBytes = checkpoint.Bytes,
            Bytes = Directory.EnumerateFiles(packagePath, "*", SearchOption.AllDirectories).Sum(f => new FileInfo(f).Length),
            Errors = importer._store.Errors,
            Measured = writer.Measured,
            Notes = notes,
        };
    }

    /// <summary>
    /// The model is written once as it is, for a while, and run on a text: where its neurons go and which of them a predictor should choose is known only then. Costs the time and the room of
    /// a second package.
    /// </summary>
    private static ImportStudy Study(Checkpoint checkpoint, string packagePath, PackageSpec spec, WeightFormats formats, PredictorSource? predictors, List<(string Name, byte[] Bytes)> sideFiles,
        ImportOptions options, List<string> notes, Action<string> step, CancellationToken cancel)
    {
        using PackageWriter writer = PackageWriter.Create(packagePath, spec with { Predictors = null }, cancel: cancel);
        var importer = new Importer(checkpoint, writer, formats, null, null, options.Prepare, s => step($"for the study, {s}"), cancel);
        importer.WriteEdge();
        for (int i = 0; i < checkpoint.Config.Layers; i++) importer.WriteSlice(i);
        foreach ((string file, byte[] bytes) in sideFiles) writer.AddSideFile(file, bytes);
        using FlashPackage plain = writer.Open();
        return ImportStudy.Run(checkpoint, plain, formats, predictors, options, notes, step, cancel);
    }

    /// <summary>The predictors that are asked for, or that the file brings. Whoever goes by predictors reads whole bundles: lean ones have none.</summary>
    private static PredictorSource? Predictors(Checkpoint checkpoint, ImportOptions options, List<string> notes)
    {
        if (!options.Lean) return PredictorSource.Open(checkpoint, options.Predictors, notes);
        if (options.Predictors != null) throw new ModelFormatException(checkpoint.Path, "mode predicted needs whole bundles: import it without --bundles lean, or without --predictors");
        if (PredictorSource.IsIn(checkpoint)) notes.Add("the predictors in the file are left out: mode predicted needs whole bundles");
        return null;
    }

    /// <summary>The model in lean bundles, for which a copy of what they lack stays in memory; refuses what cannot have one. Experts are then chosen by their router and read by neuron.</summary>
    internal static ModelConfig LeanOf(string path, ModelConfig c)
    {
        string? why = !c.IsSparse ? $"activation {c.Activation} has no exact zeros" : c.Experts is not { } e ? null
            : c.Activation != Activation.Relu || !c.Gated ? $"its experts have no gates of activation {Activation.Relu}"
            : e.Size % WeightLayout.PanelRows != 0 ? $"its experts have {e.Size} neurons, no multiple of {WeightLayout.PanelRows}" : null;
        if (why != null) throw new ModelFormatException(path, $"lean bundles lack the rows that decide which neurons of a ReLU model are not zero; this is none ({why}): leave out --bundles lean");
        return c with { Experts = c.Experts is { } experts ? experts with { ByNeuron = true } : null };
    }

    /// <summary>What an import would write, and what that would lose, without writing.</summary>
    public static ImportPlan Plan(string source, ImportOptions? options = null, CancellationToken cancel = default)
    {
        options ??= new ImportOptions();
        using Checkpoint checkpoint = Checkpoint.Open(source);
        if (options.Activation is { } activation) checkpoint.Override(activation);
        if (options.Lean) checkpoint.TakeLean();
        var notes = new List<string>();
        WeightFormats formats = ImportFormats.Choose(checkpoint, options.Quant, notes);
        using PredictorSource? predictors = Predictors(checkpoint, options, notes);
        notes.AddRange(ImportSources.TextNotes(ImportSources.SideFiles(checkpoint)));
        (IReadOnlyList<QuantizationError> errors, double sampled) = ImportSample.Measure(checkpoint, formats, cancel);
        if (ImportStudy.IsNeeded(options, predictors))
        {
            ImportStudy.Demand(checkpoint, options);
            predictors?.Calibrated(ImportStudy.Outline(predictors.Config, options, checkpoint.Config));
        }
        long bytes = PackageLayout.EstimateBytes(checkpoint.Config, formats, predictors: predictors?.Config, permuted: options.Order != PackageLayout.Identity, lean: options.Lean), streamed = PackageLayout.StreamedBytes(checkpoint.Config, formats, options.Lean);
        return new ImportPlan
        {
            Config = checkpoint.Config,
            Formats = formats,
            Predictors = predictors?.Config,
            SourceBytes = checkpoint.Bytes,
            Bytes = bytes,
            StreamedBytes = streamed,
            ResidentBytes = bytes - streamed,
            Errors = errors,
            Sampled = sampled,
            Notes = notes,
        };
    }

    private void WriteEdge()
    {
        _step("embedding");
        _writer.BeginEdge();
        WriteMatrix("", "embed", _formats.Of("embed"));
        WriteVectors("", "positions", "final_norm.weight", "final_norm.bias", "head.bias");
        foreach (string matrix in (ReadOnlySpan<string>)["project_in", "project_out", "head"])
        {
            if (!_checkpoint.Has(matrix)) continue;
            _step(matrix);
            WriteMatrix("", matrix, _formats.Of(matrix));
        }
    }

    private void WriteSlice(int layer)
    {
        _step($"layer {layer + 1} of {_config.Layers}");
        string prefix = $"layers.{layer}.";
        _writer.BeginSlice(layer);
        using var parts = new TurnedParts(_checkpoint, _checkpoint.Turned(_config.NeuronsOf(layer), [prefix + "ffn.up", prefix + "ffn.down", prefix + "ffn.gate"]), _cancel);
        WriteVectors(prefix, "attn_norm.weight", "attn_norm.bias", "attn.qkv.bias", "attn.q_norm.weight", "attn.q_norm.bias", "attn.k_norm.weight", "attn.k_norm.bias", "attn.sinks",
            "attn.o.bias", "attn_out_norm.weight", "attn_out_norm.bias", "ffn_norm.weight", "ffn_norm.bias", "ffn_out_norm.weight", "ffn_out_norm.bias",
            "ffn.router.bias", "ffn.router.choice", "ffn.shared.mix", "attn.q_latent_norm", "attn.kv_latent_norm", "ffn.down.bias");
        int[]? order = _study?.OrderOf(layer);
        foreach (string section in (ReadOnlySpan<string>)["ffn.up.bias", "ffn.gate.bias"])
        {
            if (!_checkpoint.Has(prefix + section)) continue;
            if (order == null)
            {
                WritePlain(prefix + section, section);
                continue;
            }
            float[] bias = _checkpoint.Read(prefix + section);
            using SectionWriter to = _writer.BeginSection(section, WeightFormat.F32, 1, bias.Length);
            to.Write(MemoryMarshal.AsBytes<float>(Array.ConvertAll(order, i => bias[i])));
        }
        int values = _config.ValueRows;
        if (PackageLayout.ValuesApart(_config, _formats, layer))
        {
            WriteMatrix(prefix, "attn.qkv", _formats.Of(layer, "attn.qkv"), "attn.qkv", 0, _config.QkvRows - values);
            WriteMatrix(prefix, "attn.v", _formats.Of(layer, "attn.v"), "attn.qkv", _config.QkvRows - values, values);
        }
        else
        {
            WriteMatrix(prefix, "attn.qkv", _formats.Of(layer, "attn.qkv"));
        }
        WriteMatrix(prefix, "attn.o", _formats.Of(layer, "attn.o"));
        if (_config.ExpertsOf(layer) is { } experts) WriteMatrix(prefix, experts.RouterSection, PackageLayout.RouterFormat(_formats));
        foreach (string matrix in PackageLayout.FittedMatrices)
            if (_checkpoint.Has(prefix + matrix)) WriteMatrix(prefix, matrix, PackageLayout.Fitting(_formats.Of(layer, matrix), _checkpoint.Shape(prefix + matrix).Cols));
        foreach (PredictorMatrix matrix in _predictors?.Matrices(layer) ?? []) WritePredictor(matrix, matrix.IsByNeuron ? order : null);
        if (_study?.CoreOf(layer) is { } core) WriteNumbers(PackageLayout.Core, core);
        if (order != null) WriteNumbers(PackageLayout.Permutation, order);
        if (_config.HasSelector(layer)) WriteNeurons(prefix, layer, order, parts);
        else WriteSlabs(prefix, layer, parts);
    }

    /// <summary>Whole numbers as a vector of floats.</summary>
    private void WriteNumbers(string section, int[] numbers)
    {
        using SectionWriter to = _writer.BeginSection(section, WeightFormat.F32, 1, numbers.Length);
        to.Write(MemoryMarshal.AsBytes<float>(Array.ConvertAll(numbers, static n => (float)n)));
    }

    private void WritePredictor(PredictorMatrix matrix, int[]? order)
    {
        WeightFormat format = matrix.FormatIn(_formats, _predictors!.Config);
        int blockRows = BlockRows(matrix.Cols, matrix.Rows), rowBytes = WeightLayout.RowBytes(format, matrix.Cols), panelBytes = WeightLayout.PanelBytes(format, matrix.Cols);
        using SectionWriter to = _writer.BeginSection(matrix.Section, format, matrix.Rows, matrix.Cols);
        int Count(int block) => Math.Min(blockRows, matrix.Rows - block * blockRows);
        _blocks.Run((matrix.Rows + blockRows - 1) / blockRows, (k, block) =>
        {
            float[] numbers = block.Numbers.Of(blockRows * matrix.Cols);
            byte[] stored = block.Stored.Of(blockRows * rowBytes);
            // Files of predictors are read by one thread at a time; they are small.
            lock (_predictors!)
            {
                if (order == null) matrix.ReadRows(k * blockRows, Count(k), numbers.AsSpan(0, Count(k) * matrix.Cols));
                for (int i = 0; order != null && i < Count(k); i++) matrix.ReadRows(order[k * blockRows + i], 1, numbers.AsSpan(i * matrix.Cols, matrix.Cols));
            }
            block.Costs.Add((matrix.Section, _store.Store(format, matrix.Section, k * blockRows, numbers, Count(k), matrix.Cols, stored, rowBytes, 0, matrix.Quantize)));
            Panel.PackAll(format, stored, Count(k), matrix.Cols, block.Panels.Of(WeightLayout.Panels(blockRows) * panelBytes), rowBytes);
        }, (k, block) =>
        {
            Enter(block);
            to.Write(block.Panels.Of(0).AsSpan(0, WeightLayout.Panels(Count(k)) * panelBytes));
        }, _cancel);
    }

    private void WriteVectors(string prefix, params ReadOnlySpan<string> sections)
    {
        foreach (string section in sections)
            if (_checkpoint.Has(prefix + section)) WritePlain(prefix + section, section);
    }

    /// <summary>Floats as they are, row after row.</summary>
    private void WritePlain(string tensor, string section)
    {
        (int rows, int cols) = _checkpoint.Shape(tensor);
        using SectionWriter to = _writer.BeginSection(section, WeightFormat.F32, rows, cols);
        float[] block = new float[(int)Math.Min((long)rows * cols, (long)BlockRows(cols) * cols)];
        for (int first = 0; first < rows; first += BlockRows(cols))
        {
            int count = Math.Min(BlockRows(cols), rows - first);
            _checkpoint.ReadRows(tensor, first, count, block.AsSpan(0, count * cols));
            to.Write(MemoryMarshal.AsBytes(block.AsSpan(0, count * cols)));
        }
    }

    /// <summary>A matrix as panels.</summary>
    private void WriteMatrix(string prefix, string section, WeightFormat format) => WriteMatrix(prefix, section, format, section, 0, _checkpoint.Shape(prefix + section).Rows);

    /// <summary>Rows [from, from + rows) of a tensor as panels.</summary>
    private void WriteMatrix(string prefix, string section, WeightFormat format, string tensor, int from, int rows)
    {
        int cols = _checkpoint.Shape(prefix + tensor).Cols, blockRows = BlockRows(cols, rows), rowBytes = WeightLayout.RowBytes(format, cols), panelBytes = WeightLayout.PanelBytes(format, cols);
        bool kept = ImportFormats.IsKept(_checkpoint.Nearest(prefix + tensor, from, rows), format);
        using SectionWriter to = _writer.BeginSection(section, format, rows, cols);
        int Count(int block) => Math.Min(blockRows, rows - block * blockRows);
        _blocks.Run((rows + blockRows - 1) / blockRows, (k, block) =>
        {
            byte[] stored = block.Stored.Of(blockRows * rowBytes);
            Fill(kept, format, section, prefix + tensor, from + k * blockRows, Count(k), cols, block, stored, rowBytes, 0);
            Panel.PackAll(format, stored, Count(k), cols, block.Panels.Of(WeightLayout.Panels(blockRows) * panelBytes), rowBytes);
        }, (k, block) =>
        {
            Enter(block);
            to.Write(block.Panels.Of(0).AsSpan(0, WeightLayout.Panels(Count(k)) * panelBytes));
        }, _cancel);
    }

    /// <summary>Rows of a tensor in the package's format: as they are stored where that is the same, else through floats.</summary>
    private void Fill(bool kept, WeightFormat format, string kind, string tensor, int first, int count, int cols, Block block, byte[] stored, int stride, int offset)
    {
        if (kept)
        {
            _checkpoint.ReadStored(tensor, first, count, format, stored, stride, offset);
            block.Costs.Add((kind, default));
            return;
        }
        float[] numbers = block.Numbers.Of(count * cols);
        _checkpoint.ReadRows(tensor, first, count, numbers.AsSpan(0, count * cols));
        block.Costs.Add((kind, _store.Store(format, kind, first, numbers, count, cols, stored, stride, offset)));
    }

    /// <summary>Takes the costs of a block into account.</summary>
    private void Enter(Block block)
    {
        foreach ((string kind, RowCost cost) in block.Costs) _store.Add(kind, cost);
        block.Costs.Clear();
    }

    /// <summary>Rows of a block: whole panels, about <see cref="BlockNumbers"/> numbers.</summary>
    private static int BlockRows(int cols, int rows = int.MaxValue)
    {
        int most = Math.Max(WeightLayout.PanelRows, BlockNumbers / cols / WeightLayout.PanelRows * WeightLayout.PanelRows);
        return Math.Min(most, (int)Math.Min(int.MaxValue, ((long)rows + WeightLayout.PanelRows - 1) / WeightLayout.PanelRows * WeightLayout.PanelRows));
    }
}
