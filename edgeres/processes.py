"""Child processes that answer with one line of JSON, and end with the process that asked, however that ends.

Their standard input is a pipe whose other end only the parent holds: the system closes it with the parent.
"""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from edgeres import errors
from edgeres.errors import EdgeresError

CHILD = (
    "import sys; sys.path[:] = filter(None, sys.path); from edgeres.processes import follow; follow(); "
    "from {} import main; main(*sys.argv[1:])"
)
"""Without the working folder, whose `queue.py` or `statistics.py` would be imported."""


def ask(module: str, *arguments: str, broken: Callable[[int, str], EdgeresError]) -> Any:
    """What `main` of a module answers, in a process of its own; raises what it raised, `broken` of the exit status and
    the last line of standard error where it gave no answer, OSError where the disk was full."""
    command = [sys.executable, "-c", CHILD.format(module), *arguments]
    reading, writing = os.pipe()
    try:
        path = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(
            command, stdin=reading, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False
        )
    finally:
        os.close(reading)
        os.close(writing)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise broken(done.returncode, (done.stderr.strip().splitlines() or ["it said nothing"])[-1]) from None
    if "full" in answer:
        raise OSError(answer["full"], os.strerror(answer["full"]))
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer


def answer(work: Callable[[], Mapping[str, Any]]) -> None:
    """In the child process: do the work, and tell what it gives, or the error that it raises."""
    try:
        found = work()
    except EdgeresError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        told = "there is not enough memory for this; use a smaller batch or smaller images, or a larger machine."
        found = {"error": EdgeresError.__name__, "message": told}
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        found = {"full": error.errno}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def follow() -> None:
    """End this process as soon as the one that started it is gone."""

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, name="follow", daemon=True).start()
