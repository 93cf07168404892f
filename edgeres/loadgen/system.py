"""The system under test and its sample library, in LoadGen's words."""

import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import engines, machine, onnx_io
from edgeres.backends import Engine
from edgeres.data import ImageSet, batches
from edgeres.errors import EdgeresError, InputError, MissingRuntime, UsageError
from edgeres.loadgen.scenarios import IMAGES, LOADED, OFFICIAL_QUERIES, OFFICIAL_SECONDS, SCENARIOS
from edgeres.measure.child import Subject, pixels
from edgeres.types import Images


class System:
    """An engine and the images that it is asked. MissingRuntime where LoadGen is not installed."""

    def __init__(self, subject: Subject, scenario: str, images: ImageSet | None) -> None:
        self.loadgen, self.scenario, self.images = _loadgen(), scenario, images
        streams = (subject.threads or machine.cores()) if scenario == "offline" else 1
        self.engine: Engine = engines.load(subject.path, subject.target, subject.threads, streams=streams)
        self.fixed = self.engine.input_shape[0]
        asked = {"multi-stream": IMAGES, "offline": subject.batch}.get(scenario, 1)
        self.batch = self.fixed or asked
        self.info = onnx_io.info(subject.path)
        self.held: dict[int, Images] = {}
        self.failure: Exception | None = None
        self.waiting: queue.Queue[Any] = queue.Queue()

    def settings(self, seconds: float, mode: str) -> Any:
        settings = self.loadgen.TestSettings()
        settings.scenario = getattr(self.loadgen.TestScenario, SCENARIOS[self.scenario].mode)
        settings.mode = getattr(self.loadgen.TestMode, mode)
        settings.min_duration_ms = round(1e3 * seconds)
        official = seconds >= OFFICIAL_SECONDS
        settings.min_query_count = OFFICIAL_QUERIES.get(self.scenario, settings.min_query_count) if official else 1
        return settings

    def run(self, settings: Any, out: Path) -> None:
        """One test; whatever went wrong in LoadGen's threads is raised here."""
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{out} cannot be made ({error.strerror}); give another folder for the logs.") from None
        logs = self.loadgen.LogSettings()
        logs.enable_trace = False
        logs.log_output.outdir = str(out)
        count = len(self.images) if self.images else LOADED
        library = self.loadgen.ConstructQSL(count, min(count, LOADED), self._load, self._unload)
        system = self.loadgen.ConstructSUT(self._issue, lambda: None)
        server = threading.Thread(target=self._serve, daemon=True)
        server.start()
        with _interruptible():
            self.loadgen.StartTestWithLogSettings(system, library, settings, logs)
        self.waiting.put(None)
        server.join()
        self.loadgen.DestroyQSL(library)
        self.loadgen.DestroySUT(system)
        if self.failure:
            raise self.failure

    def _load(self, indices: Sequence[int]) -> None:
        if self.images is None:
            picture = pixels(self.engine, 1)[0]
            self.held.update(dict.fromkeys(indices, picture))
            return
        try:
            decoded = batches(self.images.take(indices), self.info.preprocess, 1, frame=self.info.frame)
            self.held.update((index, batch.images[0]) for index, batch in zip(indices, decoded, strict=True))
        except EdgeresError as error:
            self.failure = error

    def _unload(self, indices: Sequence[int]) -> None:
        for index in indices:
            self.held.pop(index, None)

    def _issue(self, samples: Sequence[Any]) -> None:
        if self.scenario == "server":
            for sample in samples:
                self.waiting.put(sample)
        else:
            self._answer(samples)

    def _serve(self) -> None:
        for sample in iter(self.waiting.get, None):
            self._answer([sample])

    def _answer(self, samples: Sequence[Any]) -> None:
        """Complete queries as their batches come out; after a failure without an answer, so that LoadGen ends."""
        parts = [samples[start : start + self.batch] for start in range(0, len(samples), self.batch)]
        calls = (self._call(part) for part in parts)
        outputs = self.engine.stream(calls) if self.scenario == "offline" else map(self.engine.run, calls)
        for part in parts:
            classes = np.zeros(len(part), np.float32)
            if self.failure is None:
                try:
                    classes = self._classes(next(outputs)[: len(part)])
                except Exception as error:  # it would be lost in LoadGen's thread
                    self.failure = error
            places = range(classes.ctypes.data, classes.ctypes.data + classes.nbytes, classes.itemsize)
            answers = [
                self.loadgen.QuerySampleResponse(sample.id, place, classes.itemsize)
                for sample, place in zip(part, places, strict=True)
            ]
            self.loadgen.QuerySamplesComplete(answers)

    def _call(self, part: Sequence[Any]) -> Images:
        images = np.stack([self.held[sample.index] for sample in part])
        return onnx_io.padded(images, self.fixed or len(images))

    @staticmethod
    def _classes(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(logits).all():
            raise InputError("the engine gives NaN or infinite logits; build it again.")
        classes: NDArray[np.float32] = logits.argmax(1).astype(np.float32)
        return classes


@contextmanager
def _interruptible() -> Iterator[None]:
    """LoadGen knows no way to stop: an interrupt ends the process, as it ends those of other languages."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError:
        raise MissingRuntime("MLPerf's LoadGen is not installed; `pip install 'edgeres[loadgen]'`.") from None
    return mlperf_loadgen
