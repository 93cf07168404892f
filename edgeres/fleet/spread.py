"""One network's calibration or evaluation, shared out among agents; the outcome is that of one machine, bit for bit.

Statistics are integers that are added up, an image is predicted by itself: it makes no difference who sees which. That
holds for machines that compute alike, so only agents with the CPU, the instruction sets and the packages of this one
take part.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from edgeres import evaluate, locks, machine, onnx_io, store
from edgeres.data import ImageSet
from edgeres.errors import EdgeresError
from edgeres.evaluate import Predictions
from edgeres.fleet import tasks
from edgeres.fleet.client import Fleet, Parcel
from edgeres.quantization import statistics
from edgeres.quantization.statistics import TensorStatistics
from edgeres.schema import Machine
from edgeres.types import Settings, Target

SHARE = 128
"""Images of a piece of work: some seconds of one machine, which is what a lost one costs."""


class Workers:
    """The agents of a fleet that compute as this machine does."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, here = fleet, machine.describe()
        self.names = [name for name in fleet.names() if self._alike(name, here)]
        if not self.names:
            raise EdgeresError(
                f"no agent at {fleet.address} computes as this machine does ({here.identity}, the same packages); "
                "start `edgeres agent` on machines like it, or measure on the others with --devices."
            )

    def _alike(self, name: str, here: Machine) -> bool:
        try:
            there = self.fleet.machine(name)
        except EdgeresError:  # it went meanwhile, or is another edgeres; the others are enough
            return False
        return (there.identity, there.packages) == (here.identity, here.packages)

    def gather(
        self,
        model: Path,
        scales: Mapping[str, Any],
        images: ImageSet,
        target: Target,
        progress: Callable[[int], object] = lambda images: None,
    ) -> dict[str, TensorStatistics]:
        """As `edgeres.quantization.calibrate.gather`."""
        request = {"scales": {name: values.tolist() for name, values in scales.items()}, "target": str(target)}
        found = self._each("gather", request, model, images, progress)
        parts = [_read(content, statistics.load).tensors for content in found]
        return {name: reduce(add, (part[name] for part in parts)) for name in parts[0]}

    def predict(
        self,
        engine: Path,
        target: Target,
        images: ImageSet,
        *,
        threads: int | None = None,
        settings: Settings | None = None,
        progress: Callable[[int], object] = lambda images: None,
    ) -> Predictions:
        """As `edgeres.evaluate.predict`; `images_per_second` is that of all agents together."""
        images.refuse(store.calibration(engine), f"of {engine}")
        request = {"threads": threads, "settings": dict(settings or {}), "target": str(target)}
        start = time.perf_counter()
        parts = [_read(one, evaluate.predictions) for one in self._each("predict", request, engine, images, progress)]
        return replace(
            parts[0],
            outputs=np.concatenate([part.outputs for part in parts]),
            labels=evaluate.truth(images, onnx_io.info(engine)),
            names=images.names,
            dataset=images.digest,
            images_per_second=len(images) / (time.perf_counter() - start),
        )

    def _each(
        self,
        job: str,
        request: Mapping[str, Any],
        model: Path,
        images: ImageSet,
        progress: Callable[[int], object],
    ) -> Iterator[bytes]:
        """What the agents make of all shares of the images, in their order. Whoever is free takes the next; what is
        left by an agent that fails, others do; where none is left its error is raised."""
        starts = range(0, len(images), SHARE)
        waiting: SimpleQueue[int] = SimpleQueue()
        for start in starts:
            waiting.put(start)
        answers: dict[int, bytes] = {}

        def serve(name: str) -> EdgeresError | None:
            while True:
                try:
                    start = waiting.get_nowait()
                except Empty:
                    return None
                share, parcel = images.take(range(start, min(start + SHARE, len(images)))), Parcel()
                asked = {**request, "model": parcel.file(model), "images": parcel.images(share)}
                try:
                    self.fleet.send(name, parcel.files)
                    answer = self.fleet.ask(name, tasks.job, job, asked)
                except EdgeresError as error:
                    waiting.put(start)
                    if type(error) is EdgeresError:  # the agent's own trouble, not that of images or model
                        return error
                    raise
                answers[start] = answer["files"][answer["made"]]
                progress(len(share))

        able = self.names
        with ThreadPoolExecutor(len(able)) as pool:
            while len(answers) < len(starts):
                ended = list(zip(able, pool.map(serve, able), strict=True))
                able = [name for name, error in ended if error is None]
                if not able:
                    raise next(error for _, error in ended if error)
        return (answers[start] for start in starts)


_Read = TypeVar("_Read")


def _read(content: bytes, reader: Callable[[Path], _Read]) -> _Read:
    """What is read from a file of these bytes."""
    with locks.scratch() as folder:
        path = folder / "part"
        path.write_bytes(content)
        return reader(path)
