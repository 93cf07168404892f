"""A recipe becomes a folder of engines and one report.

Every step writes its artifact with a sidecar, whole or not at all, and is skipped where the same artifact is already
there: a run that was killed goes on, a run with a change redoes what depends on it. One target that cannot be built
or run does not stop the others: its cell says why.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeres import backends, engines, evaluate, explain, gate, machine, onnx_io, recipe, store
from edgeres.data import ImageSet, open_images
from edgeres.errors import EdgeresError, InputError, MissingRuntime
from edgeres.evaluate import maps
from edgeres.export import export
from edgeres.measure import Subject, measure
from edgeres.progress import Progress, Silent
from edgeres.quantization import schemes
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import find_options, quantize
from edgeres.recipe import ModelPart, Recipe, TargetPart
from edgeres.report import FILE
from edgeres.schema import Cell, Latency, Model, Report
from edgeres.store import Artifact, Sidecar
from edgeres.types import Precision, Target


def run(path: Path, out: Path | None = None, progress: Progress | None = None) -> Report:
    """Do what a recipe says in the folder `out` (default `build/NAME`), and write `report.json` there.

    Raises what `export` and `calibrate` raise; what goes wrong for one target is told in its cell.
    """
    read = recipe.read(path)
    folder = out or Path("build") / read.name
    return _Run(read, folder, progress or Silent()).report()


def exported(model: ModelPart, out: Path) -> Artifact:
    """The FP32 file of a recipe's network; raises what `export` raises."""
    return export(
        model.source,
        out,
        model.arch,
        opset=model.opset,
        batch=model.batch,
        preprocess=model.preprocess,
        classes=model.classes,
        task=model.task,
        features=model.features,
    )


@dataclass
class _Cell:
    """A cell on its way: which file it is made from, and what is known of it so far."""

    target: Target
    precision: Precision
    scheme: str | None
    engine: Path
    tuned: TargetPart
    known: dict[str, Any] = field(default_factory=dict)
    predictions: Path | None = None

    @property
    def source(self) -> str:
        """The Q/DQ file that it is built from; targets of one scheme share it."""
        return f"model.{self.scheme}{f'.{self.target.slug}' if self.tuned.keep else ''}.onnx"


