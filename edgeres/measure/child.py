"""What a measuring process does with its engine, or with two in turn, told as one line of JSON."""

import gc
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from edgeres import engines, machine, processes
from edgeres.backends import Engine
from edgeres.errors import UsageError
from edgeres.measure import conditions, energy
from edgeres.types import Images, Settings, Target

SAMPLES = 50
"""Fewest timed calls a round."""
SECONDS = 1.0
"""Shortest timed span of a round."""
LONGEST = 20.0
"""A round stops here, however slow the engine, once it has five samples."""
WARM_WINDOW = 10
WARM_CHANGE = 0.02
WARM_LONGEST = 5.0
BATCHES = (1, 4, 16)
"""At which throughput is measured, where the batch is free."""
THROUGHPUT_SECONDS = 0.3
"""Shortest span of one measured throughput."""
LOADED = 400
"""Fewest calls of a round under load: four of them are beyond p99."""
FOURS, TURN = 12, 0.02
"""Times that two engines have their turns, A B B A, and shortest span of one in seconds: what disturbs a machine lasts
longer."""


@dataclass(frozen=True)
class Subject:
    """An engine file to be measured. `threads` None leaves the runtime's default; a fixed batch is the engine's own;
    `settings` are the runtime's own options; `streams` calls are under way at once, where it is `under_load`."""

    path: Path
    target: Target
    batch: int = 1
    threads: int | None = None
    settings: Settings = field(default_factory=dict)
    streams: int = 1


