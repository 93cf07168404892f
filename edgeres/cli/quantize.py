"""Commands of quantization: calibrate, quantize, diagnose."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.cli.common import (
    AsJson,
    Images,
    Model,
    Out,
    Samples,
    app,
    check_name,
    folded,
    progress,
    say,
    show,
    unchanged,
)
from edgeres.errors import UsageError


@app.command()
def calibrate(model: Model, data: Images, out: Out, samples: Samples = None) -> None:
    """Collect the activation statistics that `quantize --stats` reads."""
    from edgeres.figures import counted

    check_name(out, ".stats")
    made = _calibrate(model, data, samples, out)
    say(f"{out}: statistics of {counted(made.sidecar.results['images'])}{unchanged(made)}")


@app.command()
def quantize(
    model: Model,
    out: Out,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Calibration images.")] = None,
    samples: Samples = None,
    stats: Annotated[Path | None, typer.Option(help="Statistics to use instead of images.")] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            help="onnxruntime (-avx2, -vnni, -arm), openvino (also: -branch, -shortcut), tensorrt, portable; fp16.",
            show_default="onnxruntime",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Range method: minmax, percentile, entropy, mse; or auto, the best of them here.", show_default="mse"
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(help="fast, balanced or best.", show_default="balanced; fast where only --stats is given"),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Leave as few layers in float as keep the top-1 drop below, in points."),
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="Labelled images on which --max-drop is held.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the INT8 Q/DQ file of a model for one runtime."""
    from edgeres import store
    from edgeres.data import open_images
    from edgeres.figures import counted
    from edgeres.quantization import schemes
    from edgeres.quantization.quantize import find_options
    from edgeres.quantization.quantize import quantize as step

    if (max_drop is None) != (validation is None):
        raise UsageError("--max-drop and --validation, the labelled images to hold it on, go together; give both.")
    chosen = scheme or schemes.DEFAULT
    int8 = bool(schemes.find(chosen).roles)
    if samples and data is None:
        raise UsageError("--samples draws from the images of --data; give them, or leave it out.")
    if not int8 and (data or stats or method or level or max_drop is not None):
        raise UsageError(f"scheme {chosen} has nothing to calibrate; leave out all but the model and --out.")
    method, level = method or "mse", level or ("balanced" if data else "fast")
    find_options(method, level)
    check_name(out, ".onnx")
    store.distinct(out, model)
    images = open_images(data) if data else None
    if images is not None and samples:
        images = images.draw(samples)
    if data is not None and stats is None:
        stats = model.with_suffix(".stats")
        there = stats.exists()
        made = _calibrate(model, data, samples, stats)
        how = ", in place of others" if there and made.made else unchanged(made)
        progress().say(f"{stats}: statistics of {counted(made.sidecar.results['images'])}{how}")
    options: dict[str, Any] = {"scheme": chosen, "method": method, "level": level, "images": images}
    if max_drop is not None and validation is not None:
        text, values = _within(model, stats, out, max_drop, validation, options)
    else:
        with progress().step(f"quantize, {level}", None) as advance:
            made = step(model, stats, out, **options, progress=advance)
        text, values = _told(model, made, chosen, level, method)
    if scheme is None:
        text += "\nfor ONNX Runtime and OpenVINO on x86 CPUs; --scheme names what others take"
    show(text, {"out": str(out), **values}, as_json)


def _told(model: Path, made: Any, scheme: str, level: str, method: str) -> tuple[str, dict[str, Any]]:
    """A quantized file in words and as values."""
    counts, size = made.sidecar.results, made.path.stat().st_size
    method = counts.get("method", method)
    how = f", level {level}, method {method}, {counts['layers']} layers and {counts['tensors']} tensors in INT8"
    text = (
        f"{made.path}: scheme {scheme}{how if counts['layers'] else ''}, "
        f"{size / 1e6:.1f} MB ({model.stat().st_size / size:.1f}x smaller){unchanged(made)}"
    )
    return text, {"scheme": scheme, "level": level, "method": method, "size": size, **counts}


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
    from edgeres import disk
    from edgeres.data import open_images
    from edgeres.quantization.diagnose import diagnose as step
    from edgeres.report import errors as picture

    if out is not None:
        check_name(out, ".svg")
    found = step(model, quantized, open_images(data).draw(samples))
    if out is not None:
        disk.write_bytes(out, picture.svg(found).encode())
    if as_json:
        typer.echo(json.dumps([asdict(error) for error in found], indent=2))
    else:
        picture.show(found)
        if any(error.role in ("branch", "shortcut") for error in found):
            clipped = "A branch or shortcut is clipped to what the ReLU of its sum lets through"
            say("\n" + folded([f"{clipped}: the block behind tells what that costs."]))


def _calibrate(model: Path, data: Path, samples: int | None, out: Path) -> Any:
    from edgeres.data import open_images
    from edgeres.figures import counted
    from edgeres.quantization.calibrate import calibrate as step
    from edgeres.quantization.calibrate import few

    images = open_images(data)
    chosen = images.draw(samples) if samples else images
    if samples and samples > len(images):
        progress().say(f"{data} holds {counted(len(images))}; all of them are used.")
    with progress().step("calibrate", len(chosen)) as advance:
        made = step(model, chosen, out, advance)
    if said := few(len(chosen)):
        progress().say(said)
    return made


def _within(
    model: Path, stats: Path | None, out: Path, max_drop: float, validation: Path, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Quantize with some layers left in float, and measure what those cost where the scheme's runtime is here."""
    from edgeres import locks
    from edgeres.data import open_images
    from edgeres.quantization.sensitivity import within

    if stats is None:
        raise UsageError("--max-drop needs statistics of real images; give --data or --stats.")
    with locks.scratch() as folder:
        found = within(
            model,
            stats,
            out,
            folder,
            max_drop=max_drop,
            validation=open_images(validation),
            say=progress().say,
            **options,
        )
        cost = _latencies([folder / "int8.onnx", out], options["scheme"]) if found.kept else None
    text = f"{out}: top-1 drop {found.after:+.2f} points, {found.before:+.2f} with all layers in INT8"
    text += f"\nin float: {', '.join(found.kept) or 'none'}"
    if cost:
        text += f"\np50 {cost[1]:.2f} ms, {cost[0]:.2f} ms with all layers in INT8"
    return text, {"kept": found.kept, "drop": found.after, "drop_int8": found.before, "p50_ms": cost}


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