class _Run:
    def __init__(self, read: Recipe, folder: Path, progress: Progress) -> None:
        self.recipe, self.folder, self.progress = read, folder, progress
        self.fp32 = folder / "model.onnx"
        self.statistics = folder / "model.stats"

    def report(self) -> Report:
        find_options(self.recipe.quantization.method, self.recipe.quantization.level)
        for rule, limit in self.recipe.check.items():
            gate.read(rule, limit)
        cells = [cell for part in self.recipe.targets for cell in self._cells(part)]
        calibrated = any(cell.precision is Precision.INT8 for cell in cells)
        calibration, evaluation = self._images(calibrated)
        exported = self._export()
        if calibrated:
            self._calibrate(calibration)
        for cell in cells:
            self._make(cell, calibration, evaluation)
        for cell in cells:
            if cell.precision is Precision.INT8 and cell.known["status"] != "failed":
                self._explain(cell, evaluation)
        for target in dict.fromkeys(cell.target for cell in cells):
            self._latencies([cell for cell in cells if cell.target == target and cell.predictions])
        report = Report(
            name=self.recipe.name,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            machine=machine.describe(),
            model=_model(exported),
            calibration=self._calibration(calibration) if calibrated else {},
            cells=[self._cell(cell, cells, evaluation) for cell in cells],
            rules=self.recipe.check,
        )
        store.write_json(self.folder / FILE, report.model_dump(mode="json"))
        return report

    def _images(self, calibrated: bool) -> tuple[ImageSet, ImageSet]:
        data = self.recipe.data
        calibration, evaluation = open_images(data.calibration), open_images(data.evaluation)
        calibration = calibration.draw(data.samples) if data.samples else calibration
        if calibrated:
            evaluation.refuse(calibration.contents, str(data.calibration))
        return calibration, evaluation

    def _export(self) -> Artifact:
        made, origin = exported(self.recipe.model, self.fp32), "the original" if self.recipe.model.onnx else "torch"
        self._told(made, f"parity with {origin}: {made.sidecar.results['relative']:.1e} of the largest output")
        return made

    def _calibrate(self, images: ImageSet) -> None:
        with self.progress.step("calibrate", len(images)) as advance:
            made = calibrate(self.fp32, images, self.statistics, advance)
        self._told(made, f"{len(images)} images")

    def _calibration(self, images: ImageSet) -> dict[str, Any]:
        return {"images": len(images), "dataset": images.digest, **self.recipe.quantization.model_dump()}

    def _cells(self, part: TargetPart) -> list[_Cell]:
        target = Target.parse(part.target)
        backend = backends.find(target)
        cells = []
        for precision in dict.fromkeys(part.precisions or backend.precisions):
            int8 = part.scheme or backend.scheme(target)
            scheme = {Precision.FP32: None, Precision.FP16: "fp16", Precision.INT8: int8}[precision]
            if scheme:
                schemes.find(scheme)
            engine = self.folder / "engines" / f"{target.slug}.{precision}{backend.suffix}"
            baseline = precision is not Precision.INT8 and Precision.INT8 in (part.precisions or backend.precisions)
            tuned = TargetPart(target=part.target) if baseline else part
            cells.append(_Cell(target, precision, scheme, engine, tuned))
        return cells

    def _make(self, cell: _Cell, calibration: ImageSet, evaluation: ImageSet) -> None:
        """Quantize, build and evaluate one cell, as far as this machine can."""
        title = f"{cell.target} {cell.precision}"
        try:
            source, tuned = self._source(cell, calibration), cell.tuned
            made = engines.build(source, cell.target, cell.engine, batch=tuned.batch, settings=tuned.settings)
            self._told(made, f"{cell.engine.stat().st_size / 1e6:.1f} MB")
            cell.known |= {
                "status": "built",
                "engine": cell.engine.relative_to(self.folder).as_posix(),
                "size": cell.engine.stat().st_size,
                "digest": made.sidecar.digest,
            }
            with self.progress.step(f"evaluate {title}", len(evaluation)) as advance:
                cell.predictions = self._evaluate(cell, evaluation, advance)
        except InputError:
            raise  # the data or the model is wrong, not this target
        except EdgeresError as error:
            cell.known |= {"message": str(error)}
            if isinstance(error, MissingRuntime) and cell.known.get("status") == "built":
                self.progress.say(f"{title}: built, cannot run here")
            else:
                cell.known["status"] = "failed"
                self.progress.say(f"{title}: failed. {error}")

    def _evaluate(self, cell: _Cell, images: ImageSet, progress: Callable[[int], object]) -> Path:
        """What an engine gives, or for maps their error against FP32."""
        out = self.folder / "predictions" / f"{cell.engine.name}.npz"
        threads, settings = cell.tuned.threads or self.recipe.bench.threads, cell.tuned.settings
        options: dict[str, Any] = {"threads": threads, "settings": settings, "progress": progress}
        if onnx_io.info(self.fp32).task in maps.TASKS:
            out = out.with_suffix(".json")
            maps.evaluate(cell.engine, cell.target, self.fp32, images, out, **options)
        else:
            evaluate.evaluate(cell.engine, cell.target, images, out, **options)
        return out

    def _source(self, cell: _Cell, calibration: ImageSet) -> Path:
        """The ONNX file of a cell's precision, made if it is not there."""
        if cell.scheme is None:
            return self.fp32
        quantized = self.folder / cell.source
        asked = self.recipe.quantization.model_dump()
        with self.progress.step(f"quantize for {cell.scheme}", None) as advance:
            made = quantize(
                self.fp32,
                self.statistics,
                quantized,
                scheme=cell.scheme,
                **asked,
                images=calibration,
                keep=cell.tuned.keep,
                progress=advance,
            )
        self._told(made, "")
        return quantized

    def _explain(self, cell: _Cell, evaluation: ImageSet) -> None:
        """What INT8 does inside an engine; where that cannot be told, the cell goes without."""
        source, out = self.folder / cell.source, self.folder / "layers" / f"{cell.engine.name}.json"
        told = source.with_suffix(".errors.json")
        self._tell(cell, "layers", lambda: explain.layers(cell.engine, source, cell.target, out))
        self._tell(cell, "errors", lambda: explain.errors(self.fp32, source, evaluation, told))

    def _tell(self, cell: _Cell, what: str, step: Callable[[], Artifact]) -> None:
        try:
            with self.progress.step(f"{what} of {cell.target}", None):
                made = step()
        except EdgeresError as error:
            self.progress.say(f"{cell.target} {cell.precision}: {what} are not available. {error}")
            return
        self._told(made, "")
        cell.known[what] = store.read_json(made.path)

    def _latencies(self, cells: list[_Cell]) -> None:
        """Measure the engines of one target in turn, all of them where one is new: only such figures compare."""
        bench = self.recipe.bench
        if not cells:
            return
        if cells[0].target.emulated:
            for cell in cells:
                cell.known |= {"status": "measured", "message": "its latency is not measured: emulated."}
            return
        out = self.folder / "latency" / f"{cells[0].target.slug}.json"
        inputs = {cell.engine.name: str(cell.known["digest"]) for cell in cells}
        parameters = {**bench.model_dump(), "machine": machine.describe().model_dump()}
        tuned = {cell.engine.name: [cell.tuned.threads, cell.tuned.settings] for cell in cells}
        if any(map(any, tuned.values())):
            parameters["tuned"] = tuned

        def write(path: Path) -> None:
            subjects = [
                Subject(cell.engine, cell.target, bench.batch, cell.tuned.threads or bench.threads, cell.tuned.settings)
                for cell in cells
            ]
            with self.progress.step(f"measure {cells[0].target}", (bench.rounds + 1) * len(cells)) as advance:
                found = measure(subjects, bench.rounds, advance, throughputs=True)
            named = {cell.engine.name: one for cell, one in zip(cells, found, strict=True)}
            content = {k: {"latency": v.latency.model_dump(), "properties": v.properties} for k, v in named.items()}
            path.write_text(json.dumps(content, indent=2), encoding="utf-8")

        try:
            made = store.make(out, Sidecar("latency", inputs, parameters, store.versions("edgeres")), write)
        except EdgeresError as error:
            for cell in cells:
                cell.known |= {"status": "failed", "message": str(error)}
            self.progress.say(f"measure {cells[0].target}: failed. {error}")
            return
        self._told(made, "")
        stored = store.read_json(out)
        for cell in cells:
            mine = stored[cell.engine.name]
            cell.known |= {
                "status": "measured",
                "latency": Latency.model_validate(mine["latency"]),
                "properties": mine["properties"],
            }

    def _cell(self, cell: _Cell, cells: Sequence[_Cell], evaluation: ImageSet) -> Cell:
        return Cell(
            target=str(cell.target),
            precision=cell.precision,
            scheme=cell.scheme,
            **self._accuracy(cell, cells, evaluation),
            **cell.known,
        )

    def _accuracy(self, cell: _Cell, cells: Sequence[_Cell], evaluation: ImageSet) -> dict[str, Any]:
        """`accuracy` or `scores` of a cell, against FP32 on the same target, or else on the first that ran."""
        if cell.predictions is None:
            return {}
        if cell.predictions.suffix == ".json":
            return {"scores": maps.scores(cell.predictions)}
        found, reference = evaluate.predictions(cell.predictions), None
        if cell.precision is not Precision.FP32:
            exact = {c.target: c.predictions for c in cells if c.precision is Precision.FP32 and c.predictions}
            path = exact.get(cell.target, next(iter(exact.values()), None))
            reference = None if path is None else evaluate.predictions(path)
        if found.task != "classification":
            return {"scores": evaluate.scores(found, reference)}
        if cell.precision is Precision.FP32 and evaluate.guesses(found):
            self.progress.say(f"{cell.target} {cell.precision}: {evaluate.GUESSES}")
        return {"accuracy": evaluate.illustrated(evaluate.accuracy(found, reference), evaluation)}

    def _told(self, made: Artifact, more: str) -> None:
        name = made.path.relative_to(self.folder).as_posix()
        state = "made" if made.made else "unchanged"
        self.progress.say(f"{name}: {state}" + (f", {more}" if more else ""))


def _model(exported: Artifact) -> Model:
    info = onnx_io.info(exported.path)
    parity = {name: float(value) for name, value in exported.sidecar.results.items() if isinstance(value, int | float)}
    digest = exported.sidecar.digest
    return Model(arch=info.arch, task=info.task, classes=info.outputs, digest=digest, parity=parity)
