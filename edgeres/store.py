"""Files that are whole or not there, and sidecars that say what each was made from.

An artifact `NAME` has a sidecar `NAME.json`: the kind, the SHA-256 of the file itself, of everything it was made
from, the parameters, and the versions of the packages that made it. The *key* of a sidecar is the digest of all that
but the file itself: two steps with one key make the same artifact, so the second is skipped.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from edgeres import locks, signature
from edgeres.errors import EdgeresError, InputError, UsageError

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
    if os.path.isdir(path):  # which a path that cannot be looked at is not
        raise UsageError(f"{path} is a folder; name a file in it.")
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
    return _json(read(path, TEXT), path)


def _json(content: bytes, path: Path) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); make it again.") from None


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package, `absent` where it is not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


@dataclass(frozen=True)
class Sidecar:
    """What an artifact was made from. `inputs` maps a role to a SHA-256; `parameters` and `results` are plain JSON.

    `results` is what the step found while making it, such as the parity of an export: not part of the key.
    `calibration` holds the SHA-256 of each image that the artifact was calibrated on, here or by what it was made from.
    """

    kind: str
    inputs: Mapping[str, str]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    calibration: Sequence[str] = ()
    digest: str = ""

    @property
    def key(self) -> str:
        """The digest of everything that decides what the artifact will be."""
        content = {"kind": self.kind, "inputs": self.inputs, "parameters": self.parameters, "versions": self.versions}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A file with its sidecar; `made` tells whether it was made just now, or was there with the same key."""

    path: Path
    sidecar: Sidecar
    made: bool


def sidecar_path(artifact: Path) -> Path:
    """Where the sidecar of an artifact stands."""
    return artifact.with_name(f"{artifact.name}.json")


def read_sidecar(artifact: Path) -> Sidecar | None:
    """The sidecar of an artifact, None where it has none; InputError where it is damaged."""
    path = sidecar_path(artifact)
    return _sidecar(read(path, TEXT), artifact) if path.exists() else None


def _sidecar(content: bytes, artifact: Path) -> Sidecar:
    path = sidecar_path(artifact)
    values = _json(content, path)
    try:
        found = Sidecar(**values)
        dictionaries = (found.inputs, found.parameters, found.results, found.versions)
        whole = all(isinstance(part, dict) for part in dictionaries) and isinstance(found.calibration, list | tuple)
        whole = whole and all(isinstance(text, str) for text in (found.kind, found.digest, *found.calibration))
    except TypeError:
        whole = False
    if not whole:
        raise InputError(f"{path} is not a sidecar of edgeres; make {artifact.name} again.")
    return found


def calibration(artifact: Path) -> Sequence[str]:
    """The SHA-256 of each image that an artifact was calibrated on; none where no sidecar of these very bytes tells."""
    found = read_sidecar(artifact)
    return found.calibration if found and found.digest == digest(artifact) else ()


def source(artifact: Path) -> str:
    """`digest` of a file that a step reads; InputError where it has a sidecar that is of other bytes: damaged."""
    found, actual = read_sidecar(artifact), digest(artifact)
    if found and found.digest != actual:
        name = sidecar_path(artifact).name
        raise InputError(f"{artifact} is not the file that {name} describes; make it again, or remove {name}.")
    return actual


def checked(artifact: Path) -> tuple[bytes, Sidecar | None]:
    """The bytes of an artifact and its sidecar, if it has one. Use these bytes: the file may change behind a check.

    InputError where the sidecar describes other bytes, or where this machine demands signatures and none that it trusts
    is of exactly these two files. Called before anything that a runtime would execute is loaded.
    """
    content, beside = read(artifact), sidecar_path(artifact)
    files = [content, read(beside, TEXT)] if beside.exists() else [content]
    digests = [hashlib.sha256(file).hexdigest() for file in files]
    if keys := signature.trusted():
        signature.verify(artifact, digests, keys)
    found = _sidecar(files[1], artifact) if files[1:] else None
    if found and found.digest != digests[0]:
        raise InputError(f"{artifact} is not the file that its sidecar describes; build the engine again.")
    return content, found


def verify(artifact: Path) -> Sidecar:
    """The sidecar of an artifact; InputError where it has none, and as `checked`."""
    _, found = checked(artifact)
    if found is None:
        name = sidecar_path(artifact).name
        raise InputError(f"{artifact} has no sidecar {name}; copy that along with it, or build the engine here again.")
    return found


def distinct(out: Path, source: Path) -> None:
    """UsageError where a step would write over the file that it reads."""
    if out.resolve() == source.resolve():
        raise UsageError(f"{out} is the file that is read; give another name to write to.")


def make(artifact: Path, sidecar: Sidecar, write: Callable[[Path], Mapping[str, Any] | None]) -> Artifact:
    """Make an artifact, unless it is already there with the same key and its own bytes.

    `write` gets a temporary path and may return results. One process at a time makes it: a second one waits, and finds
    it made. The sidecar is written after the artifact: a crash between the two leaves an artifact that the old sidecar
    does not describe, which is made again.
    """
    locks.sweep(artifact.parent)
    if found := _made(artifact, sidecar):
        return Artifact(artifact, found, made=False)
    with changing(artifact):
        if found := _made(artifact, sidecar):
            return Artifact(artifact, found, made=False)
        with replacing(artifact) as temporary:
            results = write(temporary) or {}
        whole = replace(sidecar, results=results, digest=digest(artifact))
        write_json(sidecar_path(artifact), asdict(whole))
    return Artifact(artifact, whole, made=True)


def _made(artifact: Path, sidecar: Sidecar) -> Sidecar | None:
    """The sidecar of an artifact that is there with its own bytes and the same key."""
    try:
        found = read_sidecar(artifact)
    except InputError:
        return None
    same = found and found.key == sidecar.key and artifact.exists() and found.digest == digest(artifact)
    return found if same else None
