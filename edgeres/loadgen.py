"""MLPerf's scenarios (Reddi et al., 2020, "MLPerf inference benchmark"), as MLCommons' LoadGen itself drives them.

LoadGen issues queries, takes the time, judges whether a run is valid, and writes the logs. What is here answers the
queries: one call a query in SingleStream, eight images at once in MultiStream, one after the other as they come in
Server, and batches with a stream for each thread in Offline.
"""

import json
import math
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import engines, machine, onnx_io, store
from edgeres.backends import Engine
from edgeres.data import ImageSet, batches
from edgeres.errors import EdgeresError, InputError, MissingRuntime, UsageError
from edgeres.measure import refuse
from edgeres.measure.child import Subject, images_per_second, pixels, warm_up
from edgeres.types import Images

OFFICIAL_SECONDS = 600.0
"""Shortest official run: `*.min_duration` in LoadGen's mlperf.conf."""
OFFICIAL_QUERIES = {"multi-stream": 662, "offline": 24_576}
"""Fewest queries, in Offline images, of an official run: there as well, for resnet50; LoadGen's early stopping asks for
more where a percentile is still uncertain."""
SERVER_MS = 15.0
"""The latency that 99 % of Server's queries must keep: there as well, for resnet50."""
LOADED = 1024
"""Most images held in memory at once: there as well, for resnet50."""
QUALITY = 0.99
"""Share of FP32's accuracy that a closed-division result must reach."""
IMAGES = 8
"""A query of MultiStream."""
UTILISATION = 0.5
"""Of what calls one after the other give: Server's rate of queries where none is asked for."""
LOGS = "mlperf_log_"
KEPT = ("result_", "early_stopping_", "generated_samples_per_query", "num_errors", "loadgen_version")
"""How the entries of a detail log begin that are part of a result."""


@dataclass(frozen=True)
class Scenario:
    """`mode` is LoadGen's name; `key` of its detail log holds the `metric`, in nanoseconds where `unit` is ms, and
    `estimate` what early stopping takes it for."""

    mode: str
    metric: str
    unit: str
    key: str
    estimate: str = ""


SCENARIOS = {
    "single-stream": Scenario(
        "SingleStream",
        "90th percentile latency",
        "ms",
        "result_90.00_percentile_latency_ns",
        "early_stopping_latency_ss",
    ),
    "multi-stream": Scenario(
        "MultiStream",
        f"99th percentile latency of {IMAGES} images",
        "ms",
        "result_99.00_percentile_per_query_latency_ns",
        "early_stopping_latency_ms",
    ),
    "server": Scenario("Server", "scheduled rate", "queries/s", "result_scheduled_samples_per_sec"),
    "offline": Scenario("Offline", "throughput", "images/s", "result_samples_per_second"),
}


@dataclass(frozen=True)
class Result:
    """What LoadGen found with so many `images`. `value` is the scenario's metric in `unit`; `reasons` say why a run is
    not valid, or not an official one; `log` is every result of its detail log."""

    scenario: str
    valid: bool
    metric: str
    value: float
    unit: str
    images: int
    reasons: tuple[str, ...]
    properties: dict[str, str]
    log: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Quality:
    """Top-1 shares on the same images, and whether the engine keeps QUALITY of FP32's."""

    images: int
    top1: float
    reference: float

    @property
    def passed(self) -> bool:
        return self.top1 >= QUALITY * self.reference


def find(scenario: str) -> Scenario:
    """UsageError where there is no such scenario."""
    if scenario not in SCENARIOS:
        raise UsageError(f"there is no scenario {scenario!r}; there are {', '.join(SCENARIOS)}.")
    return SCENARIOS[scenario]


def run(
    subject: Subject,
    scenario: str,
    out: Path,
    images: ImageSet | None = None,
    *,
    seconds: float = OFFICIAL_SECONDS,
    qps: float | None = None,
    bound_ms: float = SERVER_MS,
) -> Result:
    """Let LoadGen measure an engine for `seconds` or more; its logs are written to the folder `out`.

    `images` None measures on random pixels. `qps` is Server's rate of queries a second, None for one that suits the
    engine. Raises what `engines.load` and reading images raise; UsageError for an unknown scenario and an emulated
    target, MissingRuntime where LoadGen is not installed.
    """
    refuse(subject.target)
    chosen, loadgen = find(scenario), _loadgen()
    sut = _System(loadgen, subject, scenario, images)
    settings = sut.settings(seconds, "PerformanceOnly")
    call = pixels(sut.engine, sut.batch)
    *_, milliseconds = warm_up(lambda: sut.engine.run(call))
    # LoadGen makes its queries beforehand: enough of them, if calls were twice as fast as they are now.
    settings.single_stream_expected_latency_ns = round(milliseconds * 1e6 / 2)
    settings.multi_stream_expected_latency_ns = round(milliseconds * 1e6 / 2 * math.ceil(IMAGES / sut.batch))
    settings.server_target_qps = qps or UTILISATION * 1e3 / milliseconds
    settings.server_target_latency_ns = round(bound_ms * 1e6)
    if scenario == "offline":
        settings.offline_expected_qps = 1.1 * images_per_second(sut.engine, call)
    sut.run(settings, out)
    log = _read(out)
    value = float(log[chosen.key])
    return Result(
        scenario=scenario,
        valid=log["result_validity"] == "VALID",
        metric=chosen.metric,
        value=value / 1e6 if chosen.unit == "ms" else value,
        unit=chosen.unit,
        images=int(log["result_query_count"]) * int(log["generated_samples_per_query"]),
        reasons=tuple(_reasons(log, seconds)),
        properties=dict(sut.engine.properties),
        log=log,
    )


