"""What an engine came from, as a signed statement: SLSA provenance (https://slsa.dev/spec/v1.0/provenance) in in-toto's
Statement v1, gathered from the sidecars.

Its subjects are the engine and its sidecar; `resolvedDependencies` are the files of all steps before, as far as their
sidecars are at hand (in the engine's folder or the one above, where `edgeres run` keeps them), and every image that
calibrated it. A file whose sidecar is not there has the annotation `"origin": "not known"`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgeres import disk, signature, store
from edgeres.errors import InputError, UsageError
from edgeres.store import Sidecar

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
UNKNOWN = {"origin": "not known"}
IMAGE = "calibration image"


class Verified(NamedTuple):
    """A statement, and the public key whose signature it bears."""

    statement: Mapping[str, Any]
    key: Path

    @property
    def dependencies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        return found


def sign(artifact: Path, key: Path) -> Path:
    """Sign an artifact with its sidecar and what is known of its origin; the path of the signature.

    InputError where the sidecar is absent or describes another file; as `signature.seal`.
    """
    out = signature.path(artifact)
    disk.write_bytes(out, signature.seal(json.dumps(statement(artifact)).encode(), key))
    return out


def verify(artifact: Path, keys: Path | None = None) -> Verified:
    """The statement about an artifact, once a signature by one of `keys` (a public key, or a folder of them) is found
    to cover it and its sidecar as they are.

    `keys` None takes those of EDGERES_TRUSTED_KEYS; UsageError where there are none, InputError where the signature or
    a file is another.
    """
    keys = keys or signature.trusted()
    if keys is None:
        raise UsageError(f"verify needs a public key; give --key, or set {signature.TRUSTED}.")
    files = [file for file in (artifact, store.sidecar_path(artifact)) if file.exists() or file == artifact]
    found = Verified(*signature.verify(artifact, [disk.digest(file) for file in files], keys))
    if found.statement.get("predicateType") != PREDICATE:
        raise InputError(f"{signature.path(artifact)} is signed but tells no provenance; sign it with `edgeres sign`.")
    return found


def statement(artifact: Path) -> dict[str, Any]:
    """The in-toto statement about an artifact; InputError where its sidecar is absent or describes another file."""
    digest, sidecar = disk.digest(artifact), store.read_sidecar(artifact)
    if sidecar is None or sidecar.digest != digest:
        raise InputError(f"{artifact} is not a file that a sidecar beside it describes; make it again, then sign.")
    steps = dict(_steps(sidecar, _sidecars(artifact)))
    dependencies = [*steps.values(), *(_resource(IMAGE, digest) for digest in sidecar.calibration)]
    version = sidecar.versions.get("edgeres", "")
    files = (artifact, store.sidecar_path(artifact))
    return {
        "_type": STATEMENT,
        "subject": [_resource(file.name, disk.digest(file)) for file in files],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": f"pkg:pypi/edgeres#{sidecar.kind}",
                "externalParameters": dict(sidecar.parameters),
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": f"pkg:pypi/edgeres@{version}", "version": dict(sidecar.versions)},
                "byproducts": [{"name": "results", "annotations": dict(sidecar.results)}],
            },
        },
    }


def _sidecars(artifact: Path) -> dict[str, Sidecar]:
    """SHA-256 of a file -> what its sidecar says, of all files near an artifact."""
    found = {}
    for folder in (artifact.absolute().parent, artifact.absolute().parent.parent):
        for path in sorted(folder.glob("*.json")):
            if not path.with_suffix("").is_file():
                continue
            try:
                sidecar = store.read_sidecar(path.with_suffix(""))
            except (InputError, UsageError):  # somebody else's
                continue
            if sidecar:
                found[sidecar.digest] = sidecar
    return found


def _steps(sidecar: Sidecar, known: Mapping[str, Sidecar]) -> Iterator[tuple[str, dict[str, Any]]]:
    """SHA-256 of everything that a sidecar's file was made from -> its entry, and what that was made from."""
    for role, digest in sidecar.inputs.items():
        step = known.get(digest)
        if step is None:
            yield digest, _resource(role, digest, UNKNOWN)
            continue
        told = {"kind": step.kind, "madeFrom": step.inputs, "parameters": step.parameters}
        yield digest, _resource(role, digest, {**told, "versions": step.versions, "results": step.results})
        yield from _steps(step, {other: known[other] for other in known if other != digest})


def _resource(name: str, digest: str, annotations: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """in-toto's ResourceDescriptor."""
    told = {"annotations": dict(annotations)} if annotations else {}
    return {"name": name, "digest": {"sha256": digest}, **told}
