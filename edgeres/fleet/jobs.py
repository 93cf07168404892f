"""The work of an agent, in a process of its own: one line of JSON comes in, one goes out.

finish    build, evaluate and measure the cells of one target: see `edgeres.cells`
gather    statistics of some calibration images: see `edgeres.quantization.calibrate.gather`
predict   what an engine gives for some images: see `edgeres.evaluate.predict`
"""

import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgeres import cells, disk, evaluate, store
from edgeres.cells import Pending
from edgeres.data import ImageSet, open_images
from edgeres.errors import EdgeresError, InputError
from edgeres.fleet.objects import Objects, StoredImages
from edgeres.fleet.tasks import objects
from edgeres.quantization import calibrate, statistics
from edgeres.quantization.statistics import Calibration
from edgeres.recipe import BenchPart, TargetPart
from edgeres.types import Precision, Target

SLOWER = 2.0
"""A device that computes so many times slower than before is said to."""

Request = Mapping[str, Any]


class _Alive:
    """Progress that shows nothing, and the agent that the job goes on."""

    def __init__(self, kept: Objects) -> None:
        self.lock = kept.lock

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Callable[[int], object]]:
        self.lock.touch()
        yield self.advance

    def advance(self, done: int) -> None:
        self.lock.touch()

    def say(self, text: str) -> None:
        self.lock.touch()


def finish(request: Request, kept: Objects, folder: Path) -> dict[str, Any]:
    made = []
    for cell in request["cells"]:
        source = _file(kept, folder, cell["source"])
        tuned = TargetPart.model_validate(cell["tuned"])
        target = Target.parse(request["target"])
        made.append(Pending(target, Precision(cell["precision"]), cell["scheme"], source, tuned))
    bench, doubt = BenchPart.model_validate(request["bench"]), _slower(kept.folder / "speed.json")
    model, images = _file(kept, folder, request["model"]), _images(request, kept, folder)
    cells.finish(made, model, images, bench, folder, _Alive(kept))
    files: list[str] = []
    told = []
    for cell in made:
        known = dict(cell.known)
        if latency := known.get("latency"):
            notes = [*latency.notes, *([doubt] if doubt else [])]
            known["latency"] = {**latency.model_dump(), "notes": notes, "stable": not notes}
        told.append(
            {"known": known, "predictions": _given(kept, files, cell.predictions) if cell.predictions else None}
        )
    return {"cells": told, "files": files}


def gather(request: Request, kept: Objects, folder: Path) -> dict[str, Any]:
    scales = {name: np.array(values, np.float32) for name, values in request["scales"].items()}
    model, images = _file(kept, folder, request["model"]), _images(request, kept, folder)
    found = calibrate.gather(model, scales, images, Target.parse(request["target"]), _Alive(kept).advance)
    out = folder / "part.stats"
    files: list[str] = []
    statistics.save(Calibration(found, {}), out)
    return {"made": _given(kept, files, out), "files": files}


def predict(request: Request, kept: Objects, folder: Path) -> dict[str, Any]:
    engine, images = _file(kept, folder, request["model"]), _images(request, kept, folder)
    out = folder / "predictions" / f"{engine.stem}.{images.digest[:16]}.npz"
    target, threads = Target.parse(request["target"]), request["threads"]
    options = {"threads": threads, "settings": request["settings"], "progress": _Alive(kept).advance}
    evaluate.evaluate(engine, target, images, out, **options)
    files: list[str] = []
    return {"made": _given(kept, files, out), "files": files}


JOBS: dict[str, Callable[[Request, Objects, Path], dict[str, Any]]] = {
    "finish": finish,
    "gather": gather,
    "predict": predict,
}


def _given(kept: Objects, files: list[str], made: Path) -> str:
    """The name of a file that is handed back, with its sidecar."""
    name = made.relative_to(kept.folder).as_posix()
    files += [file for file in (name, f"{name}.json") if (kept.folder / file).exists()]
    return name


def _file(kept: Objects, folder: Path, told: Mapping[str, str]) -> Path:
    """A file and its sidecar under names that say of which kind they are."""
    if "/" in told["suffix"]:
        raise InputError(f"{told['suffix']!r} is no suffix of a file.")
    path = folder / f"{told['digest'][:16]}{told['suffix']}"
    for at, digest in ((path, told["digest"]), (store.sidecar_path(path), told["sidecar"])):
        if digest:
            whole = kept.whole(digest)
            at.unlink(missing_ok=True)
            at.symlink_to(whole.resolve())
    return path


def _images(request: Request, kept: Objects, folder: Path) -> ImageSet:
    manifest = disk.read_json(kept.whole(request["images"]))
    names = tuple(manifest["names"])
    if npz := manifest.get("npz"):
        images = open_images(_file(kept, folder, {"digest": npz, "suffix": ".npz", "sidecar": ""}))
        images = images.take(map(int, names))
    else:
        labels, digests = tuple(manifest["labels"]), tuple(manifest["digests"])
        images = StoredImages(kept.folder, kept.folder, names, labels, digests, None, kept)
    return images


def _slower(path: Path) -> str:
    """A sentence where this device computes much slower than at the best of times, and "" elsewhere; it is written
    down how fast it is."""
    square, calls, start = np.ones((512, 512), np.float32), 0, time.perf_counter()
    while calls < 5 or time.perf_counter() - start < 0.1:
        square @ square
        calls += 1
    rate = calls * 2 * len(square) ** 3 / (time.perf_counter() - start) / 1e9
    best: dict[str, Any] = disk.read_json(path) if path.exists() else {"gflops": 0.0, "date": ""}
    if rate > best["gflops"]:
        disk.write_json(path, {"gflops": rate, "date": datetime.date.today().isoformat()})
    if best["gflops"] < SLOWER * rate:
        return ""
    return (
        f"The device computes {best['gflops'] / rate:.1f} times slower than on {best['date']}: look at its power mode, "
        "its temperature and what else runs there."
    )


def main(name: str) -> None:
    """One job, one line of JSON."""
    request = json.loads(sys.stdin.read())
    try:
        kept = objects()
        kept.path(request["model"]["digest"])  # is one: it and the name become part of a path
        if name not in JOBS:
            raise InputError(f"{name!r} is no job; there are {', '.join(JOBS)}.")
        folder = kept.folder / "runs" / f"{name}.{request['model']['digest'][:32]}"
        folder.mkdir(parents=True, exist_ok=True)
        folder.touch()
        answer: dict[str, Any] = {"value": JOBS[name](request, kept, folder)}
    except EdgeresError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
