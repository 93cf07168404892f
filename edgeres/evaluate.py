"""Accuracy: top-1 and top-5 with intervals, and INT8 against FP32 on the same images.

Images are decoded while others run, in the engine's throughput mode, and always as many a call: what is predicted for
one depends neither on its neighbours nor on the order.
"""

import base64
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import engines, machine, onnx_io, store
from edgeres.data import ImageSet, batches
from edgeres.errors import BuildError, InputError, UsageError
from edgeres.schema import Accuracy, ClassAccuracy, Flip, McNemar
from edgeres.store import Artifact, Sidecar
from edgeres.types import Settings, Target

TOP = 5
BATCH = 8
"""Images a call where the engine's batch is free."""
GUESSES = "top-1 is no better than guessing: are the images, and the order of their labels, those of the model?"
THUMBNAILS = 24
"""Flipped images that get a picture."""
THUMBNAIL = 96
"""Longer side of such a picture, in pixels."""


@dataclass(frozen=True)
class Predictions:
    """`top` int64 (N, k): the classes with the largest logits, best first, k = 5, or 1 of five classes or fewer;
    `labels` int64 (N,); `names` of the N images; `classes`: what the model's outputs are called, their indices where
    they have no names; `dataset` the digest of the image set; `images_per_second` of decoding and inference together,
    None where it is not known."""

    top: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    dataset: str
    images_per_second: float | None = None


