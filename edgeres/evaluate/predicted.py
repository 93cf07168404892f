"""What an engine gives for images, and the file that keeps it.

Images are decoded while others run, in the engine's throughput mode, and always as many a call: what is predicted for
one depends neither on its neighbours nor on the order.
"""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from edgeres import archive, disk, engines, labels, machine, onnx_io, store
from edgeres.data import ImageSet, batches
from edgeres.errors import BuildError, EdgeresError, InputError, UsageError
from edgeres.onnx_io import ModelInfo
from edgeres.store import Artifact, Sidecar
from edgeres.types import Images, Settings, Target, Task

TOP = 5
BATCH = 8
"""Images a call where the engine's batch is free."""


@dataclass(frozen=True)
class Predictions:
    """What is kept of an engine's answers for N images.

    `outputs`: of classification int64 (N, k), the classes with the largest logits, best first, k = 5, or 1 of five
    classes or fewer; of every other task the output itself, float32 (N, D). `labels`: int64 (N,) of classification and
    embeddings (-1 where unknown), bool (N, D) of multi-label, float32 (N, D) of regression. `names` of the N images;
    `classes`: what the model's outputs are called, their indices where they have no names; `dataset` the digest of the
    image set; `images_per_second` of decoding and inference together, None where it is not known.
    """

    outputs: NDArray[Any]
    labels: NDArray[Any]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    dataset: str
    task: Task = "classification"
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
    where a label does not fit the model or an image cannot be used, BuildError where the engine gives NaN.
    """
    info = onnx_io.info(engine)
    known = truth(images, info)
    images.refuse(store.calibration(engine), f"of {engine}")
    loaded = engines.load(engine, target, threads, streams=0, settings=settings)
    size = loaded.input_shape[0] or BATCH

    def given() -> Iterator[Images]:
        decoded = batches(images, info.preprocess, size, frame=info.frame)
        return (onnx_io.padded(batch.images, size) for batch in decoded)

    start, kept = time.perf_counter(), []
    for first, output in zip(range(0, len(images), size), loaded.stream(given()), strict=True):
        names = images.names[first : first + size]
        found = output[: len(names)]
        if not np.isfinite(found).all():
            raise BuildError(f"{engine} gives NaN or infinite outputs on {', '.join(names)}; build it again.")
        kept.append(_top(found) if info.task == "classification" else found.astype(np.float32))
        progress(len(names))
    rate = len(images) / (time.perf_counter() - start)
    classes = info.classes or tuple(map(str, range(info.outputs)))
    return Predictions(np.concatenate(kept), known, images.names, classes, images.digest, info.task, rate)


Predict = Callable[..., Predictions]
"""What has the arguments of `predict`, and gives the same."""


def _top(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    ranked: NDArray[np.int64] = np.argsort(-logits, axis=1, kind="stable")
    return ranked[:, : TOP if logits.shape[1] > TOP else 1]


def truth(images: ImageSet, info: ModelInfo) -> NDArray[Any]:
    """What the task takes as the truth."""
    if info.task == "classification":
        return images.indices(info.classes, info.outputs)
    if info.task == "multi-label":
        return images.multi_hot(info.classes, info.outputs)
    if info.task == "regression":
        return images.values(info.outputs)
    if info.task == "embedding":
        return labels.groups(images.labels)
    raise UsageError(f"the accuracy of {info.task} is not measured by this command; see `edgeres --help`.")


def evaluate(
    engine: Path,
    target: Target,
    images: ImageSet,
    out: Path,
    *,
    threads: int | None = None,
    settings: Settings | None = None,
    progress: Callable[[int], object] = lambda images: None,
    predict: Predict = predict,
) -> Artifact:
    """`predict`, kept as a file that `predictions` reads."""

    def write(path: Path) -> dict[str, Any]:
        found = predict(engine, target, images, threads=threads, settings=settings, progress=progress)
        texts: dict[str, Any] = {key: np.array(getattr(found, key)) for key in ("names", "classes", "dataset", "task")}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, outputs=found.outputs, labels=found.labels, **texts)
        path.write_bytes(buffer.getvalue())
        return {"images_per_second": found.images_per_second}

    made_from = {"engine": disk.digest(engine), "images": images.digest}
    parameters = {**conditions(target, threads, settings), "model": onnx_io.info(engine).to_json()}
    packages = store.versions("edgeres", *engines.packages(target))
    return store.make(out, Sidecar("predictions/3", made_from, parameters, packages), write)


def conditions(target: Target, threads: int | None, settings: Settings | None) -> dict[str, Any]:
    """Under what an engine answered, as parameters of an artifact: without VNNI the same one can answer otherwise."""
    told = {"target": str(target), "threads": threads, "machine": machine.describe().identity}
    return {**told, "settings": dict(settings)} if settings else told


def predictions(path: Path) -> Predictions:
    """Read what `evaluate` wrote; UsageError where it is absent, InputError where it is damaged."""
    if not path.is_file():
        raise UsageError(f"there are no predictions at {path}; make them with `edgeres eval`.")
    sidecar = store.read_sidecar(path)
    try:
        if sidecar and sidecar.digest != disk.digest(path):
            raise ValueError("it is not the file that its sidecar describes")
        arrays = archive.arrays(path)
        names, classes = (tuple(map(str, arrays[key])) for key in ("names", "classes"))
        task: Any = str(arrays["task"])
        found = Predictions(arrays["outputs"], arrays["labels"], names, classes, str(arrays["dataset"]), task)
        if task not in get_args(Task) or not len(found.outputs) == len(found.labels) == len(names):
            raise ValueError("not one answer and one label an image")
        if task == "classification":
            for indices, least in ((found.outputs, 0), (found.labels, -1)):
                if indices.dtype != np.int64 or not ((indices >= least) & (indices < len(classes))).all():
                    raise ValueError("an answer or a label is no class")
    except EdgeresError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise InputError(f"{path} is not a predictions file ({error}); evaluate again.") from None
    return replace(found, images_per_second=sidecar.results.get("images_per_second") if sidecar else None)


def same_images(found: Predictions, reference: Predictions) -> None:
    """UsageError where two predictions cannot be compared."""
    if reference.dataset != found.dataset:
        raise UsageError("the reference was evaluated on other images; evaluate both on the same.")
    if (reference.task, reference.outputs.shape) != (found.task, found.outputs.shape):
        raise UsageError("the reference is another kind of model; give the FP32 file of the same network.")
