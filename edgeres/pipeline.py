"""A recipe becomes a folder of engines and one report.

Every step writes its artifact with a sidecar, whole or not at all, and is skipped where the same artifact is already
there: a run that was killed goes on, a run with a change redoes what depends on it, a second one in the folder waits.
One target that cannot be built or run does not stop the others: its cell says why.

Exporting, calibrating and quantizing is done here; engines are built, evaluated and measured at a `Place`: here, or
on a device (see `edgeres.fleet`).
"""

import platform
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from edgeres import backends, disk, evaluate, explain, gate, machine, onnx_io, recipe
from edgeres.cells import Pending, finish, tell, told
from edgeres.data import ImageSet, open_images
from edgeres.errors import EdgeresError, InputError, UsageError
from edgeres.evaluate import Predict, maps, predict
from edgeres.export import export
from edgeres.figures import counted
from edgeres.progress import Progress, Silent
from edgeres.quantization import schemes
from edgeres.quantization.calibrate import Gather, calibrate, few, gather
from edgeres.quantization.quantize import find_options, quantize
from edgeres.recipe import BenchPart, ModelPart, Recipe, TargetPart
from edgeres.report import FILE
from edgeres.schema import Cell, Machine, Model, Report
from edgeres.store import Artifact
from edgeres.types import Precision, Target


class Place(Protocol):
    """Where engines are built, evaluated and measured; `name` is None for this machine."""

    @property
    def name(self) -> str | None: ...

    @property
    def architecture(self) -> str:
        """Of its CPU, as `platform.machine` says it."""

    def offers(self, target: Target) -> bool:
        """Whether a target of the recipe is one of this place."""

    def machine(self) -> Machine | None:
        """What it is; None where nobody got there."""

    def finish(
        self, cells: Sequence[Pending], fp32: Path, images: ImageSet, bench: BenchPart, folder: Path, progress: Progress
    ) -> None:
        """As `edgeres.cells.finish`."""


Work = Sequence[tuple[Place, list[list[Pending]]]]
"""What is to be done where: of each place the cells of each target."""


class Here:
    """This machine; `predict` may share the images out."""

    name = None
    architecture = platform.machine()

    def __init__(self, predict: Predict = predict) -> None:
        self.predict = predict

    def offers(self, target: Target) -> bool:
        return True

    def machine(self) -> Machine:
        return machine.describe()

    def finish(
        self, cells: Sequence[Pending], fp32: Path, images: ImageSet, bench: BenchPart, folder: Path, progress: Progress
    ) -> None:
        finish(cells, fp32, images, bench, folder, progress, self.predict)


def run(
    path: Path,
    out: Path | None = None,
    progress: Progress | None = None,
    places: Sequence[Place] = (Here(),),
    gather: Gather = gather,
) -> Report:
    """Do what a recipe says in the folder `out` (default `build/NAME`), and write `report.json` there.

    `gather` may share the calibration images out. Raises what `export` and `calibrate` raise; what goes wrong for one
    target is told in its cell.
    """
    read = recipe.read(path)
    folder = out or Path("build") / read.name
    return _Run(read, folder, progress or Silent(), places, gather).report()


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


