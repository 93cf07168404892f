"""Latency: raw samples of a warm engine in a process of its own.

Several engines are measured in turn, one fresh process a round, so that what changes on the machine meanwhile changes
for all of them: compare figures of one call, as ratios. The clock is `time.perf_counter_ns`, around the whole call:
host to host.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import engines, errors
from edgeres.errors import EdgeresError
from edgeres.schema import Latency
from edgeres.types import Target

ROUNDS = 3
SAMPLES = 50
"""Fewest timed calls a round."""
SECONDS = 2.0
"""Shortest timed span of a round."""
LONGEST = 20.0
"""A round stops here, however slow the engine, once it has five samples."""
WARM_WINDOW = 10
WARM_CHANGE = 0.02
WARM_LONGEST = 5.0
SPREAD = 0.25
"""Interquartile range over median, and difference of the rounds' medians, above which figures are called unstable."""


@dataclass(frozen=True)
class Subject:
    """An engine file to be measured. `threads` None leaves the runtime's default; a fixed batch is the engine's own."""

    path: Path
    target: Target
    batch: int = 1
    threads: int | None = None


@dataclass(frozen=True)
class Measured:
    """The latency and what the runtime said that it ran."""

    latency: Latency
    properties: dict[str, str]


def measure(
    subjects: Sequence[Subject], rounds: int = ROUNDS, progress: Callable[[int], object] = lambda rounds: None
) -> list[Measured]:
    """Measure engines in turn, `rounds` fresh processes each; `progress` is told of each round that is done.

    Raises what loading the engine raises, and EdgeresError where the process dies.
    """
    outcomes: list[list[dict[str, Any]]] = [[] for _ in subjects]
    for _ in range(rounds):
        for subject, outcome in zip(subjects, outcomes, strict=True):
            outcome.append(_in_a_process(subject))
            progress(1)
    return [_summary(outcome) for outcome in outcomes]


def _in_a_process(subject: Subject) -> dict[str, Any]:
    request = [str(subject.path), str(subject.target), str(subject.batch), str(subject.threads or "")]
    command = [sys.executable, "-m", "edgeres.measure", *request]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EdgeresError(
            f"measuring {subject.path} on {subject.target} died with status {done.returncode}: {last}"
        ) from None
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer


def _summary(rounds: Sequence[dict[str, Any]]) -> Measured:
    """Pool the samples of all rounds, and say what makes them doubtful."""
    batch = int(rounds[0]["batch"])
    pooled = np.concatenate([np.array(one["samples"]) for one in rounds])
    p25, p50, p75, p90, p99 = np.percentile(pooled, [25, 50, 75, 90, 99])
    medians = [float(np.median(one["samples"])) for one in rounds]
    notes = []
    if (p75 - p25) / p50 > SPREAD:
        notes.append(f"The middle half of the calls spreads over {(p75 - p25) / p50:.0%} of the median.")
    if max(medians) / min(medians) - 1 > SPREAD:
        notes.append(f"The medians of the rounds lie between {min(medians):.2f} and {max(medians):.2f} ms.")
    if not all(one["steady"] for one in rounds):
        notes.append(f"A warm-up was not steady after {WARM_LONGEST:g} s.")
    latency = Latency(
        p50=p50,
        p90=p90,
        p99=p99,
        batch=batch,
        throughput=batch * len(pooled) / (pooled.sum() / 1e3),
        samples=[round(float(sample), 4) for sample in pooled],
        warmup=sum(one["warmup"] for one in rounds),
        stable=not notes,
        notes=notes,
    )
    return Measured(latency, rounds[0]["properties"])


def sample(call: Callable[[], object]) -> tuple[list[float], int, bool]:
    """Warm up until the median of a window no longer falls, then time calls: (milliseconds, warm-up calls, steady)."""
    start = time.monotonic()
    before, warmup, steady = float("inf"), 0, False
    while not steady and time.monotonic() - start < WARM_LONGEST:
        now = float(np.median([_timed(call) for _ in range(WARM_WINDOW)]))
        warmup += WARM_WINDOW
        steady = now > before * (1 - WARM_CHANGE)
        before = now
    samples: list[float] = []
    start = time.monotonic()
    gc.disable()
    while (span := time.monotonic() - start) < SECONDS or len(samples) < SAMPLES:
        if span > LONGEST and len(samples) >= 5:
            break
        samples.append(_timed(call))
    gc.enable()
    return samples, warmup, steady


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def _images(shape: tuple[int | None, ...], batch: int) -> NDArray[np.float32]:
    """Normalised pixels of no particular picture: a convolution takes as long on any."""
    size = (shape[0] or batch, *(side or 1 for side in shape[1:]))
    return np.random.default_rng(0).standard_normal(size, np.float32)


def main(path: str, target: str, batch: str, threads: str) -> None:
    """The measuring process: one engine, one line of JSON."""
    try:
        engine = engines.load(Path(path), Target.parse(target), int(threads) if threads else None)
        fixed = engine.input_shape[0]
        if fixed and int(batch) not in (1, fixed):
            raise errors.UsageError(f"{path} has a fixed batch of {fixed}, not {batch}; leave --batch out.")
        images = _images(engine.input_shape, int(batch))
        samples, warmup, steady = sample(lambda: engine.run(images))
        answer = {"samples": samples, "warmup": warmup, "steady": steady, "properties": dict(engine.properties)}
        answer["batch"] = len(images)
    except EdgeresError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
