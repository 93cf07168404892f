"""Latency: raw samples of a warm engine in processes of its own.

Several engines are measured in turn, one fresh process a round, so that what changes on the machine meanwhile changes
for all of them: compare figures of one call, as ratios. The clock is `time.perf_counter_ns`, around the whole call:
host to host. A last process of each engine measures its throughput. Two that differ by little are told apart by
`ratio`.

    child.py        what such a process does: warm-up, timed calls, throughput, calls under load, the runtime's profile
    conditions.py   what else the machine did meanwhile
    energy.py       the meters of processors, Jetson boards and NVIDIA GPUs
    summary.py      rounds -> figures, and what makes them doubtful
    peaks.py        what the machine can do at most: arithmetic and memory
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeres import processes
from edgeres.backends import LayerTime, RuntimeLayer
from edgeres.errors import EdgeresError, UsageError
from edgeres.measure.child import Subject
from edgeres.measure.summary import Measured, summary
from edgeres.types import Target

__all__ = ["Load", "Measured", "ROUNDS", "Subject", "measure", "profile", "ratio", "refuse", "under_load"]

ROUNDS = 5
"""Processes of an engine: three leave the interval of the median too narrow, as they differ."""


def measure(
    subjects: Sequence[Subject],
    rounds: int = ROUNDS,
    progress: Callable[[int], object] = lambda processes: None,
    *,
    in_place: bool = False,
    throughputs: bool = False,
) -> list[Measured]:
    """Measure engines in turn, `rounds` fresh processes each. `in_place`: also the runtime's own part of a call where
    that takes calls of its own. `throughputs`: these, too, in one more process.

    `progress` is told of each process that is done. Raises what `refuse` and loading the engine raise, and EdgeresError
    where the process dies.
    """
    for subject in subjects:
        refuse(subject.target)
    outcomes: list[list[dict[str, Any]]] = [[] for _ in subjects]
    for _ in range(rounds):
        for subject, outcome in zip(subjects, outcomes, strict=True):
            outcome.append(_in_a_process("in_place" if in_place else "latency", subject))
            progress(1)
    found = []
    for subject, outcome in zip(subjects, outcomes, strict=True):
        rates = []
        if throughputs:
            rates = _in_a_process("throughput", subject)["throughputs"]
            progress(1)
        found.append(summary(subject, outcome, rates))
    return found


def ratio(one: Subject, other: Subject) -> float:
    """How many times as long a call of `other` takes, both measured in one fresh process, a few milliseconds in turn.

    A core that somebody else's work slows for a second slows both: of processes that follow one another the ratio is
    that of their seconds. Raises as `measure`, and UsageError where the two run at different batches.
    """
    for subject in (one, other):
        refuse(subject.target)
    found = _in_a_process("ratio", one, other)
    first, second = found["batches"]
    if first != second:
        raise UsageError(f"{one.path} runs {first} images a call, {other.path} {second}; give engines of one batch.")
    return float(found["ratio"])


@dataclass(frozen=True)
class Load:
    """`streams` callers at once, `batch` images a call: images a second, and the milliseconds of each call, a list for
    each process. `fixed`: the engine has that batch alone."""

    batch: int
    fixed: bool
    streams: int
    images_per_second: float
    samples: tuple[tuple[float, ...], ...]


def under_load(subject: Subject, rounds: int, progress: Callable[[int], object] = lambda processes: None) -> Load:
    """An engine with `subject.streams` callers at once, each of whom asks again as soon as it is answered; raises as
    `measure`. `streams` of the result are those that the runtime really has."""
    found = []
    for _ in range(rounds):
        found.append(_in_a_process("under_load", subject))
        progress(1)
    rate = float(np.mean([one["images_per_second"] for one in found]))
    samples = tuple(tuple(one["samples"]) for one in found)
    return Load(found[0]["batch"], found[0]["fixed"], found[0]["streams"], rate, samples)


def profile(subject: Subject) -> tuple[int, list[LayerTime]]:
    """The images of a call, and how long each layer took of it, clocked by the runtime in a process of its own; raises
    as `measure`, and UsageError where the runtime has no such clock."""
    found = _in_a_process("profile", subject)
    return int(found["batch"]), [_layer_time(one) for one in found["layers"]]


def _layer_time(told: dict[str, Any]) -> LayerTime:
    lists = {name: tuple(told["layer"][name]) for name in ("operators", "origins")}
    return LayerTime(RuntimeLayer(**{**told["layer"], **lists}), told["ms"], told["least"], told["moved"])


def refuse(target: Target) -> None:
    """UsageError where a target is emulated: the time is the emulator's, not the device's."""
    if target.emulated:
        raise UsageError(f"target {target}: its latency is not measured: emulated; `edgeres eval` gives its accuracy.")


def _in_a_process(task: str, *subjects: Subject) -> dict[str, Any]:
    requests = [json.dumps({**asdict(one), "path": str(one.path), "target": str(one.target)}) for one in subjects]

    def broken(status: int, last: str) -> EdgeresError:
        what = " and ".join(f"{one.path} on {one.target}" for one in subjects)
        return EdgeresError(f"measuring {what} died with status {status}: {last}")

    answer: dict[str, Any] = processes.ask("edgeres.measure.child", task, *requests, broken=broken)
    return answer
