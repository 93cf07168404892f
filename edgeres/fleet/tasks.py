"""What an agent does when it is asked: these functions and no others. They take and give plain data.

Each may be asked for twice, as a retry does: files are known by their SHA-256, and what a job made is an artifact that
is not made again. An error is an answer like any other.
"""

import fcntl
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryFile
from typing import Any

from edgeres import errors, machine, store
from edgeres.errors import EdgeresError, InputError
from edgeres.fleet import unpickling
from edgeres.fleet.objects import LIMIT, Objects

FOLDER, SPACE = "EDGERES_AGENT_FOLDER", "EDGERES_AGENT_SPACE"
"""Environment variables of an agent and its jobs: where files are kept, and how many bytes of them."""
CHILD = "import sys; sys.path[:] = filter(None, sys.path); from edgeres.fleet.jobs import main; main(sys.argv[1])"
KILLED = 9
LOOK = 0.2
"""Seconds between looks at a job."""
STILL = 3600.0
"""Seconds without progress after which a job hangs. How long one takes is the model's and the data's, and a day is
possible; but between two images or two processes that measure are seconds, and an engine is built within minutes."""
Answer = dict[str, Any]
Piece = tuple[str, int, int, bytes]
"""SHA-256 of a file, where in it the bytes begin, how long it is in all, the bytes."""


def objects() -> Objects:
    """The files of this agent."""
    folder = os.environ.get(FOLDER) or Path.home() / ".cache" / "edgeres" / "agent"
    return Objects(Path(folder), int(os.environ.get(SPACE) or LIMIT))


def _answering(function: Callable[..., Any]) -> Callable[..., Answer]:
    @functools.wraps(function)
    def answer(*arguments: Any) -> Answer:
        if unpickling.reading():
            raise UnpicklingError(f"{function.__name__} is called by a scheduler, not by reading a message.")
        try:
            return {"value": function(*arguments)}
        except EdgeresError as error:
            return {"error": type(error).__name__, "message": str(error)}
        except OSError as error:
            return {"error": "EdgeresError", "message": f"{error}; look at the device's disk, then run again."}

    return answer


def value(answer: Answer) -> Any:
    """What was answered; raises the error that was, InputError where it is no answer."""
    if not isinstance(answer, dict) or not {"error", "value"} & {*answer}:
        raise InputError("its answer is none of edgeres'; see which agent runs there.")
    if "error" in answer:
        kind = getattr(errors, str(answer["error"]), EdgeresError)
        kind = kind if isinstance(kind, type) and issubclass(kind, EdgeresError) else EdgeresError
        raise kind(str(answer.get("message", "it failed, and does not say why.")))
    return answer["value"]


@_answering
def facts() -> dict[str, Any]:
    """The version of edgeres, and `schema.Machine`."""
    return {"edgeres": store.versions("edgeres")["edgeres"], "machine": machine.describe().model_dump()}


@_answering
def missing(wanted: Mapping[str, int]) -> dict[str, int]:
    """As `Objects.missing`."""
    with objects().alone() as kept:
        return kept.missing(wanted)


@_answering
def put(pieces: Sequence[Piece]) -> dict[str, int | None]:
    """As `Objects.put`, of several files."""
    with objects().alone() as kept:
        return {piece[0]: kept.put(*piece) for piece in pieces}


@_answering
def job(name: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do one of `edgeres.fleet.jobs` in a process of its own, and give its answer and the files that it names.

    The process may use up the memory, crash in a vendor's runtime or hang in its driver: that is told, and the agent
    lives on. One job at a time, also where one is left from before a connection broke.
    """
    kept = objects()
    kept.folder.mkdir(parents=True, exist_ok=True)
    with kept.lock.open("w") as lock:
        if not _goes_on(lock.fileno(), lambda: _locked(lock.fileno())):
            raise EdgeresError(
                f"a job from before shows no progress for {STILL / 60:.0f} min and does not end; restart the device."
            )
        answer = run(name, request, lock.fileno())
    files = answer.pop("files", [])
    return {**answer, "files": {file: (kept.folder / file).read_bytes() for file in files}}


def run(name: str, request: Mapping[str, Any], lock: int) -> dict[str, Any]:
    """The answer of a job's process, which holds the lock, too; EdgeresError where it died, or hung and was killed."""
    with TemporaryFile("w+") as asked:
        json.dump(request, asked)
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, name],
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[lock],
        )
    said: list[str] = []

    def ended() -> bool:
        with suppress(subprocess.TimeoutExpired):
            said[:] = process.communicate(timeout=LOOK)
        return bool(said)

    if not _goes_on(lock, ended):
        process.kill()
        ended()  # or not: what hangs in a driver does not end by that, and is not waited for
        raise EdgeresError(
            f"the job showed no progress for {STILL / 60:.0f} min on the device and was killed; see what its runtime "
            "hangs at, restart the device, then run again: what was done is not done again."
        )
    try:
        answer: Answer = json.loads(said[0].splitlines()[-1])
    except (IndexError, ValueError):
        last = (said[1].strip().splitlines() or ["it said nothing"])[-1]
        why = "it was killed, most likely for want of memory" if process.returncode == -KILLED else last
        raise EdgeresError(f"the job died with status {process.returncode} on the device: {why}.") from None
    found: dict[str, Any] = value(answer)
    return found


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(LOOK)
        return False
    return True


def _goes_on(lock: int, ended: Callable[[], bool]) -> bool:
    """Wait until it has `ended`, for as long as the job that holds the lock touches that; False where it did not for
    `STILL` seconds. By this process' clock: that of a board without a battery jumps when the network is there."""
    touched, since = 0, time.monotonic()
    while not ended():
        if (now := os.fstat(lock).st_mtime_ns) != touched:
            touched, since = now, time.monotonic()
        if time.monotonic() - since > STILL:
            return False
    return True


TASKS = (facts, missing, put, job)
