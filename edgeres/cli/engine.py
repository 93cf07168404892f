"""Commands that make engines and measure them: build, inspect, bench, eval, targets."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.cli.common import (
    AsJson,
    Engine,
    Images,
    Model,
    Out,
    Samples,
    TargetName,
    Threads,
    app,
    progress,
    show,
    unchanged,
)
from edgeres.errors import UsageError


@app.command()
def build(model: Model, target: TargetName, out: Out, as_json: AsJson = False) -> None:
    """Build the engine of an ONNX file for a target."""
    from edgeres import engines
    from edgeres.types import Target

    made = engines.build(model, Target.parse(target), out)
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
    batch: Annotated[int, typer.Option(min=1, help="Images a call.")] = 1,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=1, help="Fresh processes.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Measure the latency of an engine."""
    from edgeres.measure import Subject, measure
    from edgeres.types import Target

    subject = Subject(engine, Target.parse(target), batch, threads)
    with progress().step(f"measure {target}", rounds) as advance:
        (found,) = measure([subject], rounds, advance)
    latency = found.latency
    ran = ", ".join(f"{name} {value}" for name, value in found.properties.items())
    text = (
        f"{engine} on {target} ({ran})\n"
        f"p50 {latency.p50:.2f} ms, p90 {latency.p90:.2f} ms, p99 {latency.p99:.2f} ms, "
        f"{latency.throughput:.1f} images/s at batch {batch}, {len(latency.samples)} calls in {rounds} processes"
    )
    show("\n".join([text, *latency.notes]), {**latency.model_dump(), "properties": found.properties}, as_json)


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
    from edgeres.report import accuracy
    from edgeres.types import Target

    images = open_images(data)
    chosen = images.draw(samples) if samples else images

    def predict(path: Path) -> step.Predictions:
        with progress().step(f"evaluate {path.name}", len(chosen)) as advance:
            return step.predict(path, Target.parse(target), chosen, threads=threads, progress=advance)

    if reference and _meaning(reference) != _meaning(engine):
        raise UsageError(
            f"{reference} has other classes or preprocessing than {engine}; give the FP32 file of the same."
        )
    predicted = predict(engine)
    against = predict(reference) if reference else None
    found, exact = step.accuracy(predicted, against), step.accuracy(against) if against else None
    notes = [step.GUESSES] if step.guesses(against or predicted) else []
    first, *others = accuracy.lines(found, exact)
    values = {**found.model_dump(), "drop": exact.top1 - found.top1 if exact else None, "notes": notes}
    show("\n".join([f"{engine} on {target}, {first}", *others, *notes]), values, as_json)


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


def _meaning(path: Path) -> Any:
    """What two files of one network share."""
    from edgeres import onnx_io

    info = onnx_io.info(path)
    return info.outputs, info.classes, info.preprocess