def latency(subject: Subject, in_place: bool = False) -> dict[str, Any]:
    """One round: `samples` and `device` (the device's own part, empty where the runtime does not tell it) in
    milliseconds, the `conditions` meanwhile, what really ran; UsageError where the engine has another fixed batch.
    `in_place`: where the runtime tells its own part in calls of another kind alone, these are made, too."""
    engine, images = _loaded(subject)
    warmup, steady, _ = warm_up(lambda: engine.run(images))
    meter = energy.meter(subject.target.device)
    before, used = conditions.read(), meter and meter()
    samples, device = timed(lambda: engine.run(images), engine.device_ms)
    after, spent = conditions.read(), meter and meter()
    if in_place and not device and (call := engine.in_place(images)):
        device, _ = timed(call, seconds=SECONDS / 4, least=SAMPLES // 5)
    return {
        "samples": samples,
        "device": device,
        "batch": len(images),
        "warmup": warmup,
        "steady": steady,
        "properties": dict(engine.properties) | ({"input": "camera bytes"} if engine.input_type == "uint8" else {}),
        "conditions": asdict(conditions.between(before, after)),
        "peak_rss_mb": conditions.peak_rss_mb(),
        "energy_mj": None if used is None or spent is None else (spent - used) / (len(samples) * len(images)),
    }


def _loaded(subject: Subject) -> tuple[Engine, Images]:
    engine = engines.load(subject.path, subject.target, subject.threads, settings=subject.settings)
    fixed = engine.input_shape[0]
    if fixed and subject.batch not in (1, fixed):
        raise UsageError(f"{subject.path} has a fixed batch of {fixed}, not {subject.batch}; leave --batch out.")
    return engine, pixels(engine, subject.batch)


def ratio(one: Subject, other: Subject) -> dict[str, Any]:
    """The `ratio` of other's latency to one's, measured `in_turn`, and their `batches`; UsageError as `latency`."""
    both = [_loaded(subject) for subject in (one, other)]
    calls = [partial(engine.run, images) for engine, images in both]
    for call in calls:
        warm_up(call)
    return {"ratio": in_turn(*calls), "batches": [len(images) for _, images in both]}


def in_turn(one: Callable[[], object], other: Callable[[], object]) -> float:
    """How many times as long `other` takes: the median, over `FOURS` of turns A B B A, of the ratio of the geometric
    means of B's two medians and A's. In each four either has one turn behind the other's and one behind its own, so
    that what a turn leaves behind falls out. Of slow calls fewer fours, three at least."""

    def turn(call: Callable[[], object]) -> float:
        call()  # the other's turn has cooled the caches, and sent this one's threads to sleep
        return float(np.median(timed(call, seconds=TURN, least=2)[0]))

    turn(one)  # the first that counts stands behind its own, as that of each later four
    ratios: list[float] = []
    start = time.monotonic()
    while len(ratios) < FOURS and (len(ratios) < 3 or time.monotonic() - start < LONGEST):
        a, b, b_again, a_again = turn(one), turn(other), turn(other), turn(one)
        ratios.append((b * b_again / (a * a_again)) ** 0.5)
    return float(np.median(ratios))


def warm_up(call: Callable[[], object]) -> tuple[int, bool, float]:
    """Call until the median of a window no longer falls: (calls, whether that was reached in time, milliseconds)."""
    start = time.monotonic()
    before, calls, steady = float("inf"), 0, False
    while not steady and time.monotonic() - start < WARM_LONGEST:
        now = float(np.median([_timed(call) for _ in range(WARM_WINDOW)]))
        calls += WARM_WINDOW
        steady = now > before * (1 - WARM_CHANGE)
        before = now
    return calls, steady, before


def timed(
    call: Callable[[], object],
    device: Callable[[], float | None] = lambda: None,
    seconds: float = SECONDS,
    least: int = SAMPLES,
) -> tuple[list[float], list[float]]:
    """Milliseconds of each call, for as many `seconds` and calls, and those of the device where `device` tells them
    after a call."""
    samples: list[float] = []
    inner: list[float] = []
    start = time.monotonic()
    gc.disable()
    while (span := time.monotonic() - start) < seconds or len(samples) < least:
        if span > LONGEST and len(samples) >= 5:
            break
        samples.append(_timed(call))
        if (told := device()) is not None:
            inner.append(told)
    gc.enable()
    return samples, inner


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def pixels(engine: Engine, batch: int) -> Images:
    """Pixels of no particular picture, as the engine takes them: a convolution takes as long on any."""
    shape, random = engine.input_shape, np.random.default_rng(0)
    size = (shape[0] or batch, *(side or 1 for side in shape[1:]))
    if engine.input_type == "uint8":
        return random.integers(0, 256, size, np.uint8)
    return random.standard_normal(size, np.float32)


def throughput(subject: Subject) -> dict[str, Any]:
    """Images a second at each batch, call after call and with a stream for each thread, as `schema.Throughput`."""
    found = []
    for streams in dict.fromkeys((1, subject.threads or machine.cores())):
        engine = engines.load(subject.path, subject.target, subject.threads, streams=streams, settings=subject.settings)
        if engine.streams < streams:
            continue
        for batch in (fixed,) if (fixed := engine.input_shape[0]) else BATCHES:
            rate = images_per_second(engine, pixels(engine, batch))
            found.append({"batch": batch, "streams": engine.streams, "images_per_second": rate})
    return {"throughputs": found}


def images_per_second(engine: Engine, images: Images) -> float:
    """With as many calls under way as the engine has streams, after one of each to warm up."""

    def calls() -> Iterator[Images]:
        yield from repeat(images, 2 * engine.streams)
        while time.monotonic() - start < THROUGHPUT_SECONDS:
            yield images

    start = time.monotonic()
    for _ in engine.stream(repeat(images, engine.streams)):
        pass
    start = time.monotonic()
    done = sum(len(logits) for logits in engine.stream(calls()))
    return done / (time.monotonic() - start)


def under_load(subject: Subject) -> dict[str, Any]:
    """One round of callers, one a stream, each of whom asks again as soon as it has its answer: the `samples` in
    milliseconds in the order of their ends, `batch` and whether the engine has it `fixed`, the `streams` that the
    runtime really has, images a second."""
    engine = engines.load(
        subject.path, subject.target, subject.threads, streams=subject.streams, settings=subject.settings
    )
    images = pixels(engine, subject.batch)
    callers = [engine, *(engine.beside() for _ in range(engine.streams - 1))]
    ready, done = threading.Barrier(len(callers)), deque[tuple[float, float]]()
    begun = [0.0] * len(callers)

    def ask(index: int) -> None:
        for _ in range(WARM_WINDOW):
            callers[index].run(images)
        ready.wait()
        start = begun[index] = time.monotonic()
        while (span := time.monotonic() - start) < SECONDS or len(done) < LOADED:
            if span > LONGEST and len(done) >= 5:
                break
            taken = _timed(lambda: callers[index].run(images))
            done.append((time.monotonic(), taken))

    gc.disable()
    with ThreadPoolExecutor(len(callers)) as pool:
        list(pool.map(ask, range(len(callers))))
    gc.enable()
    ended = sorted(done)
    return {
        "samples": [taken for _, taken in ended],
        "batch": len(images),
        "fixed": engine.input_shape[0] is not None,
        "streams": len(callers),
        "images_per_second": len(images) * len(ended) / (ended[-1][0] - min(begun)),
    }


def profile(subject: Subject) -> dict[str, Any]:
    """The `layers` as `backends.LayerTime`, and the `batch`."""
    batches = []

    def given(engine: Engine) -> Images:
        images = pixels(engine, subject.batch)
        batches.append(len(images))
        return images

    found = engines.profile(subject.path, subject.target, given, subject.threads, subject.settings)
    return {"layers": [asdict(one) for one in found], "batch": batches[0]}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "latency": latency,
    "in_place": partial(latency, in_place=True),
    "ratio": ratio,
    "throughput": throughput,
    "under_load": under_load,
    "profile": profile,
}


def main(task: str, *requests: str) -> None:
    """One line of JSON: what one of `TASKS` found with the engines that it takes, or the error."""

    def subject(request: str) -> Subject:
        asked = json.loads(request)
        return Subject(**{**asked, "path": Path(asked["path"]), "target": Target.parse(asked["target"])})

    def work() -> dict[str, Any]:
        return TASKS[task](*map(subject, requests))

    processes.answer(work)
