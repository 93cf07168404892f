"""Sidecars: what each artifact was made from.

An artifact `NAME` has a sidecar `NAME.json`: the kind, the SHA-256 of the file itself, of everything it was made
from, the parameters, and the versions of the packages that made it. The *key* of a sidecar is the digest of all that
but the file itself: two steps with one key make the same artifact, so the second is skipped.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeres import disk, locks, signature
from edgeres.errors import InputError, UsageError


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
    return _sidecar(disk.read(path, disk.TEXT), artifact) if path.exists() else None


def _sidecar(content: bytes, artifact: Path) -> Sidecar:
    path = sidecar_path(artifact)
    values = disk.parse_json(content, path)
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
    return found.calibration if found and found.digest == disk.digest(artifact) else ()


def source(artifact: Path) -> str:
    """`digest` of a file that a step reads; InputError where it has a sidecar that is of other bytes: damaged."""
    found, actual = read_sidecar(artifact), disk.digest(artifact)
    if found and found.digest != actual:
        name = sidecar_path(artifact).name
        raise InputError(f"{artifact} is not the file that {name} describes; make it again, or remove {name}.")
    return actual


def checked(artifact: Path) -> tuple[bytes, Sidecar | None]:
    """The bytes of an artifact and its sidecar, if it has one. Use these bytes: the file may change behind a check.

    InputError where the sidecar describes other bytes, or where this machine demands signatures and none that it trusts
    is of exactly these two files. Called before anything that a runtime would execute is loaded.
    """
    content, beside = disk.read(artifact), sidecar_path(artifact)
    files = [content, disk.read(beside, disk.TEXT)] if beside.exists() else [content]
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
    with disk.changing(artifact):
        if found := _made(artifact, sidecar):
            return Artifact(artifact, found, made=False)
        with disk.replacing(artifact) as temporary:
            results = write(temporary) or {}
        whole = replace(sidecar, results=results, digest=disk.digest(artifact))
        disk.write_json(sidecar_path(artifact), asdict(whole))
    return Artifact(artifact, whole, made=True)


def _made(artifact: Path, sidecar: Sidecar) -> Sidecar | None:
    """The sidecar of an artifact that is there with its own bytes and the same key."""
    try:
        found = read_sidecar(artifact)
    except InputError:
        return None
    same = found and found.key == sidecar.key and artifact.exists() and found.digest == disk.digest(artifact)
    return found if same else None
