"""Accuracy: top-1 and top-5 with intervals, and INT8 against FP32 on the same images."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import engines, onnx_io, store
from edgeres.data import ImageSet, batches
from edgeres.errors import InputError, UsageError
from edgeres.schema import Accuracy
from edgeres.store import Artifact, Sidecar
from edgeres.types import Target

TOP = 5
BATCH = 8
"""Images a call where the engine's batch is free."""


@dataclass(frozen=True)
class Predictions:
    """`top` int64 (N, k): the classes with the largest logits, best first, k = 5, or 1 of five classes or fewer;
    `labels` int64 (N,); `names` of the N images; `dataset` the digest of the image set."""

    top: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    dataset: str


def predict(
    engine: Path,
    target: Target,
    images: ImageSet,
    *,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> Predictions:
    """Run labelled images through an engine; `progress` is told how many more are done.

    Raises what `engines.load` raises; InputError where a label fits no class, an image cannot be used, or the engine
    gives NaN.
    """
    info = onnx_io.info(engine)
    labels = images.indices(info.classes, info.outputs)
    loaded = engines.load(engine, target, threads)
    fixed = loaded.input_shape[0]
    tops = []
    for batch in batches(images, info.preprocess, fixed or BATCH, labels):
        logits = loaded.run(onnx_io.padded(batch.images, fixed or len(batch.images)))[: len(batch.images)]
        if not np.isfinite(logits).all():
            raise InputError(f"{engine} gives NaN or infinite logits on {', '.join(batch.names)}; build it again.")
        tops.append(np.argsort(-logits, axis=1, kind="stable")[:, : TOP if logits.shape[1] > TOP else 1])
        progress(len(batch.images))
    return Predictions(np.concatenate(tops), labels, images.names, images.digest)


def evaluate(
    engine: Path,
    target: Target,
    images: ImageSet,
    out: Path,
    *,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> Artifact:
    """`predict`, kept as a file that `predictions` reads."""

    def write(path: Path) -> None:
        found = predict(engine, target, images, threads=threads, progress=progress)
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"names": np.array(found.names), "dataset": np.array(found.dataset)}
        np.savez_compressed(buffer, top=found.top, labels=found.labels, **arrays)
        path.write_bytes(buffer.getvalue())

    made_from = {"engine": store.digest(engine), "images": images.digest}
    parameters = {"target": str(target), "threads": threads, "model": onnx_io.info(engine).to_json()}
    packages = store.versions("edgeres", *engines.packages(target))
    return store.make(out, Sidecar("predictions", made_from, parameters, packages), write)


def predictions(path: Path) -> Predictions:
    """Read what `evaluate` wrote; UsageError where it is absent, InputError where it is damaged."""
    if not path.is_file():
        raise UsageError(f"there are no predictions at {path}; make them with `edgeres eval`.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["names"])
            return Predictions(arrays["top"], arrays["labels"], names, str(arrays["dataset"]))
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise InputError(f"{path} is not a predictions file ({error}); evaluate again.") from None


def accuracy(found: Predictions, reference: Predictions | None = None) -> Accuracy:
    """Top-1 and top-5, and the agreement with a reference on the same images; UsageError where they are others."""
    hits = found.top == found.labels[:, None]
    right, count = int(hits[:, 0].sum()), len(hits)
    agreement, flipped = None, []
    if reference is not None:
        if reference.dataset != found.dataset:
            raise UsageError("the reference was evaluated on other images; evaluate both on the same.")
        same = found.top[:, 0] == reference.top[:, 0]
        agreement = float(same.mean())
        flipped = [name for name, equal in zip(found.names, same, strict=True) if not equal]
    return Accuracy(
        images=count,
        dataset=found.dataset,
        top1=right / count,
        top1_interval=wilson(right, count),
        top5=float(hits.any(1).mean()) if hits.shape[1] == TOP else None,
        agreement=agreement,
        flipped=flipped,
    )


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson, "Probable inference", JASA 22, 1927): low and high, 0 to 1."""
    share, square = right / count, z * z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
