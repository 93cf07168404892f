"""The commands: parse, call one function, render. Results go to standard output, all else to standard error.

Nothing heavy is imported before a command needs it, so that `--help` is immediate and every command works with the
packages that it itself needs.
"""

import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.errors import EdgeresError, UsageError

OK, REGRESSED, USAGE, FAILED, INCONCLUSIVE, BUG, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 4, 70, 130, 141

app = typer.Typer(
    help="A trained ResNet goes in; a verified INT8 engine for every device comes out, with a receipt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[Path, typer.Argument(help="An ONNX file, as `edgeres export` writes it.")]
Engine = Annotated[Path, typer.Argument(help="An engine that `edgeres build` wrote, or an ONNX file.")]
TargetName = Annotated[str, typer.Option("--target", "-t", help="backend:device; see `edgeres targets`.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
Images = Annotated[Path, typer.Option("--data", "-d", help="Folder of images, manifest (.csv) or .npz.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Draw this many of the images. [default: all]")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: the runtime's]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _version(wanted: bool) -> None:
    if wanted:
        from edgeres import store

        typer.echo(f"edgeres {store.versions('edgeres')['edgeres']}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Holds the options that come before a command."""


@app.command()
def export(
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", help="Checkpoint: .pth, .pt, .safetensors.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The ONNX file to write.")] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture. [default: recognised]")] = None,
    opset: Annotated[int, typer.Option(min=13, max=21, help="ONNX opset.")] = 19,
    batch: Annotated[int | None, typer.Option(min=1, help="Fix the batch size. [default: free]")] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Crop, in pixels. [default: the checkpoint's]")] = None,
    resize: Annotated[int | None, typer.Option(min=8, help="Shorter side before the crop, in pixels.")] = None,
    mean: Annotated[str | None, typer.Option(help="Three numbers, comma between: 0.485,0.456,0.406")] = None,
    std: Annotated[str | None, typer.Option(help="Three numbers, comma between: 0.229,0.224,0.225")] = None,
    interpolation: Annotated[str | None, typer.Option(help="nearest, bilinear, bicubic or lanczos.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Text file with one class name a line.")] = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Images that prove the parity.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the architectures.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint into ONNX and prove it against torch."""
    from edgeres import export as step
    from edgeres.data import open_images

    if listed:
        _show("\n".join(step.architectures()), {"architectures": step.architectures()}, as_json)
        return
    if weights is None or out is None:
        raise UsageError("export needs --weights and --out; see `edgeres export --help`.")
    given = {
        "crop": size,
        "resize": resize,
        "mean": _numbers(mean),
        "std": _numbers(std),
        "interpolation": interpolation,
    }
    made = step.export(
        weights,
        out,
        arch,
        opset=opset,
        batch=batch,
        preprocess={name: value for name, value in given.items() if value is not None},
        classes=_lines(classes),
        images=open_images(data) if data else None,
    )
    parity, model = made.sidecar.results, made.sidecar.parameters["model"]
    text = (
        f"{out}: {model['arch']}, {model['outputs']} classes, opset {opset}{_unchanged(made)}\n"
        f"parity with torch on {parity['images']} images: largest difference {parity['largest']:.2g} "
        f"({parity['relative']:.1e} of the largest logit), top-1 agreement {parity['agreement']:.0%}"
    )
    _show(text, {"out": str(out), **model, "parity": parity}, as_json)


@app.command()
def calibrate(model: Model, data: Images, out: Out, samples: Samples = None) -> None:
    """Collect the activation statistics that `quantize --stats` reads."""
    made = _calibrate(model, data, samples, out)
    typer.echo(f"{out}: statistics of {made.sidecar.results['images']} images{_unchanged(made)}")


@app.command()
def quantize(
    model: Model,
    out: Out,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Calibration images.")] = None,
    samples: Samples = None,
    stats: Annotated[Path | None, typer.Option(help="Statistics to use instead of images.")] = None,
    scheme: Annotated[
        str, typer.Option(help="onnxruntime (-avx2, -vnni, -arm), openvino, tensorrt, portable; or fp16.")
    ] = "portable",
    method: Annotated[
        str, typer.Option(help="Range method: minmax, percentile, entropy, mse; or auto, the best of them here.")
    ] = "mse",
    level: Annotated[
        str | None, typer.Option(help="fast, balanced or best. [default: balanced; fast where only --stats is given]")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0, help="Leave as few layers in float as keep the top-1 drop below, in points.")
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="Labelled images on which --max-drop is held.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the INT8 Q/DQ file of a model for one runtime."""
    from edgeres.data import open_images
    from edgeres.quantization.quantize import quantize as step

    if (max_drop is None) != (validation is None):
        raise UsageError("--max-drop and --validation, the labelled images to hold it on, go together; give both.")
    level = level or ("balanced" if data else "fast")
    images = open_images(data) if data else None
    if images is not None and samples:
        images = images.draw(samples)
    if data is not None and stats is None:
        stats = model.with_suffix(".stats")
        _calibrate(model, data, samples, stats)
    if max_drop is not None and validation is not None:
        options = {"scheme": scheme, "method": method, "level": level, "images": images}
        _quantize_within(model, stats, out, max_drop, validation, options, as_json)
        return
    with _progress().step(f"quantize, {level}", None) as advance:
        made = step(model, stats, out, scheme=scheme, method=method, level=level, images=images, progress=advance)
    counts, size = made.sidecar.results, out.stat().st_size
    method = counts.get("method", method)
    int8 = f", level {level}, method {method}, {counts['layers']} layers and {counts['tensors']} tensors in INT8"
    text = (
        f"{out}: scheme {scheme}{int8 if counts['layers'] else ''}, "
        f"{size / 1e6:.1f} MB ({model.stat().st_size / size:.1f}x smaller){_unchanged(made)}"
    )
    _show(text, {"out": str(out), "scheme": scheme, "level": level, "method": method, "size": size, **counts}, as_json)


@app.command()
def diagnose(
    model: Model,
    quantized: Annotated[Path, typer.Argument(help="The INT8 file that `edgeres quantize` made of it.")],
    data: Images,
    samples: Annotated[int, typer.Option(min=1, help="Draw this many of the images.")] = 16,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw a picture of it, too: .svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show where an INT8 file loses: the error of each tensor against FP32, the worst first, and outlier channels."""
    from edgeres import store
    from edgeres.data import open_images
    from edgeres.quantization.diagnose import diagnose as step
    from edgeres.report import errors as picture

    if out is not None and out.suffix != ".svg":
        raise UsageError(f"{out} cannot be written as {out.suffix!r}; name it {out.with_suffix('.svg').name}.")
    found = step(model, quantized, open_images(data).draw(samples))
    if out is not None:
        store.write_bytes(out, picture.svg(found).encode())
    if as_json:
        typer.echo(json.dumps([asdict(error) for error in found], indent=2))
    else:
        picture.show(found)


@app.command()
def build(model: Model, target: TargetName, out: Out, as_json: AsJson = False) -> None:
    """Build the engine of an ONNX file for a target."""
    from edgeres import engines
    from edgeres.types import Target

    made = engines.build(model, Target.parse(target), out)
    size = out.stat().st_size
    text = f"{out}: engine for {target}, {size / 1e6:.1f} MB, sha256 {made.sidecar.digest[:12]}{_unchanged(made)}"
    _show(text, {"out": str(out), "target": target, "size": size, "digest": made.sidecar.digest}, as_json)


@app.command()
def inspect(engine: Engine, target: TargetName, as_json: AsJson = False) -> None:
    """Show what of an engine runs in INT8, layer by layer, and what keeps the rest from it."""
    from edgeres import inspect as step
    from edgeres.types import Target

    found = step.inspect(engine, Target.parse(target))
    if as_json:
        typer.echo(json.dumps({"file": str(engine), "target": target, **step.to_json(found)}, indent=2))
        return
    from rich.console import Console

    step.show(found, Console())


@app.command()
def bench(
    engine: Engine,
    target: TargetName,
    batch: Annotated[int, typer.Option(min=1, help="Images a call.")] = 1,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=1, help="Fresh processes.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Measure the latency of an engine."""
    from edgeres.measure import Subject, measure
    from edgeres.types import Target

    subject = Subject(engine, Target.parse(target), batch, threads)
    with _progress().step(f"measure {target}", rounds) as advance:
        (found,) = measure([subject], rounds, advance)
    latency = found.latency
    ran = ", ".join(f"{name} {value}" for name, value in found.properties.items())
    text = (
        f"{engine} on {target} ({ran})\n"
        f"p50 {latency.p50:.2f} ms, p90 {latency.p90:.2f} ms, p99 {latency.p99:.2f} ms, "
        f"{latency.throughput:.1f} images/s at batch {batch}, {len(latency.samples)} calls in {rounds} processes"
    )
    _show("\n".join([text, *latency.notes]), {**latency.model_dump(), "properties": found.properties}, as_json)


@app.command(name="eval")
def evaluate(
    engine: Engine,
    target: TargetName,
    data: Images,
    samples: Samples = None,
    reference: Annotated[Path | None, typer.Option(help="The FP32 file to compare with on the same images.")] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of an engine on labelled images."""
    from edgeres import evaluate as step
    from edgeres.data import open_images
    from edgeres.types import Target

    images = open_images(data)
    chosen = images.draw(samples) if samples else images

    def predict(path: Path) -> step.Predictions:
        with _progress().step(f"evaluate {path.name}", len(chosen)) as advance:
            return step.predict(path, Target.parse(target), chosen, threads=threads, progress=advance)

    if reference and _meaning(reference) != _meaning(engine):
        raise UsageError(
            f"{reference} has other classes or preprocessing than {engine}; give the FP32 file of the same."
        )
    against = predict(reference) if reference else None
    found = step.accuracy(predict(engine), against)
    low, high = (100 * side for side in found.top1_interval)
    text = f"{engine} on {target}, {found.images} images: top-1 {found.top1:.2%} (95 % {low:.1f} to {high:.1f})"
    text += f", top-5 {found.top5:.2%}" if found.top5 is not None else ""
    if against:
        drop = 100 * (step.accuracy(against).top1 - found.top1)
        text += f"\nagainst {reference}: drop {drop:+.2f} points, agreement {found.agreement:.2%}"
    _show(text, found.model_dump(), as_json)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.toml).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder. [default: build/NAME]")] = None,
    as_json: AsJson = False,
) -> None:
    """Do what a recipe says: every target, FP32 and INT8, one report. Run again, it redoes only what changed."""
    from edgeres import pipeline
    from edgeres.report import terminal

    report = pipeline.run(recipe, out, _progress())
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        from rich.console import Console

        terminal.show(report, Console())
    if any(cell.status == "failed" for cell in report.cells):
        raise typer.Exit(FAILED)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, or its report.json.")],
    out: Annotated[list[Path] | None, typer.Option("--out", "-o", help="File to write: .html, .md or .json.")] = None,
) -> None:
    """Show the report of a run, or write it as HTML, Markdown or JSON."""
    from edgeres import report as reports

    loaded = reports.load(folder)
    for path in out or []:
        reports.write(loaded, path)
        typer.echo(str(path))
    if not out:
        from rich.console import Console

        from edgeres.report import terminal

        terminal.show(loaded, Console())


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A run folder, or its report.json.")],
    baseline: Annotated[Path, typer.Option("--baseline", "-b", help="The accepted report (.json).")],
    as_json: AsJson = False,
) -> None:
    """Compare a report with an accepted baseline. Exit 1 where something regressed, 4 where nothing can be said."""
    from edgeres import gate
    from edgeres import report as reports

    found = reports.load(folder)
    verdicts = gate.compare(found, reports.load(baseline), found.rules)
    outcome = gate.overall(verdicts)
    lines = [f"{verdict.outcome.value:>12}  {verdict.sentence}" for verdict in verdicts]
    _show(
        "\n".join([*lines, outcome.value]),
        {"outcome": outcome.value, "verdicts": [asdict(verdict) for verdict in verdicts]},
        as_json,
    )
    codes = {gate.Outcome.PASSED: OK, gate.Outcome.REGRESSED: REGRESSED, gate.Outcome.INCONCLUSIVE: INCONCLUSIVE}
    raise typer.Exit(codes[outcome])


@app.command()
def targets(as_json: AsJson = False) -> None:
    """List what this machine can build for and run on, and how to get what is missing."""
    from edgeres import backends
    from edgeres.types import Target

    found = [one for name in backends.BACKENDS for one in backends.find(Target(name, "any")).available()]
    if as_json:
        rows = [{"target": str(a.target), "builds": a.builds, "runs": a.runs, "note": a.note} for a in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("target", "builds", "runs", "note", box=None, pad_edge=False)
    for one in found:
        table.add_row(str(one.target), "yes" if one.builds else "no", "yes" if one.runs else "no", one.note)
    Console(markup=False, highlight=False).print(table)


def _calibrate(model: Path, data: Path, samples: int | None, out: Path) -> Any:
    from edgeres.data import open_images
    from edgeres.quantization.calibrate import calibrate as step

    images = open_images(data)
    chosen = images.draw(samples) if samples else images
    if samples and samples > len(images):
        typer.echo(f"{data} holds {len(images)} images; all of them are used.", err=True)
    with _progress().step("calibrate", len(chosen)) as advance:
        return step(model, chosen, out, advance)


def _quantize_within(
    model: Path,
    stats: Path | None,
    out: Path,
    max_drop: float,
    validation: Path,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Quantize with some layers left in float, and measure what those cost where the scheme's runtime is here."""
    from tempfile import TemporaryDirectory

    from edgeres.data import open_images
    from edgeres.quantization.sensitivity import within

    if stats is None:
        raise UsageError("--max-drop needs statistics of real images; give --data or --stats.")
    with TemporaryDirectory() as folder:
        found = within(
            model,
            stats,
            out,
            Path(folder),
            max_drop=max_drop,
            validation=open_images(validation),
            say=_progress().say,
            **options,
        )
        cost = _latencies([Path(folder) / "int8.onnx", out], options["scheme"]) if found.kept else None
    text = f"{out}: top-1 drop {found.after:+.2f} points, {found.before:+.2f} with all layers in INT8"
    text += f"\nin float: {', '.join(found.kept) or 'none'}"
    if cost:
        text += f"\np50 {cost[1]:.2f} ms, {cost[0]:.2f} ms with all layers in INT8"
    values = {"out": str(out), "kept": found.kept, "drop": found.after, "drop_int8": found.before, "p50_ms": cost}
    _show(text, values, as_json)


def _latencies(files: list[Path], scheme: str) -> list[float] | None:
    """The p50 of each file in ms, in turn; None where the scheme is for no runtime that runs here."""
    from edgeres import backends
    from edgeres.measure import Subject, measure
    from edgeres.types import Target

    target = Target(scheme.split("-")[0], "cpu")
    if target.backend not in backends.BACKENDS:
        return None
    if not any(one.target == target and one.runs for one in backends.find(target).available()):
        return None
    return [found.latency.p50 for found in measure([Subject(file, target) for file in files], rounds=2)]


def _progress() -> Any:
    from edgeres.progress import Terminal

    return Terminal()


def _meaning(path: Path) -> Any:
    """What two files of one network share."""
    from edgeres import onnx_io

    info = onnx_io.info(path)
    return info.outputs, info.classes, info.preprocess


def _unchanged(made: Any) -> str:
    return "" if made.made else " (unchanged)"


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is not three numbers with commas between, as in 0.485,0.456,0.406.") from None


def _lines(path: Path | None) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text ({error}); check --classes.") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if path and not names:
        raise UsageError(f"{path} holds no class names; give one name a line.")
    return names


def _show(text: str, values: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(values, indent=2) if as_json else text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code: 0 ok, 1 regressed, 2 usage, 3 failed, 4 inconclusive, 70 a bug."""
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="edgeres", standalone_mode=False)
    except UsageError as error:
        return _failed(str(error), USAGE)
    except EdgeresError as error:
        return _failed(str(error), FAILED)
    except KeyboardInterrupt:
        return _failed("interrupted; run again to go on.", INTERRUPTED)
    except SystemExit:  # Click's answer to a reader that went away is 1, which says that something regressed
        return BROKEN_PIPE
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # Click's own, wherever Typer keeps it
            error.show()
            return USAGE
        if type(error).__name__ == "Abort":
            return _failed("interrupted; run again to go on.", INTERRUPTED)
        traceback.print_exc()
        return _failed("this is a bug in edgeres; please report it with the lines above.", BUG)
    if status == INTERRUPTED:  # Typer's own answer
        return _failed("interrupted; run again to go on.", INTERRUPTED)
    return status if isinstance(status, int) else OK


def _failed(sentence: str, code: int) -> int:
    sys.stderr.write(f"edgeres: {sentence}\n")
    return code


def entry() -> None:
    """The console script."""
    sys.exit(main())
