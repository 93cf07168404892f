"""One writer at a time, and nothing left behind by a process that was killed.

Locks are the system's (flock): they end with the process that holds them, however it ends. What a process has under
way is named `.edgeres.*` and locked by it, so that one that nobody holds is nobody's: the next writer removes it.
Where the system or the file system has no such locks, nobody waits and nothing is removed.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PREFIX = ".edgeres."
LOCK = f"{PREFIX}lock"
"""The lock file of a folder that one run fills."""
SCRATCH = f"{PREFIX}scratch."


def _say(text: str) -> None:
    sys.stderr.write(f"edgeres: {text}\n")


@contextmanager
def alone(path: Path, what: Path, say: Callable[[str], object] = _say) -> Iterator[None]:
    """Hold the lock file `path`, which stands for `what`; while another process does, wait, and say so once.

    OSError where it cannot be made.
    """
    if sys.platform == "win32":
        yield
        return
    handle, waited = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False
    try:
        while True:
            if _lock(handle) is False:
                if not waited:
                    holder = os.pread(handle, 20, 0).decode(errors="replace") or "another"
                    say(f"{what} is being written by process {holder}; waiting until it is done.")
                waited = True
                _lock(handle, wait=True)
            if _stands(handle, path):
                break
            os.close(handle)  # whoever held it has removed it
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        if _stands(handle, path) and _lock(handle) is not False:
            path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def folder(path: Path, say: Callable[[str], object] = _say) -> Iterator[None]:
    """Hold a folder, which is made, for a run that fills it, after `sweep` of it and of its folders; as `alone`."""
    path.mkdir(parents=True, exist_ok=True)
    with alone(path / LOCK, path, say):
        for part in (path, *(one for one in path.iterdir() if one.is_dir())):
            sweep(part)
        yield


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, for what is to replace it; write into it, as another file in its place is not
    locked. It is removed at the end where it is still there. OSError where it cannot be made."""
    sweep(path.parent)
    while True:
        handle, name = tempfile.mkstemp(prefix=f"{PREFIX}{path.name}.", suffix=".tmp", dir=path.parent)
        made, locked = Path(name), _lock(handle)
        if locked and _stands(handle, made):
            break
        os.close(handle)
        if locked is None:
            break
        # Else it was swept before it was locked.
    try:
        yield made
    finally:
        made.unlink(missing_ok=True)
        if locked:
            os.close(handle)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder of this process, removed at the end; those of processes that were killed are removed, too."""
    sweep(Path(tempfile.gettempdir()))
    made = Path(tempfile.mkdtemp(prefix=SCRATCH))
    handle = _open(made)
    if handle is not None:
        _lock(handle)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes of this user left in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry.path) for entry in entries if entry.name.startswith(PREFIX)]:
            handle = _open(path)
            if handle is None:
                continue
            mine = os.fstat(handle).st_uid == os.geteuid()
            if mine and _lock(handle) and _stands(handle, path):
                if path.name.startswith(SCRATCH):
                    shutil.rmtree(path, ignore_errors=True)
                elif path.is_file():
                    path.unlink(missing_ok=True)
            os.close(handle)


def _open(path: Path) -> int | None:
    """A file or folder to lock, None where that is not possible."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, AttributeError):  # Windows has neither folders that open nor these flags
        return None


def _lock(handle: int, wait: bool = False) -> bool | None:
    """True where it is ours now, False where another has it, None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _stands(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
