"""What a process costs: wall time and peak memory."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

INTERVAL = 0.1
"""Seconds between two looks at the memory of a process that has children."""


@dataclass(frozen=True)
class Cost:
    """Of a whole process from start to exit: wall time, and peak memory: of its largest process or, where it had
    several, of all together if that was more, pages that they share counted once. `failed` is its last word."""

    seconds: float
    peak_gb: float
    failed: str = ""


def run(command: Sequence[str | Path]) -> Cost:
    """Run a command of edgeres's own Python. Call it while this process is small: memory that a parent holds counts as
    its child's until the child's own program starts."""
    with TemporaryFile("w+") as said:
        start = time.perf_counter()
        program = [sys.executable, *map(str, command)]
        child = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        ended = threading.Event()
        together: list[int] = [0]
        watcher = threading.Thread(target=_watch, args=(child.pid, ended, together))
        watcher.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - start
        finally:
            ended.set()
            watcher.join()
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = ([line for line in said.read().splitlines() if line.strip()] or ["it said nothing"])[-1][:200]
    failed = f"status {child.returncode}: {last}" if child.returncode else ""
    return Cost(seconds, max(usage.ru_maxrss, *together) / 2**20, failed)


def _watch(root: int, ended: threading.Event, together: list[int]) -> None:
    while not ended.wait(INTERVAL):
        members = _tree(root)
        # One process alone is measured exactly by the kernel, and asking it would slow it down.
        if len(members) > 1:
            together[0] = max(together[0], sum(map(_proportional, members)))


def _tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        children.setdefault(_parent(entry), []).append(int(entry.name))
    members = [root]
    for member in members:
        members += children.get(member, [])
    return members


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return -1


def _proportional(process: int) -> int:
    """Proportional set size in KiB."""
    try:
        return int(Path(f"/proc/{process}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0])
    except (OSError, IndexError):
        return 0
