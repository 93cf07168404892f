"""Files as they are read and written: never more than is asked for, whole or not there."""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from edgeres import locks
from edgeres.errors import EdgeresError, InputError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
TEXT = 1 << 26
"""Bytes of a text that are read at most: reports, recipes, sidecars, lists."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read from; UsageError where it is absent, no file (a folder, a pipe, a device) or not allowed."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no file")
        file = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UsageError(f"{path} cannot be read ({getattr(error, 'strerror', error)}); check the path.") from None
    with file:
        yield file


def read(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file; UsageError as `opened`, InputError where there are more than `most`."""
    with opened(path) as file:
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise InputError(f"{path} is larger than the {most >> 20} MiB that such a file may have; give a smaller one.")
    return content


def read_text(path: Path, most: int = TEXT) -> str:
    """The text of a file, UTF-8; UsageError and InputError as `read`, InputError where it is no text."""
    try:
        return read(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as text ({error}); save it as UTF-8.") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex; UsageError as `opened`."""
    made = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(1 << 20):
            made.update(block)
    return made.hexdigest()


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and move it there in one step, readable as
    `mode` says.

    Readers see the old file or the whole new one, also after a crash of the process or of the machine; on an exception
    the old file stays. UsageError where nothing can be written there, EdgeresError where the disk is full.
    """
    # Of a path that cannot be looked at, os.path says that there is nothing.
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{path} is a folder or a device; name a file.")
    with ExitStack() as stack:
        temporary = _entered(stack, path, locks.temporary(path))
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
            _flush(path.parent)
        except OSError as error:
            if error.filename not in (None, os.fspath(temporary)):
                raise  # of another file
            why = error.strerror or error  # NumPy's own says how much was written
            raise EdgeresError(f"{path} cannot be written ({why}); make room and run again.") from None


@contextmanager
def filling(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Hold a folder for a run that fills it, see `locks.folder`; raises as `replacing`."""
    with ExitStack() as stack:
        _entered(stack, folder, locks.folder(folder, say))
        yield


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Hold a file that is read, changed and written: of two who change it, the second finds what the first wrote.
    Raises as `replacing`."""
    with ExitStack() as stack:
        _entered(stack, path, locks.alone(path.with_name(f"{locks.PREFIX}{path.name}.lock"), path))
        yield


def _entered(stack: ExitStack, path: Path, context: AbstractContextManager[T]) -> T:
    """Enter what makes a file for, and beside, `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return stack.enter_context(context)
    except OSError as error:
        raise _refusal(path, error) from None


def _refusal(path: Path, error: OSError) -> EdgeresError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EdgeresError(f"{path} cannot be written ({error.strerror}); make room and run again.")
    return UsageError(f"{path} cannot be written ({error.strerror}); write elsewhere.")


def _flush(folder: Path) -> None:
    """That a file was moved into a folder lasts once the folder is on the disk. Some systems flush no folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a whole file or nothing."""
    with replacing(path, mode) as temporary:
        temporary.write_bytes(content)


def append(path: Path, line: str) -> None:
    """Add a line to a file and flush it; a crash, or a full disk, can leave part of it. Raises as `replacing`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _refusal(path, error) from None


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, indented, keys as given; whole or not at all. NaN is refused: it is not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """UsageError where the file is absent, InputError where it is not JSON."""
    return parse_json(read(path, TEXT), path)


def parse_json(content: bytes, path: Path) -> Any:
    """What JSON that was read from `path` says; InputError where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); make it again.") from None


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """What TOML that was read from `path` says; InputError where it is none."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML ({error}); mend it.") from None