def predict(
    engine: Path,
    target: Target,
    images: ImageSet,
    *,
    threads: int | None = None,
    settings: Settings | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> Predictions:
    """Run labelled images through an engine; `progress` is told how many more are done.

    Raises what `engines.load` raises; UsageError where the engine was calibrated on some of the images; InputError
    where a label fits no class or an image cannot be used, BuildError where the engine gives NaN.
    """
    info = onnx_io.info(engine)
    labels = images.indices(info.classes, info.outputs)
    images.refuse(store.calibration(engine), f"of {engine}")
    loaded = engines.load(engine, target, threads, streams=0, settings=settings)
    size = loaded.input_shape[0] or BATCH

    def given() -> Iterator[NDArray[np.float32]]:
        return (onnx_io.padded(batch.images, size) for batch in batches(images, info.preprocess, size))

    start, tops = time.perf_counter(), []
    for first, output in zip(range(0, len(images), size), loaded.stream(given()), strict=True):
        names = images.names[first : first + size]
        logits = output[: len(names)]
        if not np.isfinite(logits).all():
            raise BuildError(f"{engine} gives NaN or infinite logits on {', '.join(names)}; build it again.")
        tops.append(np.argsort(-logits, axis=1, kind="stable")[:, : TOP if logits.shape[1] > TOP else 1])
        progress(len(names))
    rate = len(images) / (time.perf_counter() - start)
    classes = info.classes or tuple(map(str, range(info.outputs)))
    return Predictions(np.concatenate(tops), labels, images.names, classes, images.digest, rate)


def evaluate(
    engine: Path,
    target: Target,
    images: ImageSet,
    out: Path,
    *,
    threads: int | None = None,
    settings: Settings | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> Artifact:
    """`predict`, kept as a file that `predictions` reads."""

    def write(path: Path) -> dict[str, Any]:
        found = predict(engine, target, images, threads=threads, settings=settings, progress=progress)
        texts: dict[str, Any] = {key: np.array(getattr(found, key)) for key in ("names", "classes", "dataset")}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, top=found.top, labels=found.labels, **texts)
        path.write_bytes(buffer.getvalue())
        return {"images_per_second": found.images_per_second}

    made_from = {"engine": store.digest(engine), "images": images.digest}
    parameters: dict[str, Any] = {
        "target": str(target),
        "threads": threads,
        "machine": machine.describe().identity,  # without VNNI the same engine can answer otherwise
        "model": onnx_io.info(engine).to_json(),
    }
    if settings:
        parameters["settings"] = dict(settings)
    packages = store.versions("edgeres", *engines.packages(target))
    return store.make(out, Sidecar("predictions/2", made_from, parameters, packages), write)


def predictions(path: Path) -> Predictions:
    """Read what `evaluate` wrote; UsageError where it is absent, InputError where it is damaged."""
    if not path.is_file():
        raise UsageError(f"there are no predictions at {path}; make them with `edgeres eval`.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, classes = (tuple(map(str, arrays[key])) for key in ("names", "classes"))
            found = Predictions(arrays["top"], arrays["labels"], names, classes, str(arrays["dataset"]))
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise InputError(f"{path} is not a predictions file ({error}); evaluate again.") from None
    sidecar = store.read_sidecar(path)
    return replace(found, images_per_second=sidecar.results.get("images_per_second") if sidecar else None)


def accuracy(found: Predictions, reference: Predictions | None = None) -> Accuracy:
    """Top-1 and top-5, and what differs from a reference on the same images; UsageError where they are others.

    Flipped images have no thumbnails: see `illustrated`.
    """
    if reference is not None and reference.dataset != found.dataset:
        raise UsageError("the reference was evaluated on other images; evaluate both on the same.")
    hits = found.top == found.labels[:, None]
    right, count = int(hits[:, 0].sum()), len(hits)
    return Accuracy(
        images=count,
        dataset=found.dataset,
        top1=right / count,
        top1_interval=wilson(right, count),
        top5=float(hits.any(1).mean()) if hits.shape[1] == TOP else None,
        classes=_classes(found, reference),
        images_per_second=found.images_per_second,
        **_compared(found, reference) if reference is not None else {},
    )


def _compared(found: Predictions, reference: Predictions) -> dict[str, Any]:
    """What an `Accuracy` says of two predictions of the same images."""
    right, before = (one.top[:, 0] == one.labels for one in (found, reference))
    same = found.top[:, 0] == reference.top[:, 0]
    flipped = [
        Flip(
            name=found.names[index],
            label=found.classes[found.labels[index]],
            reference=found.classes[reference.top[index, 0]],
            predicted=found.classes[found.top[index, 0]],
        )
        for index in np.flatnonzero(~same)
    ]
    return {
        "agreement": float(same.mean()),
        "agreement_interval": wilson(int(same.sum()), len(same)),
        "mcnemar": mcnemar(int((before & ~right).sum()), int((right & ~before).sum())),
        "flipped": flipped,
    }


def _classes(found: Predictions, reference: Predictions | None) -> list[ClassAccuracy]:
    """Of each class that has images, in the order of the model's outputs."""

    def counted(labels: NDArray[np.int64]) -> list[int]:
        return list(map(int, np.bincount(labels, minlength=len(found.classes))))

    def right(one: Predictions) -> list[int]:
        return counted(one.labels[one.top[:, 0] == one.labels])

    rows = zip(found.classes, counted(found.labels), right(found), right(reference or found), strict=True)
    return [
        ClassAccuracy(name=name, images=count, top1=now / count, reference=before / count if reference else None)
        for name, count, now, before in rows
        if count
    ]


def illustrated(found: Accuracy, images: ImageSet) -> Accuracy:
    """With thumbnails of the first `THUMBNAILS` flipped images; one that cannot be made is left out."""
    positions = {name: index for index, name in enumerate(images.names)}

    def picture(flip: Flip) -> Flip:
        try:
            image, buffer = images.image(positions[flip.name]), io.BytesIO()
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            image.save(buffer, "JPEG", quality=80)
        except Exception:  # an ornament: the figures stand without it
            return flip
        return flip.model_copy(update={"thumbnail": base64.b64encode(buffer.getvalue()).decode()})

    flipped = [*map(picture, found.flipped[:THUMBNAILS]), *found.flipped[THUMBNAILS:]]
    return found.model_copy(update={"flipped": flipped})


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson, "Probable inference", JASA 22, 1927): low and high, 0 to 1."""
    share, square = right / count, z * z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(lost: int, gained: int) -> McNemar:
    """The exact two-sided test of paired shares (McNemar, Psychometrika 12, 1947; exact: Fagerland et al., BMC Medical
    Research Methodology 13, 2013): where neither is better, each difference falls to either side like a coin."""
    count, fewer = lost + gained, min(lost, gained)
    tail = term = 1
    for index in range(fewer):
        term = term * (count - index) // (index + 1)
        tail += term
    return McNemar(lost=lost, gained=gained, p=min(1.0, 2 * tail / 2**count))


def guesses(found: Predictions) -> bool:
    """Whether the top-1 may be that of guessing, by its interval: of other images, or of labels in another order."""
    right = int((found.top[:, 0] == found.labels).sum())
    return wilson(right, len(found.labels))[0] <= 1 / len(found.classes)
