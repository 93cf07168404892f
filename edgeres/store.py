"""Files that are whole or not there, and sidecars that say what each was made from.

An artifact `NAME` has a sidecar `NAME.json`: the kind, the SHA-256 of the file itself, of everything it was made
from, the parameters, and the versions of the packages that made it. The *key* of a sidecar is the digest of all that
but the file itself: two steps with one key make the same artifact, so the second is skipped.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from edgeres.errors import EdgeresError, InputError, UsageError

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
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and move it there in one step.

    Readers see the old file or the whole new one, also after a crash; on an exception the old file stays. UsageError
    where nothing can be written there, EdgeresError where the disk is full.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file in it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); write elsewhere.") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise EdgeresError(f"{path} cannot be written ({error.strerror or error}); make room and run again.") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, indented, keys as given; whole or not at all. NaN is refused: it is not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """UsageError where the file is absent, InputError where it is not JSON."""
    try:
        return json.loads(read(path, TEXT))
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
    if not path.exists():
        return None
    content = read_json(path)
    try:
        found = Sidecar(**content)
        dictionaries = (found.inputs, found.parameters, found.results, found.versions)
        texts = (found.kind, found.digest, *found.calibration)
        whole = all(isinstance(part, dict) for part in dictionaries) and isinstance(found.calibration, list | tuple)
        whole = whole and all(isinstance(text, str) for text in texts)
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


def verify(artifact: Path) -> Sidecar:
    """The sidecar of an artifact whose bytes are those that were written; InputError otherwise.

    Called before anything that a runtime would execute is loaded.
    """
    actual = digest(artifact)
    found = read_sidecar(artifact)
    if found is None:
        name = sidecar_path(artifact).name
        raise InputError(f"{artifact} has no sidecar {name}; copy that along with it, or build the engine here again.")
    if actual != found.digest:
        raise InputError(f"{artifact} is not the file that its sidecar describes; build the engine again.")
    return found


def distinct(out: Path, source: Path) -> None:
    """UsageError where a step would write over the file that it reads."""
    if out.resolve() == source.resolve():
        raise UsageError(f"{out} is the file that is read; give another name to write to.")


def make(artifact: Path, sidecar: Sidecar, write: Callable[[Path], Mapping[str, Any] | None]) -> Artifact:
    """Make an artifact, unless it is already there with the same key and its own bytes.

    `write` gets a temporary path and may return results. The sidecar is written after the artifact, so that a crash
    between the two leaves an artifact that is made again.
    """
    try:
        found = read_sidecar(artifact)
    except InputError:
        found = None
    if found and found.key == sidecar.key and artifact.exists() and found.digest == digest(artifact):
        return Artifact(artifact, found, made=False)
    sidecar_path(artifact).unlink(missing_ok=True)
    with replacing(artifact) as temporary:
        results = write(temporary) or {}
    whole = replace(sidecar, results=results, digest=digest(artifact))
    write_json(sidecar_path(artifact), asdict(whole))
    return Artifact(artifact, whole, made=True)
