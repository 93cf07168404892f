"""What is done where an engine will run: build it, evaluate it, tell its layers, measure it.

The same on this machine and on a device: a folder, ONNX files and images go in; artifacts and what is known of each
cell come out. One target's cells are finished together, as their latencies are measured in turn.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeres import backends, disk, engines, evaluate, explain, machine, onnx_io, store
from edgeres.data import ImageSet
from edgeres.errors import EdgeresError, InputError, MissingRuntime
from edgeres.evaluate import Predict, maps
from edgeres.measure import Subject, measure
from edgeres.progress import Progress
from edgeres.recipe import BenchPart, TargetPart
from edgeres.schema import Latency
from edgeres.store import Artifact, Sidecar
from edgeres.types import Precision, Target


@dataclass
class Pending:
    """A cell on its way: the ONNX file `source` that its engine is built from, and what is `known` of it so far, by the
    names of `schema.Cell`; a cell whose `status` is "failed" is left alone. `predictions` is the file that its accuracy
    is told from."""

    target: Target
    precision: Precision
    scheme: str | None
    source: Path
    tuned: TargetPart
    known: dict[str, Any] = field(default_factory=dict)
    predictions: Path | None = None

    @property
    def engine(self) -> str:
        """The file name of its engine."""
        return f"{self.target.slug}.{self.precision}{backends.find(self.target).suffix}"

    @property
    def failed(self) -> bool:
        return self.known.get("status") == "failed"


def finish(
    cells: Sequence[Pending],
    fp32: Path,
    images: ImageSet,
    bench: BenchPart,
    folder: Path,
    progress: Progress,
    predict: Predict = evaluate.predict,
) -> None:
    """Make and measure the engines of one target in `folder`, as far as this machine can, and note it in the cells.

    `predict` may share the images out. What goes wrong for a cell is told in it; InputError where the data or the model
    is wrong, not the target.
    """
    _Work(fp32, images, bench, folder, progress, predict).finish(cells)


@dataclass(frozen=True)
class _Work:
    fp32: Path
    images: ImageSet
    bench: BenchPart
    folder: Path
    progress: Progress
    predict: Predict

    def finish(self, cells: Sequence[Pending]) -> None:
        for cell in cells:
            if not cell.failed:
                self._make(cell)
        for cell in cells:
            if cell.precision is Precision.INT8 and not cell.failed:
                self._layers(cell)
        self._latencies([cell for cell in cells if cell.predictions])

    def _engine(self, cell: Pending) -> Path:
        return self.folder / "engines" / cell.engine

    def _make(self, cell: Pending) -> None:
        """Build and evaluate one cell."""
        title, engine, tuned = f"{cell.target} {cell.precision}", self._engine(cell), cell.tuned
        try:
            made = engines.build(
                cell.source, cell.target, engine, batch=tuned.batch, settings=tuned.settings, frame=tuned.input
            )
            told(self.progress, made, self.folder, f"{engine.stat().st_size / 1e6:.1f} MB")
            cell.known |= {
                "status": "built",
                "engine": engine.relative_to(self.folder).as_posix(),
                "size": engine.stat().st_size,
                "digest": made.sidecar.digest,
            }
            with self.progress.step(f"evaluate {title}", len(self.images)) as advance:
                cell.predictions = self._evaluate(cell, advance)
        except InputError:
            raise  # the data or the model is wrong, not this target
        except EdgeresError as error:
            cell.known |= {"message": str(error)}
            if isinstance(error, MissingRuntime) and cell.known.get("status") == "built":
                self.progress.say(f"{title}: built, cannot run here")
            else:
                cell.known["status"] = "failed"
                self.progress.say(f"{title}: failed. {error}")

    def _evaluate(self, cell: Pending, progress: Callable[[int], object]) -> Path:
        """What an engine gives, or for maps their error against FP32."""
        engine, out = self._engine(cell), self.folder / "predictions" / f"{cell.engine}.npz"
        threads, settings = cell.tuned.threads or self.bench.threads, cell.tuned.settings
        options: dict[str, Any] = {"threads": threads, "settings": settings, "progress": progress}
        if onnx_io.info(self.fp32).task in maps.TASKS:
            out = out.with_suffix(".json")
            maps.evaluate(engine, cell.target, self.fp32, self.images, out, **options)
        else:
            evaluate.evaluate(engine, cell.target, self.images, out, **options, predict=self.predict)
        return out

    def _layers(self, cell: Pending) -> None:
        """What INT8 does inside an engine; where that cannot be told, the cell goes without."""
        out = self.folder / "layers" / f"{cell.engine}.json"
        found = tell(
            self.progress,
            self.folder,
            f"layers of {cell.target}",
            lambda: explain.layers(self._engine(cell), cell.source, cell.target, out),
        )
        if found is not None:
            cell.known["layers"] = found

    def _latencies(self, cells: Sequence[Pending]) -> None:
        """Measure the engines of one target in turn, all of them where one is new: only such figures compare."""
        bench = self.bench
        if not cells:
            return
        if cells[0].target.emulated:
            for cell in cells:
                cell.known |= {"status": "measured", "message": "its latency is not measured: emulated."}
            return
        out = self.folder / "latency" / f"{cells[0].target.slug}.json"
        inputs = {cell.engine: str(cell.known["digest"]) for cell in cells}
        parameters = {**bench.model_dump(), "machine": machine.describe().model_dump()}
        tuned = {cell.engine: [cell.tuned.threads, cell.tuned.settings] for cell in cells}
        if any(map(any, tuned.values())):
            parameters["tuned"] = tuned

        def write(path: Path) -> None:
            subjects = [
                Subject(
                    self._engine(cell),
                    cell.target,
                    bench.batch,
                    cell.tuned.threads or bench.threads,
                    cell.tuned.settings,
                )
                for cell in cells
            ]
            with self.progress.step(f"measure {cells[0].target}", (bench.rounds + 1) * len(cells)) as advance:
                found = measure(subjects, bench.rounds, advance, in_place=True, throughputs=True)
            named = {cell.engine: one for cell, one in zip(cells, found, strict=True)}
            content = {k: {"latency": v.latency.model_dump(), "properties": v.properties} for k, v in named.items()}
            path.write_text(json.dumps(content, indent=2), encoding="utf-8")

        try:
            made = store.make(out, Sidecar("latency", inputs, parameters, store.versions("edgeres")), write)
        except EdgeresError as error:
            for cell in cells:
                cell.known |= {"status": "failed", "message": str(error)}
            self.progress.say(f"measure {cells[0].target}: failed. {error}")
            return
        told(self.progress, made, self.folder)
        stored = disk.read_json(out)
        for cell in cells:
            mine = stored[cell.engine]
            cell.known |= {
                "status": "measured",
                "latency": Latency.model_validate(mine["latency"]),
                "properties": mine["properties"],
            }


def tell(progress: Progress, folder: Path, what: str, step: Callable[[], Artifact]) -> Any:
    """The JSON of an artifact that a report can go without; None where it is not to be had."""
    try:
        with progress.step(what, None):
            made = step()
    except EdgeresError as error:
        progress.say(f"{what} are not available. {error}")
        return None
    told(progress, made, folder)
    return disk.read_json(made.path)


def told(progress: Progress, made: Artifact, folder: Path, more: str = "") -> None:
    """Say that an artifact was made, or was there."""
    name, state = made.path.relative_to(folder).as_posix(), "made" if made.made else "unchanged"
    progress.say(f"{name}: {state}" + (f", {more}" if more else ""))