class _Run:
    def __init__(self, read: Recipe, folder: Path, progress: Progress, places: Sequence[Place], gather: Gather) -> None:
        self.recipe, self.folder, self.progress, self.places, self.gather = read, folder, progress, places, gather
        self.fp32 = folder / "model.onnx"
        self.statistics = folder / "model.stats"

    def report(self) -> Report:
        find_options(self.recipe.quantization.method, self.recipe.quantization.level)
        for rule, limit in self.recipe.check.items():
            gate.read(rule, limit)
        work = [(place, self._groups(place)) for place in self.places]
        cells = _cells(work)
        if not cells:
            wanted = ", ".join(part.target for part in self.recipe.targets)
            raise UsageError(f"no device that was named measures {wanted}; see `edgeres devices list` and the recipe.")
        calibrated = any(cell.precision is Precision.INT8 for cell in cells)
        calibration, evaluation = self._images(calibrated)
        with disk.filling(self.folder, self.progress.say):
            return self._filled(work, calibrated, calibration, evaluation)

    def _filled(self, work: Work, calibrated: bool, calibration: ImageSet, evaluation: ImageSet) -> Report:
        cells, exported = _cells(work), self._export()
        if calibrated:
            self._calibrate(calibration)
        for shared in _by_source(cells):
            self._quantize(shared, calibration)
        self._finish(work, evaluation)
        for shared in _by_source(cell for cell in cells if cell.precision is Precision.INT8 and not cell.failed):
            self._errors(shared, evaluation)
        report = Report(
            name=self.recipe.name,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            machine=machine.describe(),
            devices={place.name: found for place in self.places if place.name and (found := place.machine())},
            model=_model(exported),
            calibration=self._calibration(calibration) if calibrated else {},
            cells=[
                self._cell(cell, place, [one for group in groups for one in group], evaluation)
                for place, groups in work
                for group in groups
                for cell in group
            ],
            rules=self.recipe.check,
        )
        disk.write_json(self.folder / FILE, report.model_dump(mode="json"))
        return report

    def _groups(self, place: Place) -> list[list[Pending]]:
        """The cells of each target of a place."""
        offered = [part for part in self.recipe.targets if place.offers(Target.parse(part.target))]
        return [self._pending(part, place.architecture) for part in offered]

    def _finish(self, work: Work, images: ImageSet) -> None:
        """All places at once, each its targets in turn."""

        def finish(place: Place, groups: list[list[Pending]]) -> None:
            folder = self.folder / "devices" / place.name if place.name else self.folder
            for group in groups:
                place.finish(group, self.fp32, images, self.recipe.bench, folder, self.progress)

        if len(work) == 1:  # in this thread, where an interrupt ends it
            finish(*work[0])
            return
        with ThreadPoolExecutor(len(work)) as pool:
            for done in [pool.submit(finish, *one) for one in work]:
                done.result()

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
            made = calibrate(self.fp32, images, self.statistics, advance, self.gather)
        self._told(made, counted(len(images)))
        if said := few(len(images)):
            self.progress.say(said)

    def _calibration(self, images: ImageSet) -> dict[str, Any]:
        return {"images": len(images), "dataset": images.digest, **self.recipe.quantization.model_dump()}

    def _pending(self, part: TargetPart, architecture: str) -> list[Pending]:
        target = Target.parse(part.target)
        backend = backends.find(target)
        precisions = list(dict.fromkeys(part.precisions or backend.precisions))
        made = []
        for precision in precisions:
            int8 = part.scheme or backend.scheme(target, architecture)
            scheme = {Precision.FP32: None, Precision.FP16: "fp16", Precision.INT8: int8}[precision]
            if scheme:
                schemes.find(scheme)
            baseline = precision is not Precision.INT8 and Precision.INT8 in precisions
            tuned = TargetPart(target=part.target, input=part.input) if baseline else part
            # Targets of one scheme share a Q/DQ file.
            name = f"model.{scheme}{f'.{target.slug}' if tuned.keep else ''}.onnx" if scheme else self.fp32.name
            made.append(Pending(target, precision, scheme, self.folder / name, tuned))
        return made

    def _quantize(self, cells: Sequence[Pending], calibration: ImageSet) -> None:
        """The ONNX file that some cells are built from, made if it is not there."""
        first = cells[0]
        if first.scheme is None:
            return
        try:
            with self.progress.step(f"quantize for {first.scheme}", None) as advance:
                made = quantize(
                    self.fp32,
                    self.statistics,
                    first.source,
                    scheme=first.scheme,
                    **self.recipe.quantization.model_dump(),
                    images=calibration,
                    keep=first.tuned.keep,
                    progress=advance,
                )
        except InputError:
            raise  # the data or the model is wrong, not the target
        except EdgeresError as error:
            for cell in cells:
                cell.known |= {"status": "failed", "message": str(error)}
            self.progress.say(f"{first.source.name}: failed. {error}")
            return
        self._told(made)

    def _errors(self, cells: Sequence[Pending], evaluation: ImageSet) -> None:
        """What INT8 costs each tensor; where that cannot be told, the cells go without."""
        source = cells[0].source
        out = source.with_suffix(".errors.json")
        found = tell(
            self.progress,
            self.folder,
            f"errors of {source.name}",
            lambda: explain.errors(self.fp32, source, evaluation, out),
        )
        for cell in cells if found is not None else ():
            cell.known["errors"] = found

    def _cell(self, cell: Pending, place: Place, made: Sequence[Pending], evaluation: ImageSet) -> Cell:
        return Cell(
            target=str(cell.target),
            device=place.name,
            precision=cell.precision,
            scheme=cell.scheme,
            **self._accuracy(cell, made, evaluation),
            **cell.known,
        )

    def _accuracy(self, cell: Pending, made: Sequence[Pending], evaluation: ImageSet) -> dict[str, Any]:
        """`accuracy` or `scores` of a cell of a place, against FP32 there on the same target, or else on the first
        that ran."""
        if cell.predictions is None:
            return {}
        if cell.predictions.suffix == ".json":
            return {"scores": maps.scores(cell.predictions)}
        found, reference = evaluate.predictions(cell.predictions), None
        if cell.precision is not Precision.FP32:
            exact = {c.target: c.predictions for c in made if c.precision is Precision.FP32 and c.predictions}
            path = exact.get(cell.target, next(iter(exact.values()), None))
            reference = None if path is None else evaluate.predictions(path)
        if found.task != "classification":
            return {"scores": evaluate.scores(found, reference)}
        if cell.precision is Precision.FP32 and evaluate.guesses(found):
            self.progress.say(f"{cell.target} {cell.precision}: {evaluate.GUESSES}")
        return {"accuracy": evaluate.illustrated(evaluate.accuracy(found, reference), evaluation)}

    def _told(self, made: Artifact, more: str = "") -> None:
        told(self.progress, made, self.folder, more)


def _cells(work: Work) -> list[Pending]:
    return [cell for _, groups in work for group in groups for cell in group]


def _by_source(cells: Iterable[Pending]) -> list[list[Pending]]:
    """The cells of each ONNX file."""
    found: dict[Path, list[Pending]] = {}
    for cell in cells:
        found.setdefault(cell.source, []).append(cell)
    return list(found.values())


def _model(exported: Artifact) -> Model:
    info = onnx_io.info(exported.path)
    parity = {name: float(value) for name, value in exported.sidecar.results.items() if isinstance(value, int | float)}
    digest = exported.sidecar.digest
    return Model(arch=info.arch, task=info.task, classes=info.outputs, digest=digest, parity=parity)
