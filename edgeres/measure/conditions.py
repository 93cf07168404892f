"""What else the machine did while an engine was measured, from the counters of Linux; elsewhere it is not known."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from edgeres import machine

_BUSY, _STOLEN = (0, 1, 2, 5, 6), 7
"""Columns of /proc/stat: user, nice, system, irq, softirq; steal (guests are in user already), see proc(5)."""
WORKING = 0.1
"""Share of the span that a thread must have run to count as working."""


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, seconds but for `switches`; `threads` by id."""

    now: float
    own: float
    busy: float | None
    stolen: float | None
    switches: int | None
    threads: dict[int, float]


@dataclass(frozen=True)
class Conditions:
    """Means over a span. `others` and `stolen`: cores that other processes and other guests of the host kept busy;
    `switches`: involuntary context switches a second; `threads` that worked, on `cores` that they may use."""

    cores: float
    others: float | None
    stolen: float | None
    switches: float | None
    threads: int


def read(proc: Path = Path("/proc")) -> Reading:
    """The counters now, those of the cores that this process may use."""
    tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    lines = (line.split() for line in _text(proc / "stat").splitlines())
    columns = {name: [int(value) / tick for value in values] for name, *values in lines if name.startswith("cpu")}
    used = [columns[name] for core in allowed if (name := f"cpu{core}") in columns]
    threads = {}
    for task in (proc / "self" / "task").glob("*"):
        after_name = _text(task / "stat").rpartition(")")[2].split()
        if len(after_name) > 12:
            threads[int(task.name)] = (int(after_name[11]) + int(after_name[12])) / tick
    return Reading(
        now=time.monotonic(),
        own=time.process_time(),
        busy=sum(row[column] for row in used for column in _BUSY) if used else None,
        stolen=sum(row[_STOLEN] for row in used) if used else None,
        switches=_switches(),
        threads=threads,
    )


def between(before: Reading, after: Reading) -> Conditions:
    """The conditions from one reading to a later one."""
    span = after.now - before.now
    others = stolen = switches = None
    if before.busy is not None and after.busy is not None:
        others = max(0.0, after.busy - before.busy - (after.own - before.own)) / span
    if before.stolen is not None and after.stolen is not None:
        stolen = (after.stolen - before.stolen) / span
    if before.switches is not None and after.switches is not None:
        switches = (after.switches - before.switches) / span
    ran = [after.threads[one] - before.threads.get(one, 0.0) for one in after.threads]
    return Conditions(machine.capacity(), others, stolen, switches, sum(seconds > WORKING * span for seconds in ran))


def peak_rss_mb() -> float | None:
    """The most memory that this process had resident, MB; None where the system does not tell.

    Linux's ru_maxrss will not do: it begins with what the parent had.
    """
    for line in _text(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _switches() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
