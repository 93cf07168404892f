"""MLPerf's scenarios (Reddi et al., 2020, "MLPerf inference benchmark"), as MLCommons' LoadGen itself drives them.

LoadGen issues queries, takes the time, judges whether a run is valid, and writes the logs. What is here answers the
queries: one call a query in SingleStream, eight images at once in MultiStream, one after the other as they come in
Server, and batches with a stream for each thread in Offline.

    scenarios.py   what MLPerf asks for in each
    system.py      the engine and the images, as LoadGen calls them
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import onnx_io, store
from edgeres.data import ImageSet
from edgeres.errors import InputError, UsageError
from edgeres.loadgen.scenarios import IMAGES, OFFICIAL_SECONDS, SCENARIOS, SERVER_MS, find
from edgeres.loadgen.system import System
from edgeres.measure import refuse
from edgeres.measure.child import Subject, images_per_second, pixels, warm_up

QUALITY = 0.99
"""Share of FP32's accuracy that a closed-division result must reach."""
UTILISATION = 0.5
"""Of what calls one after the other give: Server's rate of queries where none is asked for."""
LOGS = "mlperf_log_"
KEPT = ("result_", "early_stopping_", "generated_samples_per_query", "num_errors", "loadgen_version")
"""How the entries of a detail log begin that are part of a result."""


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
    chosen = find(scenario)
    sut = System(subject, scenario, images)
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
    if (task := onnx_io.info(subject.path).task) != "classification":
        raise UsageError(f"{subject.path} is for {task}, MLPerf's quality is top-1; leave --reference out.")
    images.refuse(store.calibration(subject.path), f"of {subject.path}")
    shares = []
    for name, path in (("accuracy", subject.path), ("reference", reference)):
        sut = System(Subject(path, subject.target, subject.batch, subject.threads), scenario, images)
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
