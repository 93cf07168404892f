"""Commands that make engines and measure them: build, inspect, bench, eval, targets."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.cli.common import (
    INCONCLUSIVE,
    REGRESSED,
    AsJson,
    Engine,
    Images,
    Model,
    Out,
    Samples,
    TargetName,
    Threads,
    app,
    folded,
    progress,
    show,
    unchanged,
)
from edgeres.errors import UsageError


@app.command()
def build(
    model: Model,
    target: TargetName,
    out: Out,
    frame: Annotated[
        str | None,
        typer.Option(
            "--input", help="Take camera bytes: u8-nhwc (RGB) or u8-nhwc-bgr.", show_default="normalised float32"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build the engine of an ONNX file for a target."""
    from edgeres import engines
    from edgeres.types import Target

    chosen: Any = frame
    made = engines.build(model, Target.parse(target), out, frame=chosen)
    size = out.stat().st_size
    text = f"{out}: engine for {target}, {size / 1e6:.1f} MB, sha256 {made.sidecar.digest[:12]}{unchanged(made)}"
    show(text, {"out": str(out), "target": target, "size": size, "digest": made.sidecar.digest}, as_json)


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
    batch: Annotated[
        int | None, typer.Option(min=1, max=65536, help="Images a call; of the scenarios, offline's.", show_default="1")
    ] = None,
    threads: Threads = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Fresh processes.", show_default="5")] = None,
    scenario: Annotated[
        str | None,
        typer.Option(help="Let MLPerf's LoadGen measure: single-stream, multi-stream, server or offline."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, max=86400, help="Shortest run of LoadGen.", show_default="MLPerf's, 600")
    ] = None,
    qps: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e6, help="Queries a second of `server`.", show_default="half of what is possible"),
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e6, help="Milliseconds that 99 % of `server` must keep.", show_default="15"),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Images for LoadGen.", show_default="noise")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="The FP32 file, of whose top-1 on --data 99 % must be kept.")
    ] = None,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Hold each layer of an ONNX file against what this machine can do.")
    ] = False,
    p99: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e6, help="Search for the most images a second within so many milliseconds."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for LoadGen's logs; a picture (.svg) of --roofline or --p99."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the latency and the throughput of an engine, or run a scenario of MLPerf: exit 4 where it is invalid."""
    from edgeres import measure
    from edgeres.cli import limits
    from edgeres.measure.show import text
    from edgeres.types import Target

    subject = measure.Subject(engine, Target.parse(target), batch or 1, threads)
    if bool(scenario) + roofline + bool(p99) > 1:
        raise UsageError("--scenario, --roofline and --p99 measure different things; give one of them.")
    if rounds and (scenario or roofline or p99):
        raise UsageError("--scenario, --roofline and --p99 have rounds of their own; leave --rounds out.")
    if batch and p99:
        raise UsageError("--p99 searches for the batch; leave --batch out.")
    scenarios = {"--data": data, "--reference": reference, "--seconds": seconds, "--qps": qps, "--bound": bound}
    given = [name for name, value in scenarios.items() if value is not None]
    if given and not scenario:
        raise UsageError(f"{given[0]} goes with a --scenario; name one.")
    if (qps or bound) and scenario != "server":
        raise UsageError("--qps and --bound are those of --scenario server; leave them out.")
    if batch and scenario and scenario != "offline":
        raise UsageError(f"a query of {scenario} is not a batch; leave --batch out.")
    if roofline:
        limits.roofline(subject, out, as_json)
        return
    if p99:
        raise typer.Exit(limits.bounded(subject, p99, out, as_json))
    if scenario is None:
        if out:
            raise UsageError("--out goes with --scenario, --roofline or --p99; give one of them.")
        rounds = rounds or measure.ROUNDS
        with progress().step(f"measure {target}", rounds + 1) as advance:
            (found,) = measure.measure([subject], rounds, advance, in_place=True, throughputs=True)
        values = {**found.latency.model_dump(), "properties": found.properties}
        show(f"{engine} on {target}\n{text(found)}", values, as_json)
        return
    from edgeres import loadgen
    from edgeres.data import open_images
    from edgeres.loadgen.scenarios import OFFICIAL_SECONDS, SERVER_MS, find

    find(scenario)
    logs = out or engine.with_name(f"{engine.name}.{scenario}")
    images = open_images(data) if data else None
    if reference and images is None:
        raise UsageError("--reference needs labelled images; give them as --data.")
    if reference:
        _same_network(reference, engine)
    least, most = seconds or OFFICIAL_SECONDS, bound or SERVER_MS
    progress().say(f"{scenario}, {least:g} s at least")
    result = loadgen.run(subject, scenario, logs, images, seconds=least, qps=qps, bound_ms=most)
    kept = loadgen.quality(subject, reference, scenario, images, logs) if reference and images else None
    show(f"{engine} on {target}\n{loadgen.text(result, kept)}\nlogs: {logs}", loadgen.to_json(result, kept), as_json)
    if not result.valid:
        raise typer.Exit(INCONCLUSIVE)
    if kept and not kept.passed:
        raise typer.Exit(REGRESSED)


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
    from edgeres import onnx_io
    from edgeres.data import open_images
    from edgeres.evaluate import maps
    from edgeres.figures import counted
    from edgeres.report import accuracy, scores
    from edgeres.types import Target

    images = open_images(data)
    chosen = images.draw(samples) if samples else images

    def predict(path: Path) -> step.Predictions:
        with progress().step(f"evaluate {path.name}", len(chosen)) as advance:
            return step.predict(path, Target.parse(target), chosen, threads=threads, progress=advance)

    if reference:
        _same_network(reference, engine)
    if onnx_io.info(engine).task in maps.TASKS:
        if reference is None:
            raise UsageError("maps have no labels; give the FP32 file as --reference.")
        with progress().step(f"evaluate {engine.name}", len(chosen)) as advance:
            figures = maps.compare(engine, Target.parse(target), reference, chosen, threads=threads, progress=advance)
        text = folded([f"{engine} on {target}, {counted(len(chosen))}", *scores.lines(figures)])
        show(text, {"scores": [figure.model_dump() for figure in figures]}, as_json)
        return
    predicted = predict(engine)
    against = predict(reference) if reference else None
    if predicted.task != "classification":
        figures, rate = step.scores(predicted, against), predicted.images_per_second
        head = f"{engine} on {target}, {counted(len(chosen))}, {rate:.1f} images/s"
        told = {"images_per_second": rate, "scores": [figure.model_dump() for figure in figures]}
        show(folded([head, *scores.lines(figures)]), told, as_json)
        return
    found, exact = step.accuracy(predicted, against), step.accuracy(against) if against else None
    notes = [step.GUESSES] if step.guesses(against or predicted) else []
    first, *others = accuracy.lines(found, exact)
    values = {**found.model_dump(), "drop": exact.top1 - found.top1 if exact else None, "notes": notes}
    show(folded([f"{engine} on {target}, {first}", *others, *notes]), values, as_json)


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


def _same_network(reference: Path, engine: Path) -> None:
    """UsageError where two files do not share what files of one network share."""
    from dataclasses import replace

    from edgeres import onnx_io, store

    sidecar = store.read_sidecar(reference)
    if sidecar and sidecar.kind == "quantized":
        raise UsageError(f"{reference} is quantized; give the FP32 file as --reference.")
    one, other = onnx_io.info(reference), onnx_io.info(engine)
    if replace(one, arch="", frame=None) != replace(other, arch="", frame=None):
        raise UsageError(
            f"{reference} has another task, classes or preprocessing than {engine}; give the FP32 file of the same."
        )
