"""What a network with several outputs gives, held against FP32: both see the same images, side by side.

Nothing of it is kept but the figures: the maps of an image take megabytes. Each output has a signal-to-noise ratio and
a cosine similarity. Of a detector the boxes are compared, too; those of FP32 are the truth.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import bootstrap, boxes, disk, engines, onnx_io, store
from edgeres.data import ImageSet, batches
from edgeres.errors import BuildError, InputError
from edgeres.evaluate.detection import mean_average_precision
from edgeres.evaluate.paired import Array, Statistic, mean
from edgeres.evaluate.predicted import conditions
from edgeres.schema import Score
from edgeres.store import Artifact, Sidecar
from edgeres.types import Settings, Target, Task

TASKS: tuple[Task, ...] = ("features", "detection")
OVERLAPS = (0.5, 0.75)
"""IoU from which on two boxes are one."""
EXACT = Target("onnxruntime", "cpu")
"""Where the FP32 file runs, whatever the engine is for."""


def compare(
    engine: Path,
    target: Target,
    reference: Path,
    images: ImageSet,
    *,
    threads: int | None = None,
    settings: Settings | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> list[Score]:
    """Of a detector the mAP of its boxes at each of `OVERLAPS`, then of each output the SQNR over all values and
    images, dB, and the mean over images of the cosine similarity; the FP32 file `reference` is the truth.

    Raises what `engines.load` raises; UsageError where the engine was calibrated on some of the images, BuildError
    where it gives NaN.
    """
    info = onnx_io.info(engine)
    images.refuse(store.calibration(engine), f"of {engine}")
    ours, exact = engines.load(engine, target, threads, settings=settings), engines.load(reference, EXACT, threads)
    size = ours.input_shape[0] or exact.input_shape[0] or 1
    detect = boxes.detector(info.arch) if info.task == "detection" else None
    found: tuple[list[boxes.Boxes], list[boxes.Boxes]] = [], []
    products: dict[str, list[tuple[float, float, float]]] = {name: [] for name in exact.outputs}
    frames = batches(images, info.preprocess, size, frame=info.frame)
    for mine, batch in zip(frames, batches(images, info.preprocess, size), strict=True):
        count, sides = len(batch.images), batch.images.shape[2:]
        one, other = (
            {n: v[:count] for n, v in zip(e.outputs, e.maps(onnx_io.padded(b.images, size)), strict=True)}
            for e, b in ((ours, mine), (exact, batch))
        )
        for name, values in products.items():
            values += [_products(*pair) for pair in zip(one[name], other[name], strict=True)]
            if not np.isfinite(values[-1]).all():
                raise BuildError(f"{engine} gives NaN or infinite {name} on {', '.join(batch.names)}; build it again.")
        if detect:
            for kept, maps in zip(found, (one, other), strict=True):
                kept += detect(maps, sides)
        progress(count)
    common: dict[str, Any] = {"images": len(images), "dataset": images.digest}
    made = [
        Score(name=f"mAP@{overlap:g}", value=mean_average_precision(*found, overlap), unit="share", **common)
        for overlap in (OVERLAPS if detect else ())
    ]
    for name, values in products.items():
        noise, power, cosines = np.array(values).T
        figures: dict[str, Statistic] = {"SQNR": _decibel(power, noise), "cosine": mean(cosines)}
        for label, figure in figures.items():
            value = float(figure(np.ones((1, len(images))))[0])
            largest = 1.0 if label == "cosine" else math.inf
            interval = bootstrap.over_images(figure, len(images), (-largest, largest))
            told = {**common, "unit": "dB" if label == "SQNR" else "", "interval": interval}
            made.append(Score(name=f"{label} {name}", value=value, **told))
    return made


def _products(made: NDArray[np.float32], exact: NDArray[np.float32]) -> tuple[float, float, float]:
    """Of one image's map the power of the noise, the power of the exact map, and the cosine of the two."""
    after, before = made.ravel().astype(np.float64), exact.ravel().astype(np.float64)
    power, length = float(before @ before), float(np.sqrt((after @ after) * (before @ before)))
    return float(np.square(after - before).sum()), power, float(after @ before) / (length or 1.0)


def _decibel(power: Array, noise: Array) -> Statistic:
    """At most 200: what is exact has no ratio."""

    def statistic(weights: Array) -> Array:
        ratio = np.maximum(weights @ power, 1e-30) / np.maximum(weights @ noise, 1e-30)
        found: Array = np.minimum(10 * np.log10(ratio), 200.0)
        return found

    return statistic


def evaluate(
    engine: Path,
    target: Target,
    reference: Path,
    images: ImageSet,
    out: Path,
    *,
    threads: int | None = None,
    settings: Settings | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> Artifact:
    """`compare`, kept as a file that `scores` reads."""

    def write(path: Path) -> None:
        found = compare(engine, target, reference, images, threads=threads, settings=settings, progress=progress)
        path.write_text(json.dumps([score.model_dump() for score in found], indent=2), encoding="utf-8")

    made_from = {"engine": disk.digest(engine), "reference": disk.digest(reference), "images": images.digest}
    packages = store.versions("edgeres", "onnxruntime", *engines.packages(target))
    return store.make(out, Sidecar("maps", made_from, conditions(target, threads, settings), packages), write)


def scores(path: Path) -> list[Score]:
    """Read what `evaluate` wrote; UsageError where it is absent, InputError where it is damaged."""
    try:
        return [Score.model_validate(score) for score in disk.read_json(path)]
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} holds no figures of maps ({reason}); evaluate again.") from None
