"""Latency: raw samples of a warm engine in processes of its own.

Several engines are measured in turn, one fresh process a round, so that what changes on the machine meanwhile changes
for all of them: compare figures of one call, as ratios. The clock is `time.perf_counter_ns`, around the whole call:
host to host. A last process of each engine measures its throughput.

    child.py        what such a process does: warm-up, timed calls, throughput
    conditions.py   what else the machine did meanwhile
    energy.py       the meters of processors, Jetson boards and NVIDIA GPUs
    summary.py      rounds -> figures, and what makes them doubtful
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from edgeres import errors
from edgeres.errors import EdgeresError, UsageError
from edgeres.measure.child import Subject
from edgeres.measure.summary import Measured, summary
from edgeres.types import Target

__all__ = ["Measured", "ROUNDS", "Subject", "measure", "refuse"]

CHILD = "import sys; sys.path[:] = filter(None, sys.path); from edgeres.measure.child import main; main(*sys.argv[1:])"
"""Without the working folder, whose `queue.py` or `statistics.py` would be imported."""
ROUNDS = 5
"""Processes of an engine: three leave the interval of the median too narrow, as they differ."""


def measure(
    subjects: Sequence[Subject],
    rounds: int = ROUNDS,
    progress: Callable[[int], object] = lambda processes: None,
    *,
    throughputs: bool = False,
) -> list[Measured]:
    """Measure engines in turn, `rounds` fresh processes each, and one more where `throughputs` are wanted.

    `progress` is told of each process that is done. Raises what `refuse` and loading the engine raise, and EdgeresError
    where the process dies.
    """
    for subject in subjects:
        refuse(subject.target)
    outcomes: list[list[dict[str, Any]]] = [[] for _ in subjects]
    for _ in range(rounds):
        for subject, outcome in zip(subjects, outcomes, strict=True):
            outcome.append(_in_a_process("latency", subject))
            progress(1)
    found = []
    for subject, outcome in zip(subjects, outcomes, strict=True):
        rates = []
        if throughputs:
            rates = _in_a_process("throughput", subject)["throughputs"]
            progress(1)
        found.append(summary(subject, outcome, rates))
    return found


def refuse(target: Target) -> None:
    """UsageError where a target is emulated: the time is the emulator's, not the device's."""
    if target.emulated:
        raise UsageError(f"target {target}: its latency is not measured: emulated; `edgeres eval` gives its accuracy.")


def _in_a_process(task: str, subject: Subject) -> dict[str, Any]:
    request = {**asdict(subject), "path": str(subject.path), "target": str(subject.target)}
    command = [sys.executable, "-c", CHILD, task, json.dumps(request)]
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