def quality(subject: Subject, reference: Path, scenario: str, images: ImageSet, out: Path) -> Quality:
    """MLPerf's accuracy mode: every image once through LoadGen, of an engine and of FP32; logs below `out`.

    Raises as `run`; InputError where a label fits no class, UsageError where the engine was calibrated on some image,
    or is no classifier.
    """
    loadgen = _loadgen()
    if (task := onnx_io.info(subject.path).task) != "classification":
        raise UsageError(f"{subject.path} is for {task}, MLPerf's quality is top-1; leave --reference out.")
    images.refuse(store.calibration(subject.path), f"of {subject.path}")
    shares = []
    for name, path in (("accuracy", subject.path), ("reference", reference)):
        sut = _System(loadgen, Subject(path, subject.target, subject.batch, subject.threads), scenario, images)
        info = onnx_io.info(path)
        labels = images.indices(info.classes, info.outputs)
        settings = sut.settings(0.0, "AccuracyOnly")
        settings.server_target_qps = 1e4  # nothing is timed: all may wait at once
        sut.run(settings, out / name)
        shares.append(top1(out / name / f"{LOGS}accuracy.json", labels))
    return Quality(len(images), *shares)


def top1(log: Path, labels: NDArray[np.int64]) -> float:
    """The share of right answers in an accuracy log, by the index of the image; of answers to one image the first."""
    answers: dict[int, int] = {}
    for entry in json.loads(log.read_text(encoding="utf-8")):
        answers.setdefault(entry["qsl_idx"], int(np.frombuffer(bytes.fromhex(entry["data"]), np.float32)[0]))
    if set(answers) != set(range(len(labels))):
        raise InputError(f"{log} answers {len(answers)} of {len(labels)} images; measure again.")
    return sum(int(labels[index]) == answer for index, answer in answers.items()) / len(labels)


def to_json(result: Result, kept: Quality | None) -> dict[str, Any]:
    """Both as plain values."""
    return {**asdict(result), "quality": {**asdict(kept), "passed": kept.passed} if kept else None}


def text(result: Result, kept: Quality | None) -> str:
    """The scenario's metric, whether the run is valid, and whether enough of FP32's accuracy is kept."""
    estimate = result.log.get(SCENARIOS[result.scenario].estimate)
    published = f" (MLPerf publishes early stopping's estimate, {estimate / 1e6:.2f} ms)" if estimate else ""
    lines = [
        f"{result.scenario}: {result.metric} {result.value:.2f} {result.unit}{published}, {result.images} images",
        f"LoadGen {result.log['loadgen_version'].partition(' ')[0]}: {'VALID' if result.valid else 'INVALID'}",
        *result.reasons,
    ]
    if kept:
        share = kept.top1 / kept.reference if kept.reference else math.nan
        lines.append(
            f"top-1 {kept.top1:.2%} of {kept.images} images, {share:.2%} of FP32's {kept.reference:.2%}: "
            f"{'keeps' if kept.passed else 'MISSES'} the {QUALITY:.0%} that MLPerf asks for"
        )
    return "\n".join(lines)


class _System:
    """The system under test and its sample library, in LoadGen's words: an engine and the images that it is asked."""

    def __init__(self, loadgen: Any, subject: Subject, scenario: str, images: ImageSet | None) -> None:
        self.loadgen, self.scenario, self.images = loadgen, scenario, images
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


def _reasons(log: dict[str, Any], seconds: float) -> Iterator[str]:
    """Why a run is not valid, in LoadGen's words, or not official."""
    if reason := _plain(log.get("result_invalid_reason", "")):
        yield reason
    if log.get("early_stopping_met") is False:
        yield _plain(log["early_stopping_result"])
    if log.get("num_errors"):
        yield f"LoadGen met {log['num_errors']} errors; see its detail log."
    if seconds < OFFICIAL_SECONDS:
        yield f"{seconds:g} s make no official run: MLPerf asks for {OFFICIAL_SECONDS:g} s."


def _plain(text: str) -> str:
    return " ".join(text.replace(" * ", " ").split())


def _read(out: Path) -> dict[str, Any]:
    """Every result of a detail log, by its key."""
    lines = (out / f"{LOGS}detail.txt").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line.removeprefix(":::MLLOG")) for line in lines if line.startswith(":::MLLOG")]
    return {entry["key"]: entry["value"] for entry in entries if entry["key"].startswith(KEPT)}


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError:
        raise MissingRuntime("MLPerf's LoadGen is not installed; `pip install 'edgeres[loadgen]'`.") from None
    return mlperf_loadgen
